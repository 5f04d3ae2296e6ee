"""Pictures of a figure whose data change: ticks and labels are drawn once, the data each time.

matplotlib's draw is what a slider waits for, and text is most of it. Axes that do not change are
kept as pixels. The result is that of a full draw, pixel for pixel, as long as nothing lies below
an axis (`Axes.set_axisbelow(True)`, which `style.row_of_axes` sets) and axes do not overlap.
"""

import io
from operator import attrgetter
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


class Frames:
    """The frames of one figure."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self._canvas = FigureCanvasAgg(figure)
        self._background: Any = None

    def png(self) -> bytes:
        """The figure as it is now, packed lightly: drawing costs more than bytes to a local
        browser."""
        self.draw()
        packed = io.BytesIO()
        picture = Image.fromarray(np.asarray(self._canvas.buffer_rgba())).convert("RGB")
        picture.save(packed, "png", compress_level=1)
        return packed.getvalue()

    def draw(self) -> None:
        """Draw what may have changed since the last time."""
        axes = sorted(self.figure.axes, key=attrgetter("zorder"))
        renderer = self._canvas.get_renderer()
        if self._background is None or any(part.stale for part in self._still(axes)):
            self._canvas.draw()  # settles aspects, ticks and places of titles
            renderer.clear()
            for part in self._still(axes):
                part.draw(renderer)
            self._background = self._canvas.copy_from_bbox(self.figure.bbox)
        else:
            self._canvas.restore_region(self._background)
        for artist in [*(artist for ax in axes for artist in _moving(ax)), *_beside(self.figure)]:
            artist.draw(renderer)

    def _still(self, axes: list[Axes]) -> list[Artist]:
        return [
            self.figure.patch,
            *(part for ax in axes for part in (ax.patch, *((ax.xaxis, ax.yaxis) * ax.axison))),
        ]


def _moving(ax: Axes) -> list[Artist]:
    """What an axes draws besides its patch and its axis, in that order."""
    frame = set(ax.spines.values()) if not ax.axison else set()
    still = {ax.patch, ax.xaxis, ax.yaxis, *frame}
    artists = [artist for artist in ax.get_children() if artist not in still]
    return sorted(artists, key=attrgetter("zorder"))


def _beside(figure: Figure) -> list[Artist]:
    """What lies on the figure itself."""
    artists = [*figure.artists, *figure.lines, *figure.patches, *figure.texts, *figure.legends]
    return sorted(artists, key=attrgetter("zorder"))
