"""Pictures of a figure whose data change: ticks, labels and legends are drawn once, data each time.

matplotlib's draw is what a slider waits for, and text is most of it. What did not change is kept
as pixels. The result is that of a full draw, pixel for pixel, as long as nothing lies below an axis
(`Axes.set_axisbelow(True)`, which `style.row_of_axes` sets) and axes do not overlap.
"""

import io
import itertools
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
        self._kept: list[Artist] = []
        """What is in it."""

    @property
    def touched(self) -> bool:
        """Whether anybody changed the figure since it was drawn."""
        return self._background is not None and bool(self.figure.stale)

    def settle(self) -> None:
        """From here on, what changed before counts as drawn."""
        self.figure.stale = False

    def begin_anew(self) -> None:
        """Draw everything the next time, not only what is known to move."""
        self._background = None

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
        if self._background is None:
            self._canvas.draw()  # settles aspects and the places of titles
        still = [_still(ax) for ax in axes]
        kept = [self.figure.patch, *itertools.chain(*still)]
        if self._background is None or kept != self._kept or any(part.stale for part in kept):
            renderer.clear()
            for part in kept:
                part.draw(renderer)
            self._background, self._kept = self._canvas.copy_from_bbox(self.figure.bbox), kept
        else:
            self._canvas.restore_region(self._background)
        moving = [_moving(ax, parts) for ax, parts in zip(axes, still, strict=True)]
        for artist in itertools.chain(*moving, _beside(self.figure)):
            artist.draw(renderer)
        self.settle()


def _still(ax: Axes) -> list[Artist]:
    """What an axes draws first, and a legend that lies beside it."""
    legend = ax.get_legend()
    parts: list[Artist] = [ax.patch, *((ax.xaxis, ax.yaxis) * ax.axison)]
    if legend is not None and not legend.get_window_extent().overlaps(ax.bbox):
        parts.append(legend)
    return parts


def _moving(ax: Axes, still: list[Artist]) -> list[Artist]:
    """All else, in the order in which it is drawn."""
    frame = [] if ax.axison else [ax.xaxis, ax.yaxis, *ax.spines.values()]
    artists = [artist for artist in ax.get_children() if artist not in {*still, *frame}]
    return sorted(artists, key=attrgetter("zorder"))


def _beside(figure: Figure) -> list[Artist]:
    """What lies on the figure itself."""
    artists = [*figure.artists, *figure.lines, *figure.patches, *figure.texts, *figure.legends]
    return sorted(artists, key=attrgetter("zorder"))
