"""Curves with bands in one axes, each with its name at its end."""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from missviz.displays.labels import LINE, apart, lying_on_one_another
from missviz.intervals import half_width
from missviz.style import FAINT, MethodStyle, ink, text_scale

MARGIN = 0.06
"""Of the axes' height, free above and below the curves."""
MARKERS = 6
"""On each line, about as many; not at the same steps, so that none hides another."""
WRAP = 13
"""Characters in a line of a name."""
LONGEST_WORD = 40
"""Characters of a word before it is broken too."""
LED = 14
"""Points from the axes to where a line that is drawn on ends."""


@dataclass(frozen=True)
class Curve:
    """A mean over seeds with its 95 % interval, from step 0 on; NaN where it is not finite."""

    mean: Float[np.ndarray, " steps"]
    low: Float[np.ndarray, " steps"]
    high: Float[np.ndarray, " steps"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "seeds steps"]) -> "Curve":
        """Over seeds."""
        with np.errstate(invalid="ignore", over="ignore"):
            mean, half = np.mean(values, axis=0, dtype=np.float64), half_width(values)
        mean, half = (np.where(np.isfinite(part), part, np.nan) for part in (mean, half))
        return cls(mean, mean - half, mean + half)


class EndLabels:
    """Each line's name right of the axes. Lines that cannot be told apart share one label.

    A line is drawn on to its name, with its marker: so a name may stand apart from its line's end,
    and need not be in a colour in which text cannot be read. Names keep clear of each other.

    Args:
        ax: that the lines are on; right of it there must be room for the names (`room_for`).
        lines: by the name that is written.

    `place()` again after the lines' data have changed. `texts` are as many as lines, `leaders` as
    many as labels.
    """

    def __init__(self, ax: Axes, lines: Mapping[str, Line2D]) -> None:
        self.ax, self.lines = ax, dict(lines)
        self.leaders: list[Line2D] = []
        self.texts: list[Annotation] = [
            ax.annotate(
                "",
                (1, 0),
                xytext=((LED + 6) * text_scale(), 0),
                xycoords="axes fraction",
                textcoords="offset points",
                va="center",
                color=ink(),
                linespacing=1.1,
                parse_math=False,
                annotation_clip=False,
            )
            for _ in self.lines
        ]
        self.place()

    def place(self) -> None:
        """Say where the lines end now."""
        for leader in self.leaders:
            leader.remove()
        groups = lying_on_one_another(self.lines)
        groups.sort(key=lambda group: end_of(self.lines[group[0]]))
        said = ["\n".join(broken("\n≈ ".join(group))) for group in groups]
        line = LINE * text_scale() * self.ax.figure.dpi / 72 / self.ax.bbox.height
        heights = [line * (words.count("\n") + 1) for words in said]
        places = apart([end_of(self.lines[group[0]]) for group in groups], heights).tolist()
        self.leaders = [
            lead(self.lines[group[0]], place) for group, place in zip(groups, places, strict=True)
        ]
        for text in self.texts:
            text.set_text("")
        for text, words, place in zip(self.texts, said, places, strict=False):
            text.xy = 1, place
            text.set_text(words)


def room_for(names: Iterable[str]) -> float:
    """Inches that led labels of these names take, at normal text size."""
    return (LED + 10 + 5.8 * max(len(line) for name in names for line in broken(name))) / 72


def broken(name: str, width: int = WRAP) -> list[str]:
    """A name in lines of about as many characters, and of at most `LONGEST_WORD`."""
    return [
        line
        for part in name.split("\n")
        for line in textwrap.wrap(
            " ".join(
                word[start : start + LONGEST_WORD]
                for word in part.split(" ")
                for start in range(0, len(word) or 1, LONGEST_WORD)
            ),
            width,
            break_long_words=False,
        )
    ]


def end_of(line: Line2D) -> float:
    """Height of a line's last point, as a share of its axes', at least 0 and at most 1."""
    ax = line.axes
    assert ax is not None
    last = ax.transData.transform((0, np.asarray(line.get_ydata(), dtype=float)[-1]))
    return float(np.clip(ax.transAxes.inverted().transform(last)[1], 0, 1))


def lead(line: Line2D, place: float) -> Line2D:
    """Draw `line` on from its end to a name at this height of the axes, with its marker there."""
    ax = line.axes
    assert ax is not None
    leader = Line2D([], [])
    leader.update_from(line)
    away = LED * text_scale() * ax.figure.dpi / 72 / ax.bbox.width
    leader.set_data([1, 1 + away], [end_of(line), place])
    leader.set(transform=ax.transAxes, clip_on=False, markevery=[1], linestyle="-")
    return ax.add_line(leader)


