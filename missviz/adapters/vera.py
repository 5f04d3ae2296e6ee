"""VeRA: two random matrices for the whole model, frozen; each layer trains two vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import Product, apply_linear
from missviz.adapters.validation import among, positive_float, positive_int, store
from missviz.randomness import uniform


@dataclass(frozen=True)
class VeRA(Method):
    """ΔW = diag(b) B diag(v) A: A (r × k) and B (d × r) random and frozen, v and b trained.

    All layers of a model use the same A and B. They are as large as the widest layer needs, so
    A is drawn r × k_max and B d_max × r; a smaller layer takes the first k columns and the first d
    rows. b (d,) = 0 at first and v (r,) = `d_initial`.

    Args:
        rank: r. It costs one number each, so it may well exceed min(out, in).
        d_initial: the start of every entry of v.
        init: what A and B are drawn from. "kaiming" is U(±√(6/k_max)) and U(±√(6/r)), PEFT's;
            "linear" is nn.Linear's own, U(±1/√k_max) and U(±1/√r), which the script of MiSS's
            authors has: ΔW is then six times smaller.

    PEFT calls v `vera_lambda_d` and b `vera_lambda_b`.
    Source: VeRA Eq. 2; `peft/tuners/vera/layer.py` and `model.py`; `monitor.py` of Joluck/MiSS.
    """

    styles: ClassVar = {"VeRA": ("indigo", "*", "long-dots")}

    rank: int = 256
    d_initial: float = 0.1
    init: Literal["kaiming", "linear"] = "kaiming"

    def __post_init__(self) -> None:
        store(self, rank=positive_int, d_initial=positive_float, init=among("kaiming", "linear"))

    @property
    def name(self) -> str:
        start = "" if self.d_initial == 0.1 else f" d_initial={self.d_initial:g}"
        return f"VeRA r={self.rank}{start}" + ("" if self.init == "kaiming" else f" {self.init}")

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return out_features + self.rank

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def shared(
        self, layers: Sequence[nn.Linear], generator: torch.Generator
    ) -> dict[nn.Linear, tuple[nn.Parameter, nn.Parameter]]:
        """For each layer the A (r × k_max) and B (d_max × r) of its dtype and device."""
        widest = max(layer.in_features for layer in layers)
        tallest = max(layer.out_features for layer in layers)
        squared = 6 if self.init == "kaiming" else 1
        A = uniform((self.rank, widest), math.sqrt(squared / widest), generator)
        B = uniform((tallest, self.rank), math.sqrt(squared / self.rank), generator)
        # Mostly one pair; layers of another dtype or on another device have the same numbers there.
        pairs: dict[tuple[torch.dtype, torch.device], tuple[nn.Parameter, nn.Parameter]] = {}
        for layer in layers:
            kind = layer.weight.dtype, layer.weight.device
            if kind not in pairs:
                pairs[kind] = _frozen(A, layer.weight), _frozen(B, layer.weight)
        return {layer: pairs[layer.weight.dtype, layer.weight.device] for layer in layers}

    def adapter(
        self, base: nn.Linear, generator: torch.Generator, shared: Any = None
    ) -> "VeRAAdapter":
        return VeRAAdapter(self, base, *shared[base])


def _frozen(values: Tensor, like: Tensor) -> nn.Parameter:
    # A parameter and not a buffer: what several modules hold then stays one tensor when moved.
    return nn.Parameter(values.to(like), requires_grad=False)


class VeRAAdapter(Adapter):
    """v (r,) and b (d,), trained, beside A and B, which all adapters of the model hold."""

    stackable = True
    method: VeRA

    def __init__(self, method: VeRA, base: nn.Linear, A: nn.Parameter, B: nn.Parameter) -> None:
        super().__init__(method, base)
        self.A, self.B = A, B
        self.v = self.parameter(base.weight.new_full((method.rank,), method.d_initial))
        self.b = self.zeros(self.out_features)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        A, B = self.A[..., : self.in_features], self.B[..., : self.out_features, :]
        return self.b.unsqueeze(-1) * B * self.v.unsqueeze(-2), A

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        y, x = super().frozen(x)
        return y, apply_linear(x, self.factors()[1])

    def correction(self, z: Float[Tensor, "*member n r"]) -> Product:
        return Product(self.factors()[0], z)
