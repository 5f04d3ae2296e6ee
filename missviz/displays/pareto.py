"""Cost against accuracy: where the front runs, and how sure it is who is on it."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from missviz.analysis.pareto import FrontUnderNoise, front_under_noise
from missviz.displays.base import Display
from missviz.displays.labels import beside_marks
from missviz.style import FAINT, ink, method_styles, row_of_axes, text_scale

LOW, HIGH = 0.29, 0.575
"""Accuracies shown; what is lower stands at the lower edge, as a triangle."""
MOST_TICKS = 5
CUT = 0.06
"""Width of a stretch that is cut out of the axis of costs, as a share of the uncut axis."""
HALO = 330
"""Area of a halo, in square points, at P = 1."""


@dataclass(eq=False, repr=False, kw_only=True)
class ParetoDisplay(Display):
    """Cost against accuracy, with P(on the front) as a halo; the same P for the named methods.

    The band is where 90 % of the repetitions have the front: at each cost the best accuracy that
    it can buy. Both pictures draw a method in the same colour and marker, so the second is the
    legend of the first; in the first a method has its name where that covers nothing. Costs are on
    a logarithmic scale from one edge of the axis to the other.

    Args:
        costs, accuracies: of each method; lower and higher are better.
        names: of each method; "" leaves it grey.
        front: P(on the front), and the band (`missviz.analysis.pareto`).
        cost: what the costs are, for the axis.
        limits: costs at the two edges.
        cut: costs between which there is nothing, so that the axis is cut; None: it is whole.
        ticks: costs that are marked, with their labels.
        noise: what was repeated, for the title.
        note: where the figures come from.

    After `plot`: `dots_`, `marks_` and `bars_` by name, `halos_`, `band_`, `axes_`, `figure_`.

    Raises ValueError where a cost is outside the limits or in the cut, or lengths differ.
    """

    costs: Float[np.ndarray, " method"]
    accuracies: Float[np.ndarray, " method"]
    names: Sequence[str]
    front: FrontUnderNoise
    cost: str
    limits: tuple[float, float]
    ticks: Mapping[float, str]
    noise: str
    note: str = ""
    cut: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        costs, names, chance = self.costs, self.names, self.front.probability
        if not len(costs) == len(self.accuracies) == len(names) == len(chance):
            raise ValueError(
                f"costs ({len(costs)}), accuracies ({len(self.accuracies)}), names ({len(names)}) "
                f"and front ({len(chance)}) are not of one length"
            )
        low, high = self.limits
        if not 0 < low <= min(costs) <= max(costs) <= high:
            raise ValueError(
                f"limits={self.limits} do not hold {self.cost} from {min(costs)} to {max(costs)}"
            )
        if self.cut is not None and ((costs > self.cut[0]) & (costs < self.cut[1])).any():
            raise ValueError(f"cut={self.cut} leaves out {self.cost} that are there")

    @classmethod
    def from_deviations(
        cls,
        costs: Float[np.ndarray, " method"],
        accuracies: Float[np.ndarray, " method"],
        deviations: Float[np.ndarray, " method"],
        **settings: object,
    ) -> "ParetoDisplay":
        """Repeated now, by `front_under_noise`, which takes the `deviations` of the accuracies."""
        front = front_under_noise(costs, accuracies, deviations)
        return cls(costs=costs, accuracies=accuracies, front=front, **settings)  # type: ignore[arg-type]

    def summary(self) -> str:
        chance = self.front.probability
        shown = ", ".join(f"{name} {chance[n]:.0%}" for n, name in enumerate(self.names) if name)
        sure, perhaps = (chance > 0.95).sum(), ((chance >= 0.05) & (chance <= 0.95)).sum()
        return (
            f"Front of {self.cost} and accuracy, {self.noise}: {sure} of {len(chance)} methods on "
            f"it for sure (more than 95%), {perhaps} perhaps. P(on the front): {shown}"
        )

    def plot(self) -> "ParetoDisplay":
        """Draw into a figure of its own."""
        self.axes_ = row_of_axes(11, 4.7, (5.6, 2.0), left=0.7, right=0.3, top=0.35, gap=1.5)
        field, bars = self.axes_
        self.figure_ = field.figure  # type: ignore[assignment]
        field.set(xlim=(0, 1), ylim=(LOW - 0.012, HIGH), ylabel="accuracy")
        heights = [LOW, 0.35, 0.4, 0.45, 0.5, 0.55]
        field.set_yticks(heights, ["less", *(f"{height:.2f}" for height in heights[1:])])
        # Ticks of the axis itself would be laid out anew, with those of all axes, at each frame.
        field.set_xticks([])
        edge = field.get_xaxis_transform()
        below: dict[str, Any] = {"transform": edge, "ha": "center", "va": "top"}
        point = text_scale() * self.figure_.dpi / 72 / field.bbox.height
        self.tick_texts_ = [field.text(0, -7 * point, "", **below) for _ in range(MOST_TICKS)]
        self.cost_ = field.text(0.5, -22 * point, "", **below)
        (self.tick_marks_,) = field.plot([], [], "|", color=ink(), transform=edge, clip_on=False)
        named = [n for n, name in enumerate(self.names) if name]
        bars.set(xlim=(-0.04, 1.08), ylim=(len(named) - 0.5, -0.5), xlabel="P(on the front)")
        bars.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        bars.set_yticks(range(len(named)), [self.names[n] for n in named])
        bars.tick_params(axis="y", length=0)
        self.band_ = PathPatch(Path(np.zeros((1, 2))), color=ink(), alpha=0.3, lw=1.2)
        field.add_patch(self.band_)
        styles = method_styles(name for name in self.names if name)
        colors = [styles[name].color if name else FAINT for name in self.names]
        nowhere = np.zeros(len(colors))
        self.halos_ = field.scatter(nowhere, nowhere, nowhere, c=colors, alpha=0.4, lw=0)
        size = 8 * text_scale()
        self.dots_ = [
            field.plot([], [], marker, color=FAINT, ms=0.6 * size, mew=0)[0] for marker in "ov"
        ]
        self.marks_, self.bars_, self.texts_ = {}, {}, {}
        for row, n in enumerate(named):
            name = self.names[n]
            style = styles[name]
            look = {"marker": style.marker, "color": style.color, "ms": size, "mew": 1.6}
            (self.marks_[name],) = field.plot([], [], ls="", **look)
            (self.bars_[name],) = bars.plot([], [], lw=2.2 * text_scale(), markevery=[1], **look)
            self.bars_[name].set_ydata([row, row])
            self.texts_[name] = field.annotate(
                "",
                (0, 0),
                xycoords="axes fraction",
                ha="center",
                va="center",
                color=style.color,
                weight="bold",
                parse_math=False,
            )
        self.cut_marks_ = LineCollection([], colors=ink(), linewidths=1.2, transform=edge)
        self.cut_marks_.set_clip_on(False)
        field.add_collection(self.cut_marks_, autolim=False)
        self.outcome_ = [self.band_, self.halos_, *self.bars_.values()]
        if self.note:
            self.figure_.text(0.005, 0.012, self.note, fontsize="small", color=FAINT)
        self._fill()
        return self

    def ghost(self, pinned: "ParetoDisplay") -> list[Artist]:
        """Grey strokes across the bars; with the same cost also the edges of the band."""
        field, bars = self.axes_
        chances = [
            p for p, name in zip(pinned.front.probability, pinned.names, strict=True) if name
        ]
        (strokes,) = bars.plot(
            chances, range(len(chances)), "|", color=FAINT, ms=18, mew=3, zorder=1.5
        )
        if pinned.cost != self.cost:
            return [strokes]
        low, high = pinned._edges()
        edges = LineCollection([low, high], colors=FAINT, linewidths=1.2, zorder=0.9)
        field.add_collection(edges, autolim=False)
        return [strokes, edges]

    def _fixed(self) -> Any:
        return list(self.names), self.note

    def _fill(self) -> None:
        self.axes_[0].set_title(f"the front, {self.noise}")
        self.cost_.set_text(self.cost)
        across = self._across(list(self.ticks))
        self.tick_marks_.set_data(across, np.zeros(len(across)))
        middles = [] if self.cut is None else self._across(self.cut).mean() + np.array([0, 0.012])
        self.cut_marks_.set_segments(
            [[(middle - 0.012, -0.02), (middle + 0.004, 0.02)] for middle in middles]
        )
        # As many texts as any cost needs; those left over stay empty.
        shown = [*zip(across, self.ticks.values(), strict=True)]
        shown += [(0, "")] * (MOST_TICKS - len(shown))
        for text, (place, words) in zip(self.tick_texts_, shown, strict=True):
            text.set_x(place)
            text.set_text(words)
        places = np.stack([self._across(self.costs), np.maximum(self.accuracies, LOW)], axis=-1)
        chance = self.front.probability
        grey = np.array([not name for name in self.names])
        too_low = self.accuracies < LOW
        for dots, which in zip(self.dots_, (grey & ~too_low, grey & too_low), strict=True):
            dots.set_data(*places[which].T)
        self.halos_.set_offsets(places)
        self.halos_.set_sizes(HALO * text_scale() ** 2 * chance)
        for n, name in enumerate(self.names):
            if name:
                self.marks_[name].set_data(*places[n : n + 1].T)
                self.bars_[name].set_xdata([0, chance[n]])
        self._place_names(places)
        low, high = self._edges()
        self.band_.set_path(Path(np.concatenate([low, high[::-1]]), closed=False))

    def _place_names(self, places: Float[np.ndarray, "method 2"]) -> None:
        field = self.axes_[0]
        room = field.bbox.size
        point = text_scale() * self.figure_.dpi / 72
        marks = field.transData.transform(places) - field.bbox.p0
        radius = np.array([4.5 if name else 3.0 for name in self.names])[:, None] * point
        named = [n for n, name in enumerate(self.names) if name]
        short = [_family(self.names[n]) for n in named]
        sizes = np.array([(7 * len(name) + 3, 10.5) for name in short]).reshape(-1, 2) * point
        taken = np.hstack([marks - radius, marks + radius])
        middles = beside_marks(marks[named], sizes, taken, room, 6 * point)
        for n, name, middle in zip(named, short, middles, strict=True):
            text = self.texts_[self.names[n]]
            text.set_text(name if middle else "")
            across, up = np.array(middle or (0, 0)) / room
            text.xy = text.xyann = float(across), float(up)

    def _across(self, costs: Sequence[float] | np.ndarray) -> Float[np.ndarray, " cost"]:
        """Places on the axis, 0 to 1."""
        low, high = self.limits
        places = np.log(np.asarray(costs, dtype=float) / low) / math.log(high / low)
        if self.cut is None:
            return places
        first, last = (math.log(cost / low) / math.log(high / low) for cost in self.cut)
        whole = 1 - (last - first) + CUT
        return (
            np.interp(places, [0, first, last, 1], np.array([0, first, first + CUT, whole])) / whole
        )

    def _edges(self) -> tuple[Float[np.ndarray, "corner 2"], Float[np.ndarray, "corner 2"]]:
        """Lower and upper edge of the band, as stairs that go up where something costs more."""
        across = self._across(np.sort(self.costs))
        across = np.append(np.repeat(across, 2)[1:], 1)

        def stairs(heights: np.ndarray) -> np.ndarray:
            return np.stack([across, np.repeat(np.maximum(heights, LOW), 2)], axis=-1)

        return stairs(self.front.low), stairs(self.front.high)


def _family(name: str) -> str:
    """A name without its numbers: "MiSS mini" for "MiSS mini 64×64"."""
    return " ".join(itertools.takewhile(lambda word: not re.search(r"=|\d×", word), name.split()))
