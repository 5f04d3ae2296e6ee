"""W₀ + ΔW as squares of numbers: what an update is."""

import copy

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from missviz.adapters.base import Adapter
from missviz.displays.base import Display
from missviz.displays.digits import Digits
from missviz.style import DIVERGING, FAINT, row_of_axes

MOST_WITH_DIGITS = 8


class UpdateDisplay(Display):
    """W₀, ΔW and W₀ + ΔW side by side on one colour scale; digits in cells up to 8 × 8.

    Args:
        base: W₀ (out, in).
        delta: ΔW (out, in); None where there is none, which `name` then explains.
        name: of the method.
        limit: colours run from −limit to limit; None means the largest magnitude shown.

    After `plot`: `ims_` and `digits_` (one per square; none if larger), `axes_`, `figure_`.
    """

    def __init__(
        self,
        *,
        base: Float[np.ndarray, "out in_"],
        delta: Float[np.ndarray, "out in_"] | None,
        name: str,
        limit: float | None = None,
    ) -> None:
        if base.ndim != 2 or (delta is not None and base.shape != delta.shape):
            shape = None if delta is None else delta.shape
            raise ValueError(f"base {base.shape} and delta {shape} are not two equal matrices")
        self.base, self.delta, self.name = base, delta, name
        shown = [base] if delta is None else [base, delta, base + delta]
        largest = max(float(np.abs(square).max()) for square in shown)
        self.limit = limit or largest or 1.0

    @classmethod
    def from_adapter(cls, adapter: Adapter, *, limit: float | None = None) -> "UpdateDisplay":
        """What an adapter does to its layer now."""
        # ΔW is built in float64: rounding of float32 products would show as rank.
        exact = copy.deepcopy(adapter).cpu().double()
        base, delta = (matrix.detach().numpy() for matrix in (exact.base.weight, exact.delta()))
        return cls(base=base, delta=delta, name=adapter.method.name, limit=limit)

    def summary(self) -> str:
        if self.delta is None:
            return self.name
        if not self.delta.any():
            return f"{self.name}: no update yet, ΔW = 0"
        different = len(np.unique(self.delta.round(12)))
        rank = np.linalg.matrix_rank(self.delta)
        return (
            f"{self.name}: ΔW has {self.delta.size} cells, {different} different values, "
            f"rank {rank}, and {np.linalg.norm(self.delta) / np.linalg.norm(self.base):.2f} "
            "times the norm of W₀"
        )

    def plot(self, axes: list[Axes] | None = None) -> "UpdateDisplay":
        """Draw into three axes, or into a figure of its own."""
        if axes is None:
            axes = row_of_axes(11, 4.0, (1, 1, 1), left=0.1, right=0.1, bottom=0.25, gap=0.3)
        self.axes_ = axes
        self.figure_ = axes[0].figure  # type: ignore[assignment]
        rows, columns = self.base.shape
        self.ims_ = [
            ax.imshow(np.zeros((rows, columns)), cmap=DIVERGING, clim=(-self.limit, self.limit))
            for ax in axes
        ]
        with_digits = max(rows, columns) <= MOST_WITH_DIGITS
        self.digits_ = [Digits(ax, 0.65 * self.limit) for ax in axes if with_digits]
        for ax in axes:
            ax.set(xticks=[], yticks=[], facecolor=FAINT)
        self.outcome_ = [
            *self.ims_[1:],
            *(patch for digits in self.digits_[1:] for patch in digits.patches),
        ]
        self._fill()
        return self

    def ghost(self, pinned: "UpdateDisplay") -> list[Artist]:
        """Under the digit in each cell of ΔW a grey bar: left of the middle −, right of it +."""
        if pinned.delta is None:
            return []
        lengths = 0.45 * np.clip(2 * pinned.delta / self.limit, -1, 1)
        bars = [
            Path([(x, y + 0.3), (x + length, y + 0.3), (x + length, y + 0.42), (x, y + 0.42)])
            for (y, x), length in np.ndenumerate(lengths)
        ]
        grey = PathPatch(Path.make_compound_path(*bars), color=FAINT, lw=0)
        return [self.axes_[1].add_patch(grey)]

    def update(self, other: "UpdateDisplay") -> None:
        """Show another display's matrices, of the same shape and limit, with the same artists."""
        self.base, self.delta, self.name = other.base, other.delta, other.name
        self._fill()

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
            im.set_data(np.ma.masked_invalid(square))
            ax.set_title(title)
        for digits, square in zip(self.digits_, squares.values(), strict=False):
            digits.set(square)
