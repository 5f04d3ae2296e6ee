"""Names at the ends of lines; and which lines lie on one another, so that only one can be seen."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text

from missviz.style import text_scale

LINE = 14
"""Points from one line of text to the next, at normal text size."""


class EndLabels:
    """Each line's name beside its right end, in its colour, right of the axes.

    Lines that cannot be told apart share one label, "LoRA r=2\\n= PiSSA r=2". Labels keep clear of
    each other: they move apart as little as they can.

    Args:
        ax: that the lines are on; right of it there must be room for the names.
        lines: by the name that is written.

    `place()` again after the lines' data have changed. `texts` are the artists, as many as lines.
    """

    def __init__(self, ax: Axes, lines: Mapping[str, Line2D]) -> None:
        self.ax, self.lines = ax, dict(lines)
        self.texts: list[Text] = [
            ax.annotate(
                "",
                (1, 0),
                xytext=(6 * text_scale(), 0),
                xycoords="axes fraction",
                textcoords="offset points",
                va="center",
                linespacing=1.1,
                parse_math=False,
                annotation_clip=False,
            )
            for _ in self.lines
        ]
        self.place()

    def place(self) -> None:
        """Say where the lines end now."""
        drawn = {name: line for name, line in self.lines.items() if len(line.get_xydata())}
        groups = lying_on_one_another(drawn)
        ends = np.array([self._end(self.lines[group[0]]) for group in groups])
        line = LINE * text_scale() * self.ax.figure.dpi / 72 / self.ax.bbox.height
        order = np.argsort(ends)
        heights = line * np.array([len(groups[n]) for n in order])
        places = np.empty(len(groups))
        places[order] = apart(ends[order], heights)
        for text in self.texts:
            text.set_text("")
        for text, group, place in zip(self.texts, groups, places, strict=False):
            text.xy = 1, place
            text.set_text("\n= ".join(group))
            text.set_color(self.lines[group[0]].get_color())

    def _end(self, line: Line2D) -> float:
        """Height of its last point, in the axes' height, at most 1."""
        last = self.ax.transData.transform(line.get_xydata()[-1:])
        return float(np.clip(self.ax.transAxes.inverted().transform(last)[0, 1], 0, 1))


def lying_on_one_another(lines: Mapping[str, Line2D]) -> list[list[str]]:
    """Names of lines, together where a line covers the first of them: at every point they are less
    than a line's width apart in the picture as its limits are now."""
    groups: list[list[str]] = []
    for name, line in lines.items():
        covered = next((group for group in groups if _covers(line, lines[group[0]])), None)
        if covered is None:
            groups.append([name])
        else:
            covered.append(name)
    return groups


def _covers(one: Line2D, other: Line2D) -> bool:
    first, second = (line.get_transform().transform(line.get_xydata()) for line in (one, other))
    if first.shape != second.shape or len(first) == 0:
        return False
    width = max(one.get_linewidth(), other.get_linewidth()) * one.axes.figure.dpi / 72  # type: ignore[union-attr]
    return bool((np.abs(first - second) < width).all())


def apart(
    wanted: Sequence[float] | Float[np.ndarray, " n"],
    sizes: Sequence[float] | Float[np.ndarray, " n"],
    low: float = 0.0,
    high: float = 1.0,
) -> Float[np.ndarray, " n"]:
    """Middles of intervals of these sizes, in the order of `wanted`, that do not overlap, as near
    to `wanted` as can be in least squares; inside low to high where there is room for all."""
    wanted, sizes = np.asarray(wanted, dtype=float), np.asarray(sizes, dtype=float)
    # Interval n can start no lower than all before it together: without those, only order counts.
    before = np.cumsum(sizes) - sizes / 2
    blocks: list[tuple[float, int]] = []
    for place in wanted - before:
        block = place, 1
        while blocks and blocks[-1][0] > block[0]:  # pool what would change places
            mean, count = blocks.pop()
            total = count + block[1]
            block = (mean * count + block[0] * block[1]) / total, total
        blocks.append(block)
    starts = np.array([mean for mean, count in blocks for _ in range(count)])
    return np.clip(starts, low, max(low, high - sizes.sum())) + before
