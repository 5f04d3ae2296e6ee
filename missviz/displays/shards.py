"""A small D copied until it has W's shape, and two ways to y: D S and ΔW x."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Adapter
from missviz.adapters.miss import MiSSAdapter
from missviz.adapters.shards import shard_sums
from missviz.analysis.shards import column_directions
from missviz.displays.base import FROM_DATA, Display
from missviz.displays.digits import Digits
from missviz.style import (
    BLUE,
    DIVERGING,
    FAINT,
    GREEN,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    ink,
    row_of_axes,
)

VIOLET = "#6b3fa0"
HUES = (ORANGE, SKY, GREEN, PINK, YELLOW, BLUE, RED, VIOLET)
"""One for each column (or row) of D; grey is none."""
NOBODYS = -1
"""Instead of a hue: cells that are the copy of no single column (or row) of D."""
NOTHING = -2
"""Traced where a column is the copy of none."""
COLORS = ("entry", "value")
TRACED, OTHER = 0.8, 0.3
"""How much hue a cell has, the rest being white: digits on it are black. Bars have more."""

MOST_WITH_DIGITS = 12
MOST_WITH_LARGE_TICKS = 9
LEAST_VOID = 3
"""Cells across, from which on there is room to say why nothing is there."""
BARS = 2
"""Room for the bars beside a vector, in cells."""
MIDDLE = (1 + BARS) / 2
"""From the middle of a vector's cell to the zero line of its bar."""
SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
"""Corners of a cell around its middle."""
LONGEST = 0.45 * BARS
"""Of a bar, in cells, from the zero line."""


