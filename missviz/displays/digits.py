"""Digits in the cells of a square, as two artists instead of one per cell.

matplotlib spends about a millisecond on every Text; 200 of them make a slider feel slow. Here all
digits of a square are outlines in one path per colour.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from missviz.style import text_scale

HEIGHT = 0.26
"""Of a digit, in cells."""
MOST_SCALE = 1.25
"""Digits must stay inside their cells in lecture mode."""


class Digits:
    """One number per cell of an image on `ax`; light on cells beyond `dark_from`.

    `words` says how a number is written, by default to one decimal; `strings` holds what is shown,
    row by row; `patches` are the two artists.
    """

    def __init__(
        self, ax: Axes, dark_from: float, words: Callable[[float], str] | None = None
    ) -> None:
        self.dark_from, self.words = dark_from, words or _one_decimal
        self.strings: list[str] = []
        nothing = Path(np.empty((0, 2)))
        self._black = PathPatch(nothing, facecolor="black", lw=0)
        self._white = PathPatch(nothing, facecolor="white", lw=0)
        self.patches = (self._black, self._white)
        for patch in self.patches:
            ax.add_patch(patch)

    def set(
        self, values: Float[np.ndarray, "rows columns"], corner: tuple[int, int] = (0, 0)
    ) -> None:
        """Show `values`, the first in the cell (row, column) `corner`; NaN cells stay empty."""
        self.strings = [
            "" if np.isnan(value) else self.words(float(value)) for value in values.flat
        ]
        paths: dict[bool, list[Path]] = {True: [], False: []}
        for string, (cell, value) in zip(self.strings, np.ndenumerate(values), strict=True):
            if string:
                outline = _outline(string, min(text_scale(), MOST_SCALE) * HEIGHT)
                placed = np.asarray(outline.vertices) + np.add(cell, corner)[::-1]
                paths[bool(abs(value) > self.dark_from)].append(Path(placed, outline.codes))
        for patch, dark in ((self._white, True), (self._black, False)):
            patch.set_path(Path.make_compound_path(*paths[dark]))


def _one_decimal(value: float) -> str:
    return f"{value:.1f}".replace("-0.0", "0.0")


@functools.lru_cache(maxsize=1024)
def _outline(string: str, height: float) -> Path:
    """The string's outline around the origin, in cells, y downwards as in images."""
    path = TextPath((0, 0), string, size=1)
    digit_height = TextPath((0, 0), "0", size=1).get_extents().height
    box = path.get_extents()
    centre = np.array([(box.x0 + box.x1) / 2, digit_height / 2])
    scale = height / digit_height
    return Path((np.asarray(path.vertices) - centre) * np.array([scale, -scale]), path.codes)
