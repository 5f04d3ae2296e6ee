"""Colours for signed values: where they end, what lies beyond, and a scale that says so."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

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


def color_scale(ax: Axes, limit: float) -> AxesImage:
    """Make `ax` a lying scale from −limit to limit."""
    steps = np.linspace(-limit, limit, 255)[None]
    look: dict[str, Any] = {"cmap": DIVERGING, "clim": (-limit, limit), "aspect": "auto"}
    image = ax.imshow(steps, extent=(-limit, limit, 0, 1), **look)
    ax.set_yticks([])
    ax.set_xticks([-limit, 0, limit], [f"−{limit:.3g}", "0", f"{limit:.3g}"])
    ax.tick_params(length=2 * text_scale(), pad=2)
    return image
