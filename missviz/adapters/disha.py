"""DiSHA, the frame around MiSS: one small D of any shape, repeated until it has W's shape."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import apply_linear
from missviz.adapters.shards import copies_of, shard_sums, spread
from missviz.adapters.validation import divides, positive_int, store


@dataclass(frozen=True)
class DiSHA(Method):
    """ΔW = expand(D): W is tiled with copies of D (r₁ × r₂). D = 0 at first, no scaling.

        ΔW[i, j] = D[i mod r₁, j mod r₂], so ΔW x = the tile D S repeated, S = block sums of x

    Members that have names, where D tiles W: MiSS r is DiSHA(out, r), MiSS with shared rows in
    its tiled layout DiSHA(N, in), MiSS mini DiSHA(mini, r), frozen fine-tuning DiSHA(out, in).

    Args:
        rows: r₁, must divide out_features.
        columns: r₂, must divide in_features. MiSS itself takes any r: it cuts off the last copy.

    Source: DiSHA (arXiv 2409.15371v6) §3; MiSS (v12) Eq. 2. Of the frame only this expansion is
    there: copies side by side, all alike.
    """

    styles: ClassVar = {"DiSHA": ("amber", (9, 0, 0), "long-dots")}

    rows: int
    columns: int

    def __post_init__(self) -> None:
        store(self, rows=positive_int, columns=positive_int)

    @property
    def name(self) -> str:
        return f"DiSHA {self.rows}×{self.columns}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rows * self.columns

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rows, self.columns)

    def check_shape(self, out_features: int, in_features: int) -> None:
        divides("rows", self.rows, out_features=out_features)
        divides("columns", self.columns, in_features=in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "DiSHAAdapter":
        return DiSHAAdapter(self, base)


class DiSHAAdapter(Adapter):
    """D (r₁ × r₂)."""

    stackable = True
    method: DiSHA

    def __init__(self, method: DiSHA, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.D = self.zeros(method.rows, method.columns)

    def delta(self) -> Float[Tensor, "*member out in_"]:
        wide = spread(self.D, self.in_features, "tiled")
        return spread(wide.mT, self.out_features, "tiled").mT

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        return copies_of(self.D, self.out_features, self.in_features, "tiled")

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        """W₀ x + b, and S, the block sums of x."""
        y, x = super().frozen(x)
        return y, shard_sums(x, self.method.columns, "tiled")

    def correction(self, z: Float[Tensor, "*member n columns"]) -> Float[Tensor, "*member n out"]:
        return spread(apply_linear(z, self.D), self.out_features, "tiled")
