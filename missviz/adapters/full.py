"""Full fine-tuning: ΔW has every freedom. Two parametrisations of the same thing."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.validation import boolean, store


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Train W itself, starting at W₀: ΔW = W − W₀ (d × k).

    Args:
        bias: train the bias too, as the MiSS paper's published experiment does.
    """

    styles: ClassVar = {"full fine-tuning": ("black", "s", "long")}

    bias: bool = False

    def __post_init__(self) -> None:
        store(self, bias=boolean)

    @property
    def name(self) -> str:
        return "full fine-tuning" + (" + bias" if self.bias else "")

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return out_features * in_features + (out_features if self.bias else 0)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "FullFineTuningAdapter":
        if self.bias and base.bias is None:
            raise ValueError("bias=True, but the linear layer has no bias; use bias=False")
        return FullFineTuningAdapter(self, base)


class FullFineTuningAdapter(Adapter):
    """W (d × k), a trainable copy of W₀, and the bias where it is trained."""

    stackable = True

    def __init__(self, method: FullFineTuning, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.W = nn.Parameter(base.weight.detach().clone())
        self.b = nn.Parameter(base.bias.detach().clone()) if method.bias else None

    @property
    def weight(self) -> Float[Tensor, "*member out in_"]:
        return self.W

    @property
    def bias(self) -> Float[Tensor, "*member out"] | None:
        return self.base.bias if self.b is None else self.b

    def delta(self) -> Float[Tensor, "*member out in_"]:
        return self.W - self.base.weight

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        # W x is one product; W₀ x + (W − W₀) x would be two.
        return self.through_weight(x)


@dataclass(frozen=True)
class FrozenFineTuning(Method):
    """Keep W₀ frozen and train a full matrix beside it: ΔW = M (d × k), M = 0 at first.

    The same function, gradient and (without weight decay) trajectory as `FullFineTuning`:
    ∂L/∂M = ∂L/∂W. "Frozen FT" in DiSHA (arXiv 2409.15371v6) §9.1.
    """

    styles: ClassVar = {"frozen fine-tuning": ("aqua", (4, 0, 22.5), "wide dots")}

    @property
    def name(self) -> str:
        return "frozen fine-tuning"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return out_features * in_features

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "FrozenFineTuningAdapter":
        return FrozenFineTuningAdapter(self, base)


class FrozenFineTuningAdapter(Adapter):
    """M (d × k), zero at first."""

    stackable = True

    def __init__(self, method: FrozenFineTuning, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.M = self.zeros(self.out_features, self.in_features)

    def delta(self) -> Float[Tensor, "*member out in_"]:
        return self.M
