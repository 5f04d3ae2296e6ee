"""MiSS, Matrix Shard Sharing (arXiv 2409.15371v12): a small D, copied until it has W's shape."""

import datetime
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.bat import Bat
from missviz.adapters.linear import Product, apply_linear
from missviz.adapters.shards import LAYOUTS, Layout, copies_of, shard_owner, shard_sums, spread
from missviz.adapters.validation import (
    among,
    at_most,
    divides,
    fill,
    optional,
    positive_int,
    store,
)


@dataclass(frozen=True)
class MiSS(Method):
    """ΔW = expand(D): every entry of D stands at many places of W. D = 0 at first, no scaling.

    The paper has two structures under one name, and each can be laid out in two ways:

        share="columns"   ΔW[i, j] = D[i, owner(j)]   D is d × r   Eq. 4-7; PEFT's default
        share="rows"      ΔW[i, j] = D[owner(i), j]   D is r × k   Eq. 2-3, where r is called N

        layout="tiled"    owner(j) = j mod r          Eq. 4; PEFT. A short last shard is cut off
        layout="block"    owner(j) = block of j       Eq. 3, and the prose after Eq. 7

    Columns that share an entry see x only through its sum, so ΔW x = D S with S = shard sums of x
    (Eq. 6-7): no ΔW is built. That is `form="efficient"`.

    Args:
        rank: r, the number of different columns (or rows) that ΔW can have.
        share: "columns" or "rows".
        layout: None means tiled for columns and block for rows, as in the paper's two equations.
        form: "efficient", or "expand" to build ΔW in every forward (the paper's Fig. 3). The
            same function either way; it counts neither for equality nor for the name.
        mini: also share rows, so that D is mini × r: ΔW[i, j] = D[i mod mini, j mod r]. PEFT's
            `init_weights="mini"` with `mini_r=mini`; must divide out_features. For tiled columns
            only. PEFT's default mini_r=1 is an update of rank 1.

    PEFT stores `miss_block` = Dᵀ. Source: MiSS Eq. 2-7; `peft/tuners/miss/layer.py`.
    """

    styles: ClassVar = {
        "MiSS": ("red", "D", "solid"),
        "MiSS block": ("mauve", "hourglass", "short-dots"),
        "MiSS rows": ("olive", "slab", "dashdotdot"),
        "MiSS mini": ("mint", "bow tie", "dots"),
    }

    rank: int
    share: Literal["columns", "rows"] = "columns"
    layout: Layout | None = None
    form: Literal["efficient", "expand"] = field(default="efficient", compare=False)
    mini: int | None = None

    def __post_init__(self) -> None:
        store(self, rank=positive_int, mini=optional(positive_int))
        store(self, share=among("columns", "rows"), form=among("efficient", "expand"))
        fill(self, "layout", "tiled" if self.share == "columns" else "block")
        store(self, layout=among(*LAYOUTS))
        if self.mini is not None and (self.share, self.layout) != ("columns", "tiled"):
            raise ValueError(
                f'mini={self.mini} exists for share="columns", layout="tiled" only; '
                f"got share={self.share!r}, layout={self.layout!r}"
            )

    @property
    def name(self) -> str:
        if self.mini is not None:
            return f"MiSS mini {self.rank}×{self.mini}"
        if self.share == "columns":
            return f"MiSS{' block' if self.layout == 'block' else ''} r={self.rank}"
        return f"MiSS rows{' tiled' if self.layout == 'tiled' else ''} N={self.rank}"

    def shape_of_d(self, out_features: int, in_features: int) -> tuple[int, int]:
        """Rows and columns of D."""
        if self.share == "rows":
            return self.rank, in_features
        return self.mini or out_features, self.rank

    def num_parameters(self, out_features: int, in_features: int) -> int:
        rows, columns = self.shape_of_d(out_features, in_features)
        return rows * columns

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(*self.shape_of_d(out_features, in_features), out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        if self.share == "columns":
            at_most("rank", self.rank, "in_features", in_features)
        else:
            at_most("rank", self.rank, "out_features", out_features)
        if self.mini is not None:
            divides("mini", self.mini, out_features=out_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "MiSSAdapter":
        return MiSSAdapter(self, base)


class MiSSAdapter(Adapter):
    """D, and where each of its entries stands.

    Written once for all variants: ΔW = R D T, where T (columns × k) copies columns and R
    (d × rows) copies rows; whichever dimension is not shared has the identity.
    """

    stackable = True
    method: MiSS

    def __init__(self, method: MiSS, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.D = self.zeros(*method.shape_of_d(self.out_features, self.in_features))

    def owners(self) -> tuple[Tensor, Tensor]:
        """For each row of W the row of D that stands there (d,), and the same for columns (k,)."""
        rows, columns = self.D.shape[-2:]
        layout = str(self.method.layout)
        return (
            shard_owner(self.out_features, rows, layout, self.D.device),
            shard_owner(self.in_features, columns, layout, self.D.device),
        )

    def delta(self) -> Float[Tensor, "*member out in_"]:
        rows, columns = self.owners()
        return self.D.index_select(-2, rows).index_select(-1, columns)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        layout = str(self.method.layout)
        return copies_of(self.D, self.out_features, self.in_features, layout)

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        """W₀ x + b, and S, the shard sums of x; x where columns are not shared."""
        y, x = super().frozen(x)
        columns = self.D.shape[-1]
        if columns == self.in_features:
            return y, x
        return y, shard_sums(x, columns, str(self.method.layout))

    def correction(
        self, z: Float[Tensor, "*member n r"]
    ) -> Float[Tensor, "*member n out"] | Product:
        """D S (Eq. 6-7); where rows are shared, copied."""
        if self.D.shape[-2] == self.out_features:
            return Product(self.D, z)
        return spread(apply_linear(z, self.D), self.out_features, str(self.method.layout))

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        efficient = self.method.form == "efficient"
        return super().forward(x) if efficient else self.through_weight(x)


def Bone(rank: int, *, published: datetime.date = datetime.date(2024, 11, 27)) -> MiSS | Bat:  # noqa: N802
    """What "Bone" means, by the date of the text or adapter that says it.

    | when             | where                    | "Bone"       | today here           |
    |------------------|--------------------------|--------------|----------------------|
    | Aug-Oct 2024     | arXiv 2409.15371 v1-v3   | Bone         | `Bat` (block_size=r) |
    | 5 Nov 2024       | PEFT #2172               | Bone         | `Bat`                |
    | 27 Nov 2024      | PEFT #2233; v4-v8        | Bone, "bat"  | `MiSS`, `Bat`        |
    | 2 Aug 2025       | PEFT #2604; v9 on        | MiSS         | `MiSS`               |
    | Feb 2026         | PEFT #3051               | removed      | convert to MiSS      |

    "DiSHA" (v6-v8) is the framework ΔW = expand(D) with any shard shape; Bone is a member.

    Args:
        rank: PEFT's `r`; the block size where Bone was today's Bat.
        published: the date. From 27 Nov 2024 on Bone is `MiSS(rank)`, before that `Bat(rank)`.
    """
    if type(published) is not datetime.date:
        raise TypeError(f"published={published!r} is not a datetime.date")
    return MiSS(rank) if published >= datetime.date(2024, 11, 27) else Bat(rank)
