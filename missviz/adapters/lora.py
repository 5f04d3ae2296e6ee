"""LoRA: ΔW is a product of two thin matrices (LoRA Eq. 3; MiSS Eq. 1)."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.linear import Product, apply_linear
from missviz.adapters.scaled import ScaledMethod
from missviz.adapters.validation import among, boolean, positive_float, store
from missviz.randomness import normal, uniform


@dataclass(frozen=True)
class LoRA(ScaledMethod):
    """ΔW = s · B A with B (d × r) = 0 and A (r × k) random at first; s = α / r.

    Args:
        rank: r, at most min(out, in): beyond it parameters grow and reach does not.
        alpha: α in the scaling s; None means α = r, so that s = 1 (√r with `rslora`).
        rslora: rank-stabilised scaling, s = α / √r.
        init: A's entries at first. "kaiming" is U(−1/√k, 1/√k), PEFT's default;
            "gaussian" is N(0, 1/r²), PEFT's `init_lora_weights="gaussian"`.
        freeze_a: keep A as drawn and train only B. This is LoRA-FA; ΔW is then linear in B.

    Source: LoRA Eq. 3; `peft/tuners/lora/layer.py`.
    """

    styles: ClassVar = {
        "LoRA": ("blue", "o", "short"),
        "rsLoRA": ("cyan", "<", "long-short"),
        "LoRA-FA": ("sky", "d", "dots"),
    }

    rslora: bool = False
    init: Literal["kaiming", "gaussian"] = "kaiming"
    freeze_a: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, rslora=boolean, init=among("kaiming", "gaussian"), freeze_a=boolean)

    @property
    def family(self) -> str:
        return ("rs" if self.rslora else "") + "LoRA" + ("-FA" if self.freeze_a else "")

    @property
    def name(self) -> str:
        return super().name + ("" if self.init == "kaiming" else f" {self.init}")

    @property
    def scaling(self) -> float:
        """s = α / r, or α / √r with `rslora`."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + (0 if self.freeze_a else in_features))

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "LoRAAdapter":
        kind = FrozenALoRAAdapter if self.freeze_a else LoRAAdapter
        return kind(self, base, generator)


@dataclass(frozen=True)
class BigLoRA(LoRA):
    """LoRA at rank 1024 ("BigLoRA" in DiSHA, arXiv 2409.15371v6, §9.1).

    The only LoRA here that may have more rank than the layer: on such a layer ΔW reaches
    everything, with more parameters than full fine-tuning.
    """

    styles: ClassVar = {"BigLoRA": ("mauve", "house", "wide dots")}

    rank: int = 1024

    @property
    def family(self) -> str:
        return "Big" + super().family

    def check_shape(self, out_features: int, in_features: int) -> None:
        pass


@dataclass(frozen=True)
class LoRAPlus(LoRA):
    """LoRA+: a LoRA whose B learns at λ times the rate of A, λ = `ratio`.

    At B = 0 it is LoRA's function, and its first step moves B alone, λ times as far. The rate
    counts where a loop asks for it: in `missviz.param_groups` and all of `missviz.experiments`.

    Args:
        rank, alpha, rslora, init: as in `LoRA`. freeze_a is refused: without a rate of A, λ would
            only be another learning rate.
        ratio: λ. 16 is this library's choice; PEFT has no default.

    Source: `create_loraplus_optimizer` in `peft/optimizers/loraplus.py`, which also gives B's rate
    to all one-dimensional parameters; here they keep A's. The paper was not checked.
    """

    styles: ClassVar = {"LoRA+": ("cyan", "tee", "triples")}

    ratio: float = field(default=16.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, ratio=positive_float)
        if self.freeze_a:
            raise ValueError(
                f"freeze_a=True leaves A no rate for ratio={self.ratio:g} to multiply; "
                "use LoRA(freeze_a=True) with a larger learning rate"
            )

    @property
    def family(self) -> str:
        return super().family + "+"

    @property
    def name(self) -> str:
        return super().name + ("" if self.ratio == 16 else f" λ={self.ratio:g}")

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "LoRAPlusAdapter":
        return LoRAPlusAdapter(self, base, generator)


class LoRAAdapter(Adapter):
    """A (r × k) and B (d × r)."""

    stackable = True
    method: LoRA

    def __init__(self, method: LoRA, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        shape = (method.rank, self.in_features)
        if method.init == "kaiming":
            drawn = uniform(shape, 1 / math.sqrt(self.in_features), generator)
        else:
            drawn = normal(shape, 1 / method.rank, generator)
        self.A = self.parameter(drawn).requires_grad_(not method.freeze_a)
        self.B = self.zeros(self.out_features, method.rank)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        return self.method.scaled(self.B), self.A


class FrozenALoRAAdapter(LoRAAdapter):
    """LoRA-FA: A stays as drawn, so that A x is frozen."""

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        y, x = super().frozen(x)
        return y, apply_linear(x, self.A)

    def correction(self, z: Float[Tensor, "*member n r"]) -> Product:
        return Product(self.method.scaled(self.B), z)


class LoRAPlusAdapter(LoRAAdapter):
    """LoRA's A and B, with a rate of B's own."""

    method: LoRAPlus

    def rate_multiplier(self, parameter: str) -> float:
        return self.method.ratio if parameter == "B" else 1.0
