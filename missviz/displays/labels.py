"""Names of lines: at their ends, or beside samples; and which lines lie on one another, so that
only one can be seen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text

from missviz.style import text_scale

LINE = 14
"""Points from one line of text to the next, at normal text size."""


SAMPLE = 0.4
"""Inches across of a sample, at normal text size: a dash and a marker can be seen."""


class Key:
    """Samples of lines, one below the other in a strip above `ax`, with words beside them.

    A legend whose words change is laid out anew, which takes as long as the rest of a picture.

    Args:
        ax: above it there must be room for as many lines of text.
        looks: of the samples, as `Axes.plot` takes them.
        left: where the strip begins, as a share of the axes' width.

    `samples` and `texts` are the artists.
    """

    def __init__(self, ax: Axes, looks: Sequence[Mapping[str, Any]], *, left: float = 0.0) -> None:
        inch = text_scale() * ax.figure.dpi
        line, across = LINE / 72 * inch / ax.bbox.height, SAMPLE * inch / ax.bbox.width
        self.samples, self.texts = [], []
        for row, look in enumerate(looks):
            height = 1 + line * (len(looks) - row - 0.35)
            places = [left, left + across / 2, left + across], [height] * 3
            outside: dict[str, Any] = {"transform": ax.transAxes, "clip_on": False}
            self.samples += ax.plot(*places, markevery=[1], **outside, **look)
            words = ax.text(left + 1.25 * across, height, "", va="center", transform=ax.transAxes)
            words.set_color(look.get("color", words.get_color()))
            self.texts.append(words)

    def set(self, *words: str) -> None:
        """Say what each sample means."""
        for text, said in zip(self.texts, words, strict=True):
            text.set_text(said)


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
        groups = lying_on_one_another(self.lines)
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
    than a line's width apart in the picture as its limits are now. Lines without points have no
    place among them."""
    groups: list[list[str]] = []
    for name, line in lines.items():
        if not len(line.get_xydata()):
            continue
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