@dataclass(eq=False, repr=False, kw_only=True)
class ShardDisplay(Display):
    """ΔW = expand(D), each cell coloured by the column (or row) of D that it is in, and y twice.

    Left, the short way: D, above it what it multiplies (S, the shard sums of x), beside it D S.
    Right, the long way: ΔW, above it x, beside it ΔW x. One column of ΔW, that with the pointer,
    is traced: it and its copies are outlined, and with them the places of x that are summed. Where
    rows are shared nothing of x is summed, D x has one number per row of D, and a row is traced.
    Digits in cells up to 12 × 12.

    Args:
        D: (out, r); with shared rows (r, in). r is at most 8, the number of hues.
        delta: ΔW (out, in).
        x: (in,).
        sums: what D multiplies: S (r,), or, with shared rows, x itself.
        owner: for each column (or row) of ΔW the column (or row) of D that it is.
        share: "columns" or "rows".
        name: of the method.
        trace: the traced column (or row) of ΔW, from 0.
        limits: where bars of x and S end, and those of y; None means the longest ones shown.
        color: what the cells of D and ΔW are coloured by: "entry", which column (or row) of D they
            are in, or "value".
        largest: where colours by value end; None means the largest entry of ΔW.
        gains: for each column of ΔW, how many times that column of D it is; None means 1. Where it
            is the copy of no single one, `owner` is −1.
        notice: where D is from, for the picture and the summary.

    Raises ValueError where shapes disagree or trace is no column (or row).
    Source: MiSS Eq. 4-7 (columns), Eq. 3 (rows).

    After `plot`: `short_` and `long_`, each with `matrix`, `vector` and `product`;
    `pointer_`, `axes_`, `figure_`.
    """

    D: Float[np.ndarray, "rows columns"]
    delta: Float[np.ndarray, "out in_"]
    x: Float[np.ndarray, " in_"]
    sums: Float[np.ndarray, " columns"]
    owner: Int[np.ndarray, " places"]
    share: str
    name: str
    trace: int = 0
    limits: tuple[float, float] = FROM_DATA
    color: str = "entry"
    largest: float = FROM_DATA
    gains: Float[np.ndarray, " in_"] = FROM_DATA
    notice: str = ""
    products: Float[np.ndarray, " rows"] = field(init=False)
    y: Float[np.ndarray, " out"] = field(init=False)

    def __post_init__(self) -> None:
        validation.one_of("share", self.share, ("columns", "rows"))
        validation.one_of("color", self.color, COLORS)
        out_features, in_features = self.delta.shape
        by_columns = self.share == "columns"
        rank = self.D.shape[1] if by_columns else self.D.shape[0]
        wanted = (out_features, rank) if by_columns else (rank, in_features)
        places = in_features if by_columns else out_features
        found = self.D.shape, self.x.shape, self.sums.shape, self.owner.shape
        if found != (wanted, (in_features,), wanted[1:], (places,)):
            raise ValueError(
                f"D {self.D.shape}, x {self.x.shape}, sums {self.sums.shape} and owner "
                f"{self.owner.shape} do not fit ΔW {self.delta.shape} where {self.share} are shared"
            )
        validation.at_most("rank", rank, "the number of hues", len(HUES))
        if isinstance(self.trace, bool) or self.trace not in range(places):
            raise ValueError(f"trace={self.trace!r}: ΔW has {self.share} 0 to {places - 1}")
        self.gains = np.ones(in_features) if self.gains is None else self.gains
        self.products, self.y = self.D @ self.sums, self.delta @ self.x
        longest = max(_largest(self.x), _largest(self.sums)), _largest(self.y)
        self.limits = self.limits or (longest[0] or 1.0, longest[1] or 1.0)
        self.largest = self.largest or _largest(self.delta) or 1.0

    @classmethod
    def from_adapter(
        cls,
        adapter: Adapter,
        x: Float[Tensor, " in_"],
        *,
        trace: int = 0,
        limits: tuple[float, float] = FROM_DATA,
        color: str = "entry",
        largest: float = FROM_DATA,
        notice: str = "",
    ) -> "ShardDisplay":
        """What a method does to one input now, in float64.

        MiSS has its D. Of any other method, the reader's too, D is the left one of its `factors`;
        where it has none, D has one column for each direction that the columns of ΔW have.

        Raises ValueError for mini, which shares columns and rows, and where D has more than 8
        columns.
        """
        name, delta, x = adapter.method.name, *(_exact(part) for part in (adapter.delta(), x))
        # By the very class: a subclass may have a formula of its own.
        if type(adapter) is MiSSAdapter:
            parts = cls._of_miss(adapter, x)
        else:
            parts = cls._of_any(name, delta, adapter.factors(), x)
        shown: dict[str, Any] = {"trace": trace, "limits": limits, "color": color}
        shown |= {"largest": largest, "notice": notice}
        return cls(delta=delta.numpy(), x=x.numpy(), name=name, **parts, **shown)

    @staticmethod
    def _of_miss(adapter: MiSSAdapter, x: Float[Tensor, " in_"]) -> dict[str, Any]:
        method = adapter.method
        if method.mini is not None:
            raise ValueError(f"{method.name} shares columns and rows; this display follows one")
        by_columns = method.share == "columns"
        row_owner, column_owner = adapter.owners()
        sums = shard_sums(x, method.rank, str(method.layout)) if by_columns else x
        return {
            "D": _exact(adapter.D).numpy(),
            "sums": sums.numpy(),
            "owner": (column_owner if by_columns else row_owner).cpu().numpy(),
            "share": method.share,
        }

    @staticmethod
    def _of_any(
        name: str,
        delta: Float[Tensor, "out in_"],
        thin: tuple[Tensor, Tensor] | None,
        x: Float[Tensor, " in_"],
    ) -> dict[str, Any]:
        if thin is not None:
            D, F = map(_exact, thin)
        elif (found := column_directions(delta, len(HUES))) is not None:
            D, F = found
        else:
            raise ValueError(
                f"{name} has no factors(), and ΔW more than {len(HUES)} columns that are no "
                "multiples of each other: there is nothing copied to follow"
            )
        if D.shape[1] > len(HUES):
            raise ValueError(
                f"{name} has a left factor of {D.shape[1]} columns; this display follows at most "
                f"{len(HUES)}"
            )
        single = (F != 0).sum(0) == 1
        owner = torch.where(single, F.abs().argmax(0), NOBODYS)
        return {
            "D": D.numpy(),
            "sums": (F @ x).numpy(),
            "owner": owner.numpy(),
            "share": "columns",
            "gains": F.sum(0).numpy(),
        }

    @property
    def _largest_color(self) -> float | None:
        return self.largest if self.color == "value" else None

    @property
    def copies(self) -> list[int]:
        """The columns (or rows) of ΔW that equal the traced one by construction, but for their
        gains, and itself."""
        if self.owner[self.trace] == NOBODYS:
            return [self.trace]
        return [int(place) for place in np.flatnonzero(self.owner == self.owner[self.trace])]

    @property
    def difference(self) -> float:
        """The largest difference between the two ways to y."""
        short = self.products if self.share == "columns" else self.products[self.owner]
        return _largest(short - self.y)

    def summary(self) -> str:
        if not self.delta.any():
            return f"{self.name}: no update yet, ΔW = 0"
        source = int(self.owner[self.trace])
        places = ("s " if len(self.copies) > 1 else " ") + ", ".join(map(str, self.copies))
        if source == NOBODYS:
            traced = f"column {self.trace} of ΔW is made of several columns of D"
        elif self.share == "columns":
            gains = [self.gains[place] for place in self.copies]
            words = [f"{gain:.3g} " if gain != 1 else "" for gain in gains]
            terms = " + ".join(f"{w}x[{p}]" for w, p in zip(words, self.copies, strict=True))
            traced = (
                f"column {source} of D is column{places} of ΔW, "
                f"and S[{source}] = {terms} = {self.sums[source]:g}"
            )
        else:
            traced = (
                f"row {source} of D is row{places} of ΔW, where y is {self.products[source]:.2g}; "
                "nothing of x is summed"
            )
        origin = f" ({self.notice})" if self.notice else ""
        return (
            f"{self.name}: {self.D.size} numbers{origin} fill {self.delta.size} cells; {traced}; "
            f"the two ways to y differ by {self.difference:.0e}".replace("0e+00", "exactly 0")
        )

    def plot(self) -> "ShardDisplay":
        """Draw into a figure of its own."""
        self.axes_ = row_of_axes(
            11, 5.4, (1, 1), left=0.4, right=0.1, bottom=0.5, top=0.35, gap=0.4
        )
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        self.short_, self.long_ = (
            _Way(ax, self.delta.shape, self.limits, self._largest_color) for ax in self.axes_
        )
        self.axes_[0].set_xlabel("columns of D")
        self._draw_void()
        self.axes_[1].set_xlabel("columns of ΔW")
        (self.pointer_,) = self.axes_[1].plot([], [], color=ink(), ls="", clip_on=False)
        self.outcome_ = [
            *self.short_.vector.artists,
            *self.short_.product.artists,
            *self.long_.matrix.artists,
            *self.long_.product.artists,
        ]
        if self.notice:
            self.figure_.text(0.005, 0.012, self.notice, fontsize="small", color=FAINT)
        self._fill()
        return self

    def _draw_void(self) -> None:
        """The outline of what D fills of W's cells, and why the rest is empty."""
        ax, (rows, columns) = self.axes_[0], self.delta.shape
        look: dict[str, Any] = {
            "fill": False,
            "ec": FAINT,
            "ls": (0, (2, 3)),
            "lw": 1.2,
            "zorder": 0.5,
        }
        ax.add_patch(Rectangle((-0.5, BARS + 0.5), columns, rows, **look))
        self.void_ = ax.text(0, 0, "", ha="center", va="center", color=FAINT)

    def ghost(self, pinned: "ShardDisplay") -> list[Artist]:
        """Grey lines where the bars of y = ΔW x ended: y alone means the same in every layout."""
        return [self.long_.product.mark_ends(pinned.y)]

    def _fixed(self) -> Any:
        return self.delta.shape, self.limits, self._largest_color, self.notice

    def _fill(self) -> None:
        by_columns = self.share == "columns"
        of_d = np.arange(self.D.shape[1] if by_columns else self.D.shape[0])
        traced = int(self.owner[self.trace])
        traced = NOTHING if traced == NOBODYS else traced
        self.short_.set(self.D, self.sums, self.products, of_d, by_columns, traced)
        self.long_.set(self.delta, self.x, self.y, self.owner, by_columns, traced)
        self.short_.label.set_text("S" if by_columns else "x")
        if by_columns:
            self.pointer_.set_data([self.trace], [BARS + len(self.delta) + 0.7])
        else:
            self.pointer_.set_data([-0.7], [1 + BARS + self.trace])
        self._fill_void()
        self.pointer_.set_marker("^" if by_columns else ">")
        self.axes_[0].set_title(
            "short way: y = D S" if by_columns else "short way: D x, then copied"
        )
        self.axes_[1].set_title(f"long way: ΔW x, {self.name}")

    def _fill_void(self) -> None:
        (out, in_), (rows, columns) = self.delta.shape, self.D.shape
        beside, below = in_ - columns, out - rows
        place = (columns + in_ - 1) / 2, (rows + out - 1) / 2
        x, y = (place[0], (out - 1) / 2) if beside else ((in_ - 1) / 2, place[1])
        self.void_.set_position((x, y + BARS + 1))
        shown = beside >= LEAST_VOID or (not beside and below >= LEAST_VOID)
        self.void_.set_text(f"nothing here:\nD is {rows} × {columns}" if shown else "")
        self.short_.number(rows, columns)


