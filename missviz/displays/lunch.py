"""Figure 2 of the MiSS paper: curves, losses, and time, with a row for each method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from missviz.displays.base import Display
from missviz.displays.curves import LED, Curves, broken, lead
from missviz.displays.labels import lying_on_one_another
from missviz.displays.race import CONSTANT, RaceDisplay, choose_target
from missviz.experiments.runs import Runs
from missviz.style import FAINT, MethodStyle, ink, method_styles, paper, row_of_axes, text_scale

BASELINES = ("constant", "unadapted")
METRICS = {
    "final train": "last\ntraining",
    "min valid": "lowest\nvalidation",
    "test": "test, at lowest\nvalidation",
}
WRAP = 19
"""Characters in a line of a name."""
FAR = 2
"""A difference beyond as many times what four in five stay within is written at the edge, so that
those can be seen."""
WIDTHS = {"curves": 2.0, "differences": 1.05, "times": 1.4}
"""Of the parts, relative to each other."""


@dataclass(eq=False, repr=False, kw_only=True)
class LunchDisplay(Display):
    """Training curves that end at the methods' names; in the same rows each method's last training
    loss and its loss on held-out points, as paired differences to one method, with 95 % intervals;
    and, where it was measured, how long a layer takes.

    Rows stand in the order of the curves' ends.

    Args:
        race: the curves.
        losses: rows of `Runs.summary()` for one target and one rate per method.
        timings: `adapter_timings`, or None: there is then no such part.

    After `plot`: `axes_` (curves, two of differences, times), `curves_`, `rows_` (heights by name),
    `points_` by (method, metric), `times_` by (method, "train" or "init"), `figure_`.
    """

    race: RaceDisplay
    losses: pd.DataFrame
    timings: pd.DataFrame | None

    @classmethod
    def from_runs(
        cls, runs: Runs, *, target: str | None = None, reference: str | None = None
    ) -> "LunchDisplay":
        """One target (default: the first), each method's first rate, and the reference as in
        `Runs.summary`: LoRA or the first method."""
        target = choose_target(runs, target)
        race = RaceDisplay.from_runs(runs, "train", target=target, reference=reference)
        summary = runs.summary(race.reference)
        losses = summary[summary["target"] == target].drop_duplicates(["method", "metric"])
        return cls(race=race, losses=losses, timings=runs.timings)

    @property
    def metrics(self) -> list[str]:
        """The losses that are compared: on what was trained on, and on what was not."""
        held_out = "test" if "test" in set(self.losses["metric"]) else "min valid"
        return ["final train", held_out]

    @property
    def parts(self) -> int:
        """How many axes there are."""
        return 3 if self.timings is None else 4

    def summary(self) -> str:
        held_out = self.losses[self.losses["metric"] == self.metrics[1]].sort_values("mean")
        order = ", ".join(f"{row.method} {row.mean:.3g}" for row in held_out.itertuples())
        return f"{self.race.summary()}. {self.metrics[1]} loss: {order}"

    def plot(self, axes: Sequence[Axes] | None = None) -> Self:
        """Draw into as many axes as there are `parts`, or into a figure of its own.

        Right of the first axes there must be room for the names.
        """
        self.axes_ = self._own_axes() if axes is None else list(axes)
        if len(self.axes_) != self.parts:
            raise ValueError(f"axes has {len(self.axes_)}; there are {self.parts} parts")
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        styles = method_styles(self.race.losses)
        self._plot_curves(self.axes_[0], styles)
        self.points_: dict[tuple[str, str], Any] = {}
        for ax, metric in zip(self.axes_[1:3], self.metrics, strict=True):
            self._plot_differences(ax, metric, styles)
        self.axes_[1].set_title(
            f"loss minus {self.race.reference}'s", loc="left", fontsize="medium", parse_math=False
        )
        self.times_: dict[tuple[str, str], Any] = {}
        if self.timings is not None:
            self._plot_times(self.axes_[3], self.timings, styles)
        return self

    def _own_axes(self) -> list[Axes]:
        """Curves, room for the names, and the other parts closer together."""
        tall = 4.3 + max(0, 0.2 * (len(self._names()) - 14))
        (first,) = row_of_axes(11, tall, left=0.45, right=0.15, bottom=0.62, top=0.32)
        figure = first.figure
        assert isinstance(figure, Figure)
        wide = figure.get_size_inches()[0]
        box = first.get_position()
        longest = max(len(line) for name in self._names() for line in broken(name, WRAP))
        room, gap = (
            inches * text_scale() / wide for inches in ((LED + 16 + 5.4 * longest) / 72, 0.18)
        )
        kinds = ["curves", "differences", "differences", "times"][: self.parts]
        free = box.width - room - gap * (self.parts - 2)
        unit = free / sum(WIDTHS[kind] for kind in kinds)
        axes, left = [first], box.x0
        for place, kind in enumerate(kinds):
            if place:
                axes.append(figure.add_axes((0, 0, 1, 1)))
                axes[-1].set_axisbelow(True)
            axes[-1].set_position((left, box.y0, unit * WIDTHS[kind], box.height))
            left += unit * WIDTHS[kind] + (gap if place else room)
        return axes

    def _names(self) -> list[str]:
        """Methods and the constant predictor, by their training loss, lowest first."""
        ends = {name: curve.mean[-1] for name, curve in self.race.curves.items()}
        ends[CONSTANT] = self.race.constant
        return sorted(ends, key=lambda name: (np.isnan(ends[name]), ends[name]))

    def _plot_curves(self, ax: Axes, styles: dict[str, MethodStyle]) -> None:
        levels = {CONSTANT: self.race.constant}
        self.curves_ = Curves(ax, styles, self.race.curves, levels, floor=0.0, named=False)
        ax.set_title("training loss", loc="left", fontsize="medium")
        lines = {**self.curves_.lines, **self.curves_.levels}
        names = self._names()
        group = {
            name: place for place, group in enumerate(lying_on_one_another(lines)) for name in group
        }
        said = [
            broken(f"≈ {name}" if group.get(higher) == group[name] else name, WRAP)
            for name, higher in zip(names, [*names[1:], ""], strict=True)
        ]
        heights = np.array([len(words) + 0.4 for words in said])
        middles = (np.cumsum(heights) - heights / 2) / heights.sum()
        self.rows_ = dict(zip(names, middles.tolist(), strict=True))
        for (name, row), words in zip(self.rows_.items(), said, strict=True):
            lead(lines[name], row)
            ax.annotate(
                "\n".join(words),
                (1, row),
                xytext=((LED + 7) * text_scale(), 0),
                xycoords="axes fraction",
                textcoords="offset points",
                va="center",
                fontsize=9 * text_scale(),
                linespacing=1.1,
                parse_math=False,
                annotation_clip=False,
            )

    def _plot_differences(self, ax: Axes, metric: str, styles: dict[str, MethodStyle]) -> None:
        rows = self.losses[self.losses["metric"] == metric].set_index("method")
        gaps = {name: rows.loc["constant" if name == CONSTANT else name] for name in self.rows_}
        reach = {
            name: np.nanmax(np.abs(gap[["difference", "difference_low", "difference_high"]]))
            for name, gap in gaps.items()
            if name not in (CONSTANT, self.race.reference)
        }
        limit = _limit(list(reach.values()))
        self._prepare_rows(ax)
        ax.set_xlim(-limit, limit)
        ax.axvline(0, color=ink(), lw=0.8 * text_scale(), zorder=1)
        _tick(ax, limit)
        ax.set_xlabel(METRICS[metric])
        for name, row in self.rows_.items():
            gap = gaps[name]
            style = styles.get(name, MethodStyle(ink(), "_", "-"))
            if not abs(gap["difference"]) <= limit:
                self.points_[name, metric] = _outside(ax, gap["difference"], row)
                continue
            error = None
            if name != self.race.reference and pd.notna(gap["difference_low"]):
                error = [
                    [gap["difference"] - gap["difference_low"]],
                    [gap["difference_high"] - gap["difference"]],
                ]
            self.points_[name, metric] = ax.errorbar(
                gap["difference"],
                row,
                xerr=error,
                color=style.color,
                marker=style.marker,
                markersize=5 * text_scale(),
                capsize=2 * text_scale(),
                ls="",
            )

    def _plot_times(self, ax: Axes, timings: pd.DataFrame, styles: dict[str, MethodStyle]) -> None:
        self._prepare_rows(ax)
        ax.set_xscale("log")
        ax.set_title("start", loc="left", fontsize="medium")
        ax.set_title("20 steps", loc="right", fontsize="medium")
        ax.set_xlabel("ms, one\n64 × 64 layer")
        most = np.log(timings["num_parameters"].max())
        for family, table in timings.groupby("family", sort=False):
            name = str(family)
            if name not in self.rows_:
                continue
            style = styles[name]
            for kind, filled in (("train", True), ("init", False)):
                size = 5 * text_scale() * np.log(table["num_parameters"]) / most
                self.times_[name, kind] = ax.scatter(
                    1000 * table[f"{kind}_seconds"],
                    np.full(len(table), self.rows_[name]),
                    s=size**2,
                    marker=style.marker,
                    facecolors=style.color if filled else paper(),
                    edgecolors=style.color,
                    linewidths=0.8 * text_scale(),
                )

        low, high = np.log10(ax.get_xlim())
        # Not at the edges, where words would meet those of the next axes.
        inner = np.array([0.15, 0.85]) * (high - low) + low
        steps = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5)]
        inside = [step for step in steps if inner[0] <= np.log10(step) <= inner[1]]
        whole = [step for step in inside if np.isclose(np.log10(step) % 1, 0)]
        ticks = whole if len(whole) > 1 else inside[:: max(1, len(inside) - 1)]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())

    def _prepare_rows(self, ax: Axes) -> None:
        ax.set(ylim=(0, 1), yticks=[])
        for row in self.rows_.values():
            ax.axhline(row, color=FAINT, lw=0.5 * text_scale(), alpha=0.4, zorder=0.5)


def _limit(reach: list[float]) -> float:
    """Where an axis of differences ends: beyond all but those that are far from most."""
    finite = [value for value in reach if np.isfinite(value)]
    if not finite or max(finite) == 0:
        return 1e-3
    far = FAR * float(np.quantile(finite, 0.8))
    return 1.15 * max(value for value in finite if value <= far)


def _tick(ax: Axes, limit: float) -> None:
    """Ticks at zero and beside it, and words at those for which there is room."""
    tick = _round(0.65 * limit)
    words = [f"−{tick:g}", "0", f"+{tick:g}"]
    inches = ax.bbox.width / ax.figure.dpi
    if inches < 3 * len(words[0]) * 0.085 * text_scale():
        words[:2] = "", ""
    ax.set_xticks([-tick, 0, tick], words)


def _round(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is no more than `value`."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * max(digit for digit in (1, 2, 5) if digit * power <= value))


def _outside(ax: Axes, value: float, row: float) -> Any:
    """A value that lies outside, written at that edge."""
    right = value > 0
    said = f"{value:+.2g}".replace("-", "−")
    return ax.annotate(
        f"{said} ▸" if right else f"◂ {said}" if value < 0 else "diverged",
        (1 if right else 0, row),
        xytext=(-2 if right else 2, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        fontsize=9 * text_scale(),
        bbox={"facecolor": paper(), "edgecolor": "none", "pad": 1},
    )
