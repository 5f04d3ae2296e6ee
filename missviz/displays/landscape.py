"""The loss of one weight, over LoRA's two numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator

from missviz.adapters import validation
from missviz.analysis.one_weight import RATE, TRAININGS, descent, gradient, loss
from missviz.displays.base import Display
from missviz.displays.colors import Cells
from missviz.style import FAINT, RED, ink, row_of_axes

EDGE = 2.5
"""The picture shows b and a from −2.5 to 2.5."""
MOST_LOSS = 2.0
DARK_BELOW = 1.0
"""Colours of lower losses are dark."""


@dataclass(eq=False, repr=False, kw_only=True)
class LandscapeDisplay(Display):
    """Left: loss over (b, a), with the descent from b = 0. Right: the same steps, loss against b.

    Dark is low; the dashed lines are the minima b a = 1, × is the saddle b = a = 0, and arrows go
    where the loss falls fastest. The curve on the right is the loss along b, a as at the start.

    Args:
        path: (b, a) after 0, 1, … steps, (steps + 1, 2).
        training: "both trained" or "a frozen".

    After `plot`: `path_`, `dots_`, `slice_`, `arrows_`, `axes_`, `figure_`.
    """

    path: Float[np.ndarray, "steps1 2"]
    training: str

    def __post_init__(self) -> None:
        validation.one_of("training", self.training, TRAININGS)
        self.path = np.asarray(self.path, dtype=float)
        if self.path.ndim != 2 or self.path.shape[1] != 2 or len(self.path) == 0:
            raise ValueError(f"path of shape {self.path.shape}; give (steps + 1, 2)")
        if not np.isfinite(self.path).all():
            raise ValueError("path has values that are NaN or infinite")

    @classmethod
    def from_start(
        cls, start: float, training: str = "both trained", steps: int = 20, rate: float = RATE
    ) -> "LandscapeDisplay":
        """Gradient descent from b = 0, a = `start`.

        Raises TypeError or ValueError, naming the argument.
        """
        return cls(path=descent(start, training, steps, rate), training=training)

    @property
    def losses(self) -> Float[np.ndarray, " steps1"]:
        """Loss after 0, 1, … steps."""
        along: np.ndarray = loss(*self.path.T)
        return along

    def summary(self) -> str:
        start = self.path[0, 1]
        along_b = gradient(0.0, start)[0]
        kind = (
            "zero: the saddle, where descent stays"
            if start == 0
            else f"(∂b, ∂a) = ({along_b:g}, 0): no critical point"
        )
        along = (
            f"along b a parabola of curvature a² = {start**2:g}"
            if self.training == "a frozen"
            else "over b and a together no bowl"
        )
        return (
            f"{self.training}: start b = 0, a = {start:g} has gradient {kind}; {along}; after "
            f"{len(self.path) - 1} steps b a = {np.prod(self.path[-1]):.3f} (wanted: 1), loss "
            f"{self.losses[-1]:.3g}, from {self.losses[0]:g}"
        )

    def plot(self) -> "LandscapeDisplay":
        """Draw into a figure of its own."""
        self.axes_ = row_of_axes(11, 4.4, (1, 1.25), left=0.65, top=0.15, gap=0.8)
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        self._plot_map(self.axes_[0])
        self._plot_slice(self.axes_[1])
        self.outcome_ = [self.path_, self.dots_, self.end_]
        self._fill()
        return self

    def _plot_map(self, ax: Axes) -> None:
        edges = np.linspace(-EDGE, EDGE, 402)
        side = (edges[1:] + edges[:-1]) / 2
        self.map_ = Cells(
            ax,
            np.minimum(loss(*np.meshgrid(side, side)), MOST_LOSS),
            edges=(edges, edges),
            aspect="auto",
            cmap=colormaps["Blues_r"].resampled(24),
            clim=(0, 1.3 * MOST_LOSS),
        )
        ax.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xlabel="b", ylabel="a")
        ax.xaxis.set_major_locator(FixedLocator([-2, -1, 0, 1, 2]))
        ax.yaxis.set_major_locator(FixedLocator([-2, -1, 0, 1, 2]))
        valley = np.linspace(1 / EDGE, EDGE, 100)
        for sign in (1, -1):
            ax.plot(sign * valley, sign / valley, color="white", ls=(0, (4, 2)), lw=1.5)
        ax.plot([0], [0], "x", color="black", ms=16, mew=2.5)
        grid = np.linspace(-EDGE, EDGE, 13)[1:-1]
        self._grid = np.meshgrid(grid, grid)
        self.arrows_ = ax.quiver(
            *self._grid,
            *np.zeros((2, *self._grid[0].shape)),
            # To be seen on dark and on light.
            color=np.where(loss(*self._grid).ravel() < DARK_BELOW, "#ffffff99", "#00000080"),
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
            pivot="mid",
        )
        (self.path_,) = ax.plot([], [], ".-", color=RED, lw=2.5, ms=8)
        (self.start_,) = ax.plot([], [], "o", color="white", mec=RED, mew=2.5, ms=10)

    def _plot_slice(self, ax: Axes) -> None:
        ax.set(
            xlim=(-EDGE, EDGE),
            ylim=(-0.08, MOST_LOSS),
            xlabel="b",
            ylabel="loss (line: a as at the start)",
        )
        ax.xaxis.set_major_locator(FixedLocator([-2, -1, 0, 1, 2]))
        ax.yaxis.set_major_locator(FixedLocator([0, 0.5, 1, 1.5, 2]))
        (self.slice_,) = ax.plot([], [], color=ink(), lw=1.5)
        (self.dots_,) = ax.plot([], [], ".-", color=RED, lw=1, ms=9)
        (self.end_,) = ax.plot([], [], "o", color=RED, ms=10)

    def _fixed(self) -> Any:
        return ()

    def _fill(self) -> None:
        b, a = self._grid
        along_b, along_a = gradient(b, a)
        along_a = along_a * (self.training != "a frozen")
        size = np.hypot(along_b, along_a)
        # Directions, with a hint of size: a field from 0 to 30 has no readable scale of its own.
        length = 0.36 * np.tanh(2 * size) / np.where(size == 0, 1, size)
        self.arrows_.set_UVC(-along_b * length, -along_a * length)
        self.path_.set_data(*self.path.T)
        self.start_.set_data(*self.path[:1].T)
        side = np.linspace(-EDGE, EDGE, 101)
        self.slice_.set_data(side, loss(side, self.path[0, 1]))
        self.dots_.set_data(self.path[:, 0], self.losses)
        self.end_.set_data(self.path[-1:, 0], self.losses[-1:])

    def ghost(self, pinned: "LandscapeDisplay") -> list[Artist]:
        """The pinned descent in grey, on both axes."""
        over, along = self.axes_
        return [
            *over.plot(*pinned.path.T, ".-", color=FAINT, lw=4, ms=10, zorder=1.9),
            *along.plot(
                pinned.path[:, 0], pinned.losses, ".-", color=FAINT, lw=3, ms=10, zorder=1.9
            ),
        ]