def _exact(part: Tensor) -> Tensor:
    return part.detach().cpu().double()


class _Way:
    """One way to y: a matrix, above it the vector that it multiplies, beside it the product.

    `ax` counts in cells, downwards from the vector; between the matrix and either vector there is
    room for bars.
    """

    def __init__(
        self,
        ax: Axes,
        shape: tuple[int, ...],
        limits: tuple[float, float],
        largest: float | None,
    ) -> None:
        rows, columns = shape
        below, beside = 1 + BARS, columns + BARS
        with_digits = max(shape) <= MOST_WITH_DIGITS
        self.matrix = _Cells(ax, (below, 0), with_digits, largest)
        self.vector = _Vector(ax, (0, 0), with_digits, limits[0])
        self.product = _Vector(ax, (below, beside), with_digits, limits[1], upright=True)
        ax.set(
            aspect="equal",
            xlim=(-0.5, beside + 0.5),
            ylim=(below + rows - 0.5, -0.5),
        )
        self.ax, self.below, self.beside = ax, below, beside
        self.numbered: tuple[int, int] | None = None
        self.number(rows, columns)
        self.label = ax.text(-1, 0, "x", ha="center", va="center")
        small = max(shape) > MOST_WITH_LARGE_TICKS
        ax.tick_params(length=0, pad=8, labelsize="small" if small else "medium")
        ax.spines[:].set_visible(False)

    def number(self, rows: int, columns: int) -> None:
        """Number so many rows and columns of the matrix, from 0."""
        if self.numbered != (rows, columns):  # new labels redraw the axis
            self.numbered = rows, columns
            places = [*range(columns), self.beside]
            self.ax.set_xticks(places, [*map(str, range(columns)), "y"])
            self.ax.set_yticks(range(self.below, self.below + rows), map(str, range(rows)))

    def set(
        self,
        matrix: Float[np.ndarray, "rows columns"],
        vector: Float[np.ndarray, " columns"],
        product: Float[np.ndarray, " rows"],
        owner: Int[np.ndarray, " places"],
        by_columns: bool,
        traced: int,
    ) -> None:
        """Show these; `owner` says for each column (or row) of the matrix which of D's it is."""
        if by_columns:
            across, down = owner, np.full(len(product), NOBODYS)
        else:
            across, down = np.full(len(vector), NOBODYS), owner
        self.matrix.set(matrix, np.maximum(across, down[:, None]), traced)
        self.vector.set(vector[None], across[None], traced)
        self.product.set(product[:, None], down[:, None], traced)


