"""Figure 2 of the MiSS paper: curves, losses, and time against parameters."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes

from missviz.displays.base import Display
from missviz.displays.race import RaceDisplay, choose_target
from missviz.style import FAINT, ink, method_style, new_figure, paper

if TYPE_CHECKING:
    from missviz.experiments.runs import Runs

BASELINES = ("constant", "unadapted")


class LunchDisplay(Display):
    """Three panels: the race on training loss, each method's losses, and time against parameters.

    Args:
        race: the first panel.
        losses: rows of `Runs.summary()` for one target.
        timings: `adapter_timings`, or None: the third panel then says "not measured".

    After `plot`: `axes_`, `race_`, `points_` by (method, metric), `timing_lines_` by
    (method, "train" or "init"), `figure_`.
    """

    def __init__(
        self, *, race: RaceDisplay, losses: pd.DataFrame, timings: pd.DataFrame | None
    ) -> None:
        self.race, self.losses, self.timings = race, losses, timings

    @classmethod
    def from_runs(cls, runs: "Runs", *, target: str | None = None) -> "LunchDisplay":
        """The panels for one target (default: the first)."""
        target = choose_target(runs, target)
        summary = runs.summary()
        return cls(
            race=RaceDisplay.from_runs(runs, "train", target=target),
            losses=summary[summary["target"] == target],
            timings=runs.timings,
        )

    @property
    def metrics(self) -> list[str]:
        """The losses that the second panel shows: on what was trained on, and on what was not."""
        held_out = "test" if "test" in set(self.losses["metric"]) else "min valid"
        return ["final train", held_out]

    def summary(self) -> str:
        held_out = self.losses[self.losses["metric"] == self.metrics[1]].sort_values("mean")
        order = ", ".join(f"{row.method} {row.mean:.3g}" for row in held_out.itertuples())
        return f"{self.race.summary()}. {self.metrics[1]} loss: {order}"

    def plot(self, axes: Sequence[Axes] | None = None) -> "LunchDisplay":
        """Draw into three axes, or into a figure of its own."""
        if axes is None:
            axes = list(new_figure(13, 4.0).subplots(1, 3))
        self.axes_ = list(axes)
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        # The second panel has each method's name beside its colour and marker.
        self.race_ = self.race.plot(self.axes_[0], legend=False)
        self.axes_[0].legend(handles=[self.race_.constant_line_], frameon=False, fontsize="small")
        self._plot_losses(self.axes_[1])
        self._plot_timings(self.axes_[2])
        return self

    def _plot_losses(self, ax: Axes) -> None:
        methods = [name for name in dict.fromkeys(self.losses["method"]) if name not in BASELINES]
        self.points_ = {}
        for row, method in enumerate(methods):
            style = method_style(method)
            for metric, filled in zip(self.metrics, (True, False), strict=True):
                cell = self.losses[
                    (self.losses["method"] == method) & (self.losses["metric"] == metric)
                ].iloc[0]
                error = None
                if pd.notna(cell["low"]):
                    error = [[cell["mean"] - cell["low"]], [cell["high"] - cell["mean"]]]
                self.points_[method, metric] = ax.errorbar(
                    cell["mean"],
                    row,
                    xerr=error,
                    color=style.color,
                    marker=style.marker,
                    markerfacecolor=style.color if filled else paper(),
                    capsize=3,
                    ls="",
                )
        constants = self.losses[self.losses["method"] == "constant"].set_index("metric")["mean"]
        for metric, dash in zip(self.metrics, ((0, (1, 1)), (0, (4, 2))), strict=True):
            ax.axvline(constants[metric], color=ink(), lw=1, ls=dash)
        ax.set_yticks(range(len(methods)), methods)
        ax.invert_yaxis()
        ax.set_xlabel(
            f"loss: filled {self.metrics[0]}, open {self.metrics[1]} (95 % intervals)\n"
            f"lines: constant predictor on the same (dotted, dashed)"
        )

    def _plot_timings(self, ax: Axes) -> None:
        ax.set(xlabel="trainable parameters of one 64 × 64 layer", ylabel="milliseconds")
        self.timing_lines_ = {}
        if self.timings is None:
            ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes, color=FAINT)
            ax.set(xticks=[], yticks=[])
            return
        for family, table in self.timings.groupby("family", sort=False):
            style = method_style(str(family))
            for kind, filled in (("train", True), ("init", False)):
                (line,) = ax.plot(
                    table["num_parameters"],
                    1000 * table[f"{kind}_seconds"],
                    color=style.color,
                    linestyle=style.linestyle,
                    marker=style.marker,
                    markerfacecolor=style.color if filled else paper(),
                    markersize=5,
                )
                self.timing_lines_[str(family), kind] = line
        ax.set(xscale="log", yscale="log")
        ax.set_title("filled: 20 training steps; open: initialisation", fontsize="small")
