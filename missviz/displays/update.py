"""W₀ + ΔW as squares of numbers: what an update is."""

import copy
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from missviz.adapters.base import Adapter
from missviz.displays.base import FROM_DATA, Display
from missviz.displays.colors import Cells, beyond, color_limit, color_scale
from missviz.displays.digits import Digits
from missviz.displays.labels import below
from missviz.style import FAINT, paper, row_of_axes, text_scale

MOST_WITH_DIGITS = 8
LONGEST = 2.5
"""A matrix of longer sides (512 × 128) fills its square all the same: cells need not be squares."""
LINE = 22
"""Characters of a reason before it is broken."""


@dataclass(eq=False, repr=False, kw_only=True)
class UpdateDisplay(Display):
    """W₀, ΔW and W₀ + ΔW side by side on one colour scale; digits in cells up to 8 × 8.

    Args:
        base: W₀ (out, in).
        delta: ΔW (out, in); None where there is none, which `name` then explains.
        name: of the method.
        limit: colours run from −limit to limit; None means the largest magnitude shown, or, where
            few are far larger than all others, the 99 % quantile; the picture says what is beyond.
        notice: what was left out, for the picture and the summary.
        x: an input (in,), drawn above each square, and beside it what the square makes of it.

    After `plot`: `ims_` and `digits_` (one per square; none if larger), `axes_`, `figure_`.
    """

    base: Float[np.ndarray, "out in_"]
    delta: Float[np.ndarray, "out in_"] | None
    name: str
    limit: float = FROM_DATA
    notice: str = ""
    x: Float[np.ndarray, " in_"] | None = None

    def __post_init__(self) -> None:
        if self.base.ndim != 2 or (self.delta is not None and self.base.shape != self.delta.shape):
            shape = None if self.delta is None else self.delta.shape
            raise ValueError(f"base {self.base.shape} and delta {shape} are not two equal matrices")
        if self.x is not None and self.x.shape != self.base.shape[1:]:
            raise ValueError(f"x {self.x.shape} does not fit a base {self.base.shape}")
        self.limit = self.limit or color_limit(*self._shown)

    @classmethod
    def from_adapter(
        cls,
        adapter: Adapter,
        *,
        limit: float = FROM_DATA,
        notice: str = "",
        x: Float[np.ndarray, " in_"] | None = None,
    ) -> "UpdateDisplay":
        """What an adapter does to its layer now."""
        # ΔW is built in float64: rounding of float32 products would show as rank.
        exact = copy.deepcopy(adapter).cpu().double()
        base, delta = (matrix.detach().numpy() for matrix in (exact.base.weight, exact.delta()))
        name = adapter.method.name
        return cls(base=base, delta=delta, name=name, limit=limit, notice=notice, x=x)

    @property
    def _shown(self) -> list[Float[np.ndarray, "out in_"]]:
        if self.delta is None:
            return [self.base]
        return [self.base, self.delta, self.base + self.delta]

    def summary(self) -> str:
        return "; ".join(filter(None, [self._said(), self._said_of_x(), self.notice]))

    def _said_of_x(self) -> str:
        if self.x is None or self.delta is None:
            return ""
        moved = self.delta @ self.x
        y, Δy = (np.linalg.norm(vector) for vector in (self.base @ self.x + moved, moved))
        return f"the length of ΔW x is {Δy:.2f}, that of y = W₀ x + ΔW x is {y:.2f}"

    def _said(self) -> str:
        if self.delta is None:
            return self.name
        if not self.delta.any():
            return f"{self.name}: no update yet, ΔW = 0"
        clipped = self._clipped()
        size, base = np.linalg.norm(self.delta), np.linalg.norm(self.base)
        return (
            f"{self.name}: ΔW has {self.delta.size} cells, {self._words()}, "
            + (f"and {size / base:.2f} times the norm of W₀" if base else f"and norm {size:.2f}")
        ) + (f"; colours end at {self.limit:.3g}, {clipped}" if clipped else "")

    def _clipped(self) -> str:
        """What the colours don't tell, where no digits do."""
        with_digits = max(self.base.shape) <= MOST_WITH_DIGITS
        return "" if with_digits else beyond(self.limit, *self._shown)

    def _words(self) -> str:
        if self.delta is None:
            return ""
        if not self.delta.any():
            return "no update yet, ΔW = 0"
        different = len(np.unique(self.delta.round(12)))
        said = f"{different} different values, rank {np.linalg.matrix_rank(self.delta)}"
        return said if self.x is None else f"{said}; above x, beside its product"

    def plot(self, axes: list[Axes] | None = None) -> "UpdateDisplay":
        """Draw into three axes, or into a figure of its own."""
        own = axes is None
        if axes is None:
            axes = row_of_axes(
                11, 4.6, (1, 1, 1), left=0.1, right=0.1, bottom=0.88, top=0.35, gap=0.36
            )
        self.axes_ = axes
        self.figure_ = axes[0].figure  # type: ignore[assignment]
        rows, columns = self._with_x(self.base).shape
        aspect = "equal" if max(rows / columns, columns / rows) <= LONGEST else "auto"
        self.ims_ = [
            Cells(ax, np.zeros((rows, columns)), aspect=aspect, clim=(-self.limit, self.limit))
            for ax in axes
        ]
        with_digits = max(self.base.shape) <= MOST_WITH_DIGITS
        self.digits_ = [Digits(ax, 0.65 * self.limit) for ax in axes if with_digits]
        for ax in axes:
            ax.set(xticks=[], yticks=[], facecolor=FAINT if self.x is None else paper())
            ax.spines[:].set_visible(self.x is None)
        middle: dict[str, Any] = {"ha": "center", "va": "center"}
        place = axes[1].transAxes
        self.reason_ = axes[1].text(
            0.5, 0.5, "", transform=place, color="black", **middle, parse_math=False
        )
        self.words_ = below(axes[1], fontsize="large")
        self.outcome_ = [
            *self.ims_[1:],
            *(patch for digits in self.digits_[1:] for patch in digits.patches),
            self.reason_,
            self.words_,
        ]
        if self.notice:
            self.figure_.text(0.005, 0.012, self.notice, fontsize="small", color=FAINT)
        if own:
            self._draw_between()
        self._fill()
        return self

    def _draw_between(self) -> None:
        """The signs between the squares, and below them the scale of colours."""
        width, height = self.figure_.get_size_inches()
        for sign, left, right in zip("+=", self.axes_, self.axes_[1:], strict=False):
            before, after = left.get_position(), right.get_position()
            self.figure_.text(
                (before.x1 + after.x0) / 2,
                (before.y0 + before.y1) / 2,
                sign,
                ha="center",
                va="center",
                fontsize=20 * text_scale(),
            )
        across, thick = 0.22, 0.13 * text_scale() / height
        place = (0.5 - across / 2, 0.35 * text_scale() / height, across, thick)
        scale = self.figure_.add_axes(place)
        color_scale(scale, self.limit)
        scale.set_title("value of an entry", fontsize="medium", pad=3 * text_scale())
        self.clipped_ = self.figure_.text(
            place[0] + across + 0.4 * text_scale() / width, place[1] + thick / 2, "", va="center"
        )
        self.outcome_ = [*self.outcome_, self.clipped_]

    def _with_x(self, square: Float[np.ndarray, "out in_"]) -> Float[np.ndarray, "rows columns"]:
        """The square with x above it and what it makes of x beside it, a cell apart."""
        if self.x is None:
            return square
        rows, columns = square.shape
        room = np.full((rows + 2, columns + 2), np.nan)
        room[2:, :columns], room[0, :columns], room[2:, -1] = square, self.x, square @ self.x
        return room

    def ghost(self, pinned: "UpdateDisplay") -> list[Artist]:
        """Under the digit in each cell of ΔW a grey bar, left of the middle −, right of it +; the
        longest is the largest entry."""
        if pinned.delta is None:
            return []
        lengths = 0.46 * pinned.delta / (np.abs(pinned.delta).max() or 1.0)
        bars = [
            Path([(x, y + 0.26), (x + length, y + 0.26), (x + length, y + 0.46), (x, y + 0.46)])
            for (row, x), length in np.ndenumerate(lengths)
            for y in [row if self.x is None else row + 2]
        ]
        grey = PathPatch(Path.make_compound_path(*bars), facecolor=FAINT, edgecolor="black", lw=0.7)
        return [self.axes_[1].add_patch(grey)]

    def _fixed(self) -> Any:
        return self.base.shape, self.x is None, self.limit, self.notice

    def _fill(self) -> None:
        if self.delta is None:
            nothing = np.full(self.base.shape, np.nan)
            squares = {"W₀ (frozen)": self.base, "ΔW: none": nothing, "W₀ + ΔW: none": nothing}
        else:
            squares = {
                "W₀ (frozen)": self.base,
                f"ΔW ({self.name})": self.delta,
                "W₀ + ΔW": self.base + self.delta,
            }
        for ax, im, (title, square) in zip(self.axes_, self.ims_, squares.items(), strict=True):
            im.set_data(self._with_x(square))
            ax.set_title(title)
        for digits, square in zip(self.digits_, squares.values(), strict=False):
            digits.set(self._with_x(square))
        reason = self.name if self.delta is None else ""
        self.reason_.set_text("\n".join(textwrap.wrap(reason, LINE)))
        self.words_.set_text(self._words())
        if hasattr(self, "clipped_"):
            self.clipped_.set_text(self._clipped().replace(" lie", "\nlie"))