class _Cells:
    """Coloured cells with numbers, and an outline around those that are traced.

    `corner` is the (row, column) of the first cell. With `largest` the cells are coloured by value,
    from −largest to largest, else by hue.
    """

    def __init__(
        self,
        ax: Axes,
        corner: tuple[int, int],
        with_digits: bool,
        largest: float | None = None,
    ) -> None:
        self.ax, self.corner, self.largest = ax, corner, largest
        self.squares = PolyCollection([], lw=0, antialiased=False)
        ax.add_collection(self.squares, autolim=False)
        dark_from = np.inf if largest is None else 0.65 * largest
        self.digits = Digits(ax, dark_from) if with_digits else None
        self.outline = LineCollection([], colors=ink(), lw=2, capstyle="projecting")
        ax.add_collection(self.outline, autolim=False)
        self.artists: list[Artist] = [self.squares, self.outline]
        if self.digits:
            self.artists.extend(self.digits.patches)

    def set(
        self,
        values: Float[np.ndarray, "rows columns"],
        hues: Int[np.ndarray, "rows columns"],
        traced: int,
    ) -> None:
        """Show `values` on cells of these `hues`; those of hue `traced` stand out."""
        row, column = self.corner
        places = np.array(list(np.ndindex(hues.shape)))[:, ::-1] + np.array([column, row])
        self.squares.set_verts(places[:, None] + SQUARE)
        colors: Any = _tints(traced)[hues.ravel()]
        if self.largest is not None:
            colors = colormaps[DIVERGING](0.5 + values.ravel() / 2 / self.largest)
        self.squares.set_facecolor(colors)
        self.outline.set_segments(_edges(hues == traced) + np.array([column, row]))
        if self.digits:
            self.digits.set(values, self.corner)


