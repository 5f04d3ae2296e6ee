"""W₀ + ΔW as squares of numbers: what an update is."""

import copy

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from missviz.adapters.base import Adapter
from missviz.displays.base import Display
from missviz.style import DIVERGING, new_figure

MOST_WITH_DIGITS = 8


class UpdateDisplay(Display):
    """W₀, ΔW and W₀ + ΔW side by side on one colour scale; digits in cells up to 8 × 8.

    Args:
        base: W₀ (out, in).
        delta: ΔW (out, in).
        name: of the method.
        limit: colours run from −limit to limit; None means the largest magnitude shown.

    After `plot`: `ims_` and `texts_` (one list per square), `axes_`, `figure_`.
    """

    def __init__(
        self,
        *,
        base: Float[np.ndarray, "out in_"],
        delta: Float[np.ndarray, "out in_"],
        name: str,
        limit: float | None = None,
    ) -> None:
        if base.ndim != 2 or base.shape != delta.shape:
            raise ValueError(
                f"base {base.shape} and delta {delta.shape} are not two equal matrices"
            )
        self.base, self.delta, self.name = base, delta, name
        largest = max(float(np.abs(square).max()) for square in (base, delta, base + delta))
        self.limit = limit or largest or 1.0

    @classmethod
    def from_adapter(cls, adapter: Adapter, *, limit: float | None = None) -> "UpdateDisplay":
        """What an adapter does to its layer now."""
        # ΔW is built in float64: rounding of float32 products would show as rank.
        exact = copy.deepcopy(adapter).cpu().double()
        base, delta = (matrix.detach().numpy() for matrix in (exact.base.weight, exact.delta()))
        return cls(base=base, delta=delta, name=adapter.method.name, limit=limit)

    def summary(self) -> str:
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
            axes = list(new_figure(11, 4.0).subplots(1, 3))
        self.axes_ = axes
        self.figure_ = axes[0].figure  # type: ignore[assignment]
        squares = {
            "W₀ (frozen)": self.base,
            f"ΔW ({self.name})": self.delta,
            "W₀ + ΔW": self.base + self.delta,
        }
        self.ims_, self.texts_ = [], []
        for ax, (title, square) in zip(axes, squares.items(), strict=True):
            self.ims_.append(ax.imshow(square, cmap=DIVERGING, vmin=-self.limit, vmax=self.limit))
            ax.set(title=title, xticks=[], yticks=[])
            if max(square.shape) <= MOST_WITH_DIGITS:
                self.texts_.append(
                    [
                        ax.text(
                            column,
                            row,
                            f"{value:.1f}".replace("-0.0", "0.0"),
                            ha="center",
                            va="center",
                            fontsize="small",
                            color="white" if abs(value) > 0.65 * self.limit else "black",
                        )
                        for (row, column), value in np.ndenumerate(square)
                    ]
                )
        return self
