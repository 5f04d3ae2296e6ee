"""Words about lines: beside samples, or above the axes; where names have room; and which lines lie
on one another, so that only one can be seen."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

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


LETTER = 0.082
"""Inches across of a letter on average, at normal text size."""
ROW = 0.2
"""Inches from one line of words to the next, at normal text size."""


class WordsAbove:
    """Lines of words from the top of a figure downwards, broken where the figure ends.

    Beside the axes they would take a third of a slide. `texts` are the artists.
    """

    def __init__(self, figure: Figure, count: int) -> None:
        self.figure = figure
        left = 0.1 * text_scale() / figure.get_figwidth()
        look: dict[str, Any] = {"va": "top", "linespacing": 1.15, "parse_math": False}
        self.texts = [figure.text(left, 1, "", **look) for _ in range(count)]

    def set(self, *words: str) -> None:
        """Say these, one below the other; "" takes no line."""
        across = int(self.figure.get_figwidth() / (LETTER * text_scale()))
        row, before = ROW * text_scale() / self.figure.get_figheight(), 0.3
        for text, said in zip(self.texts, words, strict=True):
            lines = textwrap.wrap(said, across)
            text.set_text("\n".join(lines))
            text.set_y(1 - row * before)
            before += len(lines)


def lying_on_one_another(lines: Mapping[str, Line2D]) -> list[list[str]]:
    """Names of lines, together where a line covers the first of them: at every point they are less
    than a line's width apart in the picture as its limits are now. Lines without points have no
    place among them."""
    groups: list[list[str]] = []
    for name, line in lines.items():
        if not len(points_of(line)):
            continue
        covered = next((group for group in groups if _covers(line, lines[group[0]])), None)
        if covered is None:
            groups.append([name])
        else:
            covered.append(name)
    return groups


def points_of(line: Line2D) -> Float[np.ndarray, "n 2"]:
    """(x, y) of a line's points; it may have none."""
    return np.asarray(line.get_xydata(), dtype=float)


def _covers(one: Line2D, other: Line2D) -> bool:
    first, second = (line.get_transform().transform(points_of(line)) for line in (one, other))
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


def below(ax: Axes, **look: Any) -> Annotation:
    """An empty line of text below `ax`, wherever its aspect leaves it."""
    return ax.annotate(
        "",
        (0.5, 0),
        xytext=(0, -6 * text_scale()),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="center",
        va="top",
        **look,
    )


SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a name may stand beside its mark: right, left, above, below, and between."""


def beside_marks(
    marks: Float[np.ndarray, "n 2"],
    sizes: Float[np.ndarray, "n 2"],
    taken: Float[np.ndarray, "m 4"],
    room: tuple[float, float],
    nearest: float,
) -> list[tuple[float, float] | None]:
    """The middle of each mark's name, where it covers nothing; None where there is no such place.

    All in pixels from the lower left corner of the axes.

    Args:
        marks: to be named, first come first served.
        sizes: width and height of the names.
        taken: boxes that must stay visible: left, lower, right, upper end.
        room: width and height of the axes.
        nearest: from the middle of a mark to its name.
    """
    places: list[tuple[float, float] | None] = []
    for mark, size in zip(marks, sizes, strict=True):
        found = None
        for times, side in itertools.product((1, 1.6, 2.4), SIDES):
            middle = mark + np.array(side) * (nearest * times / np.hypot(*side) + size / 2)
            box = np.concatenate([middle - size / 2, middle + size / 2])
            inside = (box[:2] >= 0).all() and (box[2:] <= room).all()
            clear = (box[:2] >= taken[:, 2:]) | (box[2:] <= taken[:, :2])
            if inside and clear.any(axis=1).all():
                found, taken = (float(middle[0]), float(middle[1])), np.vstack([taken, box])
                break
        places.append(found)
    return places
