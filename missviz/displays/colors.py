"""Cells of colour; where colours end, what lies beyond, and a scale that says so."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import PcolorImage
from matplotlib.transforms import Bbox

from missviz.style import DIVERGING, text_scale

QUANTILE = 0.99
"""Of the magnitudes: where colours end if the largest is far beyond, as in trained weights."""
FAR = 2.0
"""From this many times that quantile on, the largest entry would leave all others pale."""


def color_limit(*matrices: np.ndarray) -> float:
    """Colours run from −limit to limit: the largest magnitude or, where a few entries are far
    larger than all others, the 99 % quantile; 1 where all entries are zero."""
    sizes = np.abs(np.concatenate([matrix.ravel() for matrix in matrices]))
    sizes = sizes[np.isfinite(sizes)]
    largest = float(sizes.max(initial=0.0))
    usual = float(np.quantile(sizes, QUANTILE)) if len(sizes) else 0.0
    return (usual if usual and largest > FAR * usual else largest) or 1.0


def beyond(limit: float, *matrices: np.ndarray) -> str:
    """How many entries the colours do not tell apart, and the largest; "" where they tell all."""
    sizes = np.abs(np.concatenate([matrix.ravel() for matrix in matrices]))
    share = float((sizes > limit * (1 + 1e-9)).mean())
    return (
        f"{100 * share:.2g} % of the entries lie beyond, up to {sizes.max():.3g}" if share else ""
    )


class Cells(PcolorImage):
    """One coloured cell per entry, the first at the top left, around (0, 0).

    What `Axes.imshow` draws with interpolation="nearest" (an edge may lie a pixel beside), in an
    eighth of the time: imshow enlarges the numbers and then colours every pixel of the picture.

    Args:
        values: (rows, columns); masked or NaN cells are left out.
        edges: of columns and rows, in the axes' units; None means cells of one unit.
        aspect: height of a unit over its width, "equal" or "auto".
        clim: colours of the lowest and the highest value, where there is no norm.
    """

    def __init__(
        self,
        ax: Axes,
        values: Float[np.ndarray, "rows columns"],
        *,
        edges: tuple[np.ndarray, np.ndarray] | None = None,
        aspect: Any = "equal",
        cmap: Any = DIVERGING,
        norm: Any = None,
        clim: tuple[float, float] | None = None,
    ) -> None:
        rows, columns = values.shape
        across, down = edges or (np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5)
        self._edges = across, down
        super().__init__(ax, across, down, values, cmap=cmap, norm=norm)
        if clim is not None:
            self.set_clim(*clim)
        ax.add_image(self)
        upwards = edges is not None
        ax.set(xlim=(across[0], across[-1]), aspect=aspect)
        ax.set_ylim((down[0], down[-1]) if upwards else (down[-1], down[0]))

    def get_window_extent(self, renderer: Any = None) -> Bbox:
        """Where the cells are, in pixels. matplotlib's own asks for an extent that these images do
        not have, and notebooks ask it of every figure (`bbox_inches="tight"`)."""
        across, down = self._edges
        corners = Bbox.from_extents(across[0], down[0], across[-1], down[-1])
        return corners.transformed(self.get_transform())

    def set_data(self, *values: Any) -> None:
        """Show other values of the same shape: `set_data(values)`."""
        super().set_data(*self._edges, np.ma.masked_invalid(values[-1]))


def color_scale(ax: Axes, limit: float) -> Cells:
    """Make `ax` a lying scale from −limit to limit."""
    edges = np.linspace(-limit, limit, 256)
    steps = (edges[None, 1:] + edges[None, :-1]) / 2
    scale = Cells(ax, steps, edges=(edges, np.array([0.0, 1.0])), aspect="auto")
    scale.set_clim(-limit, limit)
    ax.set_yticks([])
    ax.set_xticks([-limit, 0, limit], [f"−{limit:.3g}", "0", f"{limit:.3g}"])
    ax.tick_params(length=2 * text_scale(), pad=2)
    return scale