class _Vector(_Cells):
    """Cells in a row with bars below them; upright, in a column with bars left of them."""

    def __init__(
        self,
        ax: Axes,
        corner: tuple[int, int],
        with_digits: bool,
        limit: float,
        *,
        upright: bool = False,
    ) -> None:
        super().__init__(ax, corner, with_digits)
        self.limit, self.upright = limit, upright
        self.bars = PolyCollection([], lw=0)
        ax.add_collection(self.bars, autolim=False)
        self.artists.append(self.bars)
        self.zeros = LineCollection([], colors=FAINT, lw=1)
        ax.add_collection(self.zeros, autolim=False)

    def set(
        self,
        values: Float[np.ndarray, "rows columns"],
        hues: Int[np.ndarray, "rows columns"],
        traced: int,
    ) -> None:
        super().set(values, hues, traced)
        self.bars.set_verts(list(self._corners(values.ravel())))
        self.zeros.set_segments(list(self._corners(np.zeros(values.size))[:, :2]))
        self.bars.set_facecolor(_tints(traced, 0.2)[hues.ravel()])

    def mark_ends(self, values: Float[np.ndarray, " places"]) -> LineCollection:
        """Add grey lines where bars of `values` would end."""
        ends = LineCollection(list(self._corners(values)[:, 2:]), colors=FAINT, lw=3)
        self.ax.add_collection(ends, autolim=False)
        return ends

    def _corners(self, values: Float[np.ndarray, " places"]) -> Float[np.ndarray, "places 4 2"]:
        """Of each bar: two corners on the zero line and two at its end."""
        row, column = self.corner
        place = np.arange(len(values))[:, None] + np.array([-0.4, 0.4, 0.4, -0.4])
        length = LONGEST * np.clip(values / self.limit, -1, 1)[:, None] * np.array([0, 0, 1, 1])
        if self.upright:
            return np.stack([column - MIDDLE + length, row + place], axis=-1)
        return np.stack([column + place, row + MIDDLE - length], axis=-1)


def _tints(traced: int, more: float = 0.0) -> Float[np.ndarray, "hues 3"]:
    """The colour of each hue, and last, where NOBODYS points, of cells without one."""
    share = np.full((len(HUES) + 1, 1), OTHER + more)
    share[traced] = TRACED + more
    hues = np.array([to_rgb(hue) for hue in (*HUES, FAINT)])
    return 1 - share * (1 - hues)


def _edges(inside: Bool[np.ndarray, "rows columns"]) -> Float[np.ndarray, "edges 2 2"]:
    """Lines ((x, y), (x, y)) between cells inside and outside; the first cell lies around 0."""
    padded = np.pad(inside, 1)
    upright = np.argwhere(np.diff(padded, axis=1))[:, ::-1] - np.array([0.5, 1])
    level = np.argwhere(np.diff(padded, axis=0))[:, ::-1] - np.array([1, 0.5])
    return np.concatenate(
        [
            upright[:, None] + np.array([[0, -0.5], [0, 0.5]]),
            level[:, None] + np.array([[-0.5, 0], [0.5, 0]]),
        ]
    )


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())
