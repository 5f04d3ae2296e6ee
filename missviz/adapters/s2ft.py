"""S2FT, structured sparse fine-tuning: a few whole columns or rows of W are trained, in full."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import Product, apply_linear
from missviz.adapters.validation import among, at_most, positive_int, store


@dataclass(frozen=True)
class S2FT(Method):
    """ΔW is M on the selected columns (or rows) of W and zero elsewhere. M = 0 at first, s = 1.

        select="columns"   ΔW[:, idx] = M   trains columns of W, M is d × r: a few inputs
        select="rows"      ΔW[idx, :] = M   trains rows of W, M is r × k: a few outputs

    So ΔW x = M x[idx] for columns; for rows it is M x in the places idx. Training columns is
    ΔW = M F with F frozen, like `FixedFactor(r, "columns")`, where idx is always 0 … r − 1.

    The names are a trap: the authors' `S2RowLinear`, for layers such as `down_proj`, trains
    columns of W, and their `S2ColumnLinear` trains rows.

    Args:
        rank: how many columns or rows are trained (s in the paper; a rank, as ΔW has this rank).
        select: "columns" or "rows".
        order: "random" draws idx from the generator; "given" takes 0 … rank − 1, for layers whose
            features are in order already. The authors permute each block of a transformer so that
            what they select comes to stand together; on one layer that changes nothing.

    Source: `s2.py` of Infini-AI-Lab/S2FT.
    """

    styles: ClassVar = {"S2FT": ("sky", (6, 1, 30), "very long")}

    rank: int
    select: Literal["columns", "rows"] = "columns"
    order: Literal["random", "given"] = "random"

    def __post_init__(self) -> None:
        store(self, rank=positive_int)
        store(self, select=among("columns", "rows"), order=among("random", "given"))

    @property
    def name(self) -> str:
        order = " given" if self.order == "given" else ""
        return f"S2FT {self.select}{order} r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features if self.select == "columns" else in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        if self.select == "columns":
            at_most("rank", self.rank, "in_features", in_features)
        else:
            at_most("rank", self.rank, "out_features", out_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "S2FTAdapter":
        columns = self.select == "columns"
        return (ColumnsS2FTAdapter if columns else RowsS2FTAdapter)(self, base, generator)


class S2FTAdapter(Adapter):
    """M, and idx: where it stands in W, in ascending order."""

    stackable = True
    method: S2FT
    idx: Tensor

    def select(self, size: int, generator: torch.Generator) -> None:
        """Keep as idx which of `size` columns or rows are trained."""
        if self.method.order == "given":
            chosen = torch.arange(self.method.rank)
        else:
            shuffled = torch.randperm(size, generator=generator, device=generator.device)
            chosen = shuffled[: self.method.rank].sort().values
        self.register_buffer("idx", chosen.to(self.base.weight.device))

    def selection(self, size: int) -> Float[Tensor, "*member r size"]:
        """F with F[i, j] = 1 iff idx_i = j."""
        return nn.functional.one_hot(self.idx, size).to(self.base.weight)

    def places(self, like: Float[Tensor, "*member n size"]) -> Int[Tensor, "*member n r"]:
        """idx for each row of `like`; members have an idx each."""
        return self.idx.unsqueeze(-2).expand(*like.shape[:-1], -1)


class ColumnsS2FTAdapter(S2FTAdapter):
    """ΔW[:, idx] = M (d × r)."""

    def __init__(self, method: S2FT, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        self.select(self.in_features, generator)
        self.M = self.zeros(self.out_features, method.rank)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        return self.M, self.selection(self.in_features)

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        y, x = super().frozen(x)
        return y, x.gather(-1, self.places(x))

    def correction(self, z: Float[Tensor, "*member n r"]) -> Product:
        return Product(self.M, z)


class RowsS2FTAdapter(S2FTAdapter):
    """ΔW[idx, :] = M (r × k)."""

    def __init__(self, method: S2FT, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        self.select(self.out_features, generator)
        self.M = self.zeros(method.rank, self.in_features)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        return self.selection(self.out_features).mT, self.M

    def correction(self, z: Float[Tensor, "*member n in_"]) -> Float[Tensor, "*member n out"]:
        made = apply_linear(z, self.M)
        empty = made.new_zeros(*made.shape[:-1], self.out_features)
        return empty.scatter(-1, self.places(made), made)
