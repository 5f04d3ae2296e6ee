"""FixedFactor: ΔW = D F with F frozen. The family that MiSS, LoRA-FA and S2FT belong to."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import Product, apply_linear
from missviz.adapters.shards import shard_matrix
from missviz.adapters.validation import (
    among,
    at_most,
    optional,
    positive_float,
    positive_int,
    store,
)
from missviz.randomness import normal

FACTORS = ("tiled", "block", "orthogonal", "gaussian", "columns")


@dataclass(frozen=True)
class FixedFactor(Method):
    """ΔW = D F with D (d × r) = 0 at first and F (r × k) fixed: the control for claims on MiSS.

    Args:
        rank: r, at most in_features.
        factor: what F is.
            "tiled": F[i, j] = 1 iff j mod r = i; ΔW is MiSS (Eq. 4-7) exactly.
            "block": F[i, j] = 1 iff j lies in block i of r; MiSS in its block layout.
            "orthogonal": r random orthonormal rows.
            "gaussian": entries N(0, 1/k), so that rows have length 1 on average.
            "columns": the first r rows of the identity; ΔW touches columns 0 … r − 1 only (S2FT).
        gain: root mean square singular value of F, ‖F‖_F / √r. None leaves F as above: √(k/r)
            for tiled and block, 1 for orthogonal and columns, about 1 for gaussian.

    With a frozen F, gain is a unit: c times the gain is the same training as c² times the
    learning rate under SGD, and c times it under Adam.
    """

    styles: ClassVar = {
        "fixed orthogonal": ("orange", "v", "dashdotdot"),
        "fixed gaussian": ("yellow", (6, 1, 0), "dashdot"),
        "fixed columns": ("sky", "bar", "long-short"),
    }

    rank: int
    factor: Literal["tiled", "block", "orthogonal", "gaussian", "columns"] = "tiled"
    gain: float | None = None

    def __post_init__(self) -> None:
        store(self, rank=positive_int, factor=among(*FACTORS), gain=optional(positive_float))

    @property
    def name(self) -> str:
        gain = "" if self.gain is None else f" gain={self.gain:g}"
        return f"fixed {self.factor} r={self.rank}{gain}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return out_features * self.rank

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        at_most("rank", self.rank, "in_features", in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "FixedFactorAdapter":
        return FixedFactorAdapter(self, base, generator)


class FixedFactorAdapter(Adapter):
    """D (d × r), trained, and F (r × k), fixed."""

    stackable = True
    F: Tensor

    def __init__(self, method: FixedFactor, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        fixed = make_factor(method.factor, method.rank, self.in_features, generator)
        if method.gain is not None:
            fixed = fixed * (method.gain * math.sqrt(method.rank) / torch.linalg.norm(fixed))
        self.register_buffer("F", fixed.to(base.weight))
        self.D = self.zeros(self.out_features, method.rank)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        return self.D, self.F

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        y, x = super().frozen(x)
        return y, apply_linear(x, self.F)

    def correction(self, z: Float[Tensor, "*member n r"]) -> Product:
        return Product(self.D, z)


def make_factor(
    factor: str, rank: int, in_features: int, generator: torch.Generator
) -> Float[Tensor, "r in_"]:
    """F in float64 at its natural gain."""
    if factor == "columns":
        return torch.eye(rank, in_features, dtype=torch.float64)
    if factor in ("tiled", "block"):
        return shard_matrix(in_features, rank, factor, torch.empty(0, dtype=torch.float64))
    drawn = normal((rank, in_features), 1 / math.sqrt(in_features), generator)
    if factor == "gaussian":
        return drawn
    return torch.linalg.qr(drawn.mT).Q.mT