class Curves:
    """Curves by name in one axes: lines, bands and names, with limits that show all of them.

    Args:
        ax: empty.
        styles: of every curve, in the order in which they are drawn.
        curves: by name, equally long.
        levels: horizontal lines by name: what needs no training.
        floor: where the axis starts, whatever the curves do.
        most: no limit is further from 0; of a curve that goes there, the name says how far.
        named: whether to write the names; they take room right of the axes.

    Attributes: `lines`, `bands` and `levels` by name; `labels`, or None.
    """

    def __init__(
        self,
        ax: Axes,
        styles: Mapping[str, MethodStyle],
        curves: Mapping[str, Curve],
        levels: Mapping[str, float] | None = None,
        *,
        floor: float | None = None,
        most: float = np.inf,
        named: bool = True,
    ) -> None:
        self.ax = ax
        self.lines: dict[str, Line2D] = {}
        self.bands: dict[str, PolyCollection] = {}
        steps = len(next(iter(curves.values())).mean)
        stride = max(1, steps // MARKERS)
        for place, (name, style) in enumerate(styles.items()):
            (self.lines[name],) = ax.plot(
                [],
                [],
                color=style.color,
                linestyle=style.linestyle,
                marker=style.marker,
                markevery=(place * stride // len(styles), stride),
                markersize=4 * text_scale(),
                label=name,
            )
            self.bands[name] = PolyCollection([], facecolor=style.color, alpha=0.2, lw=0)
            ax.add_collection(self.bands[name], autolim=False)
        self.levels = {
            name: ax.axhline(0, color=ink(), lw=text_scale(), ls=(0, (1, 1)))
            for name in levels or {}
        }
        ax.set(xlabel="step", xlim=(0, max(1, steps - 1)))
        everything = {**self.lines, **self.levels}
        self.labels = EndLabels(ax, everything) if named else None
        self._shown, self._pinned = True, dict[str, Curve]()
        self._curves = dict(curves)
        self.show(curves, levels, floor=floor, most=most)
        # Names stay at the ends of their lines when a lecturer zooms in.
        ax.callbacks.connect("ylim_changed", lambda _: self._name())

    @property
    def outcome(self) -> list[Artist]:
        """What training gave."""
        return [*self.lines.values(), *self.bands.values()]

    def show(
        self,
        curves: Mapping[str, Curve],
        levels: Mapping[str, float] | None = None,
        *,
        floor: float | None = None,
        most: float = np.inf,
    ) -> None:
        """Draw these curves, of the same names, with the artists that are there."""
        self._curves, self._floor, self._most = dict(curves), floor, most
        for name, curve in curves.items():
            steps = np.flatnonzero(np.isfinite(curve.mean))
            self.lines[name].set_data(steps, curve.mean[steps])
            self.bands[name].set_verts([_outline(curve)])
        for name, level in (levels or {}).items():
            self.levels[name].set_ydata([level, level])
        self._fit()

    def reveal(self, shown: bool) -> None:
        """Write the names of the curves, or only those of the levels."""
        if shown != self._shown:
            self._shown = shown
            self._name()

    def ghost(self, pinned: Mapping[str, Curve]) -> list[Artist]:
        """These means in grey, each with its method's dash, and limits that show them too."""
        self._pinned = dict(pinned)
        self._fit()
        return [
            self.ax.add_line(
                Line2D(
                    np.arange(len(curve.mean)),
                    curve.mean,
                    color=FAINT,
                    linestyle=self.lines[name].get_linestyle(),
                    zorder=1.9,
                )
            )
            for name, curve in pinned.items()
        ]

    def unpin(self) -> None:
        """Limits for what is left once the ghost has gone."""
        self._pinned = {}
        self._fit()

    def _fit(self) -> None:
        drawn = [*self._curves.values(), *self._pinned.values()]
        ends = [part for curve in drawn for part in (curve.mean, curve.low, curve.high)]
        levels = np.ravel([line.get_ydata() for line in self.levels.values()])
        values = np.concatenate([*ends, levels])
        values = values[np.isfinite(values)].clip(-self._most, self._most)
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        low = low if self._floor is None else self._floor
        room = MARGIN * (high - low) or 1e-3
        bottom, top = low - room * (self._floor is None), high + room
        if (bottom, top) != self.ax.get_ylim():
            self.ax.set_ylim(bottom, top, emit=False)
        self._name()

    def _name(self) -> None:
        if self.labels is None:
            return
        lines = {self._named(name): line for name, line in self.lines.items() if self._shown}
        self.labels.lines = {**lines, **self.levels}
        self.labels.place()

    def _named(self, name: str) -> str:
        mean = self._curves[name].mean
        if not np.isfinite(mean[-1]):
            return f"{name} diverged"
        low, high = self.ax.get_ylim()
        arrow = "↑" if mean[-1] > high else "↓" if mean[-1] < low else ""
        return f"{name} {arrow} {mean[-1]:.3g}" if arrow else name


def _outline(curve: Curve) -> Float[np.ndarray, "points 2"]:
    """The band's outline: along its lower edge and back along the upper."""
    steps = np.flatnonzero(np.isfinite(curve.low))
    low, high = curve.low[steps], curve.high[steps]
    return np.column_stack([np.r_[steps, steps[::-1]], np.r_[low, high[::-1]]])
