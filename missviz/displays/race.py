"""The race: loss against step, one line per method."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from missviz.displays.base import Display
from missviz.style import ink, method_style, new_figure

if TYPE_CHECKING:
    from missviz.experiments.runs import Runs


class RaceDisplay(Display):
    """Mean loss against step with a 95 % band over seeds, and the constant predictor.

    Args:
        curves: one row per method and step: method, step, mean, low, high.
        split: what the loss was measured on.
        constant: loss of the constant predictor on that split.
        seeds: how many runs each line is the mean of.

    After `plot`: `lines_` and `bands_` by method, `constant_line_`, `ax_`, `figure_`.
    """

    def __init__(self, *, curves: pd.DataFrame, split: str, constant: float, seeds: int) -> None:
        self.curves, self.split, self.constant, self.seeds = curves, split, constant, seeds

    @classmethod
    def from_runs(
        cls,
        runs: "Runs",
        split: str = "train",
        *,
        target: str | None = None,
        learning_rate: float | None = None,
    ) -> "RaceDisplay":
        """Curves of one split, target (default: the first) and rate (default: each method's first).

        The band is mean ± t₀.₉₇₅ standard errors over seeds, step by step.
        """
        from scipy.stats import t

        table = runs.to_frame()
        splits = sorted(set(table["split"]))
        if split not in splits:
            raise ValueError(f"split={split!r} was not measured; choose from {', '.join(splits)}")
        target = choose_target(runs, target)
        table = table[(table["split"] == split) & (table["target"] == target)]
        if learning_rate is not None:
            rates = sorted(set(table["learning_rate"]))
            table = table[np.isclose(table["learning_rate"], learning_rate)]
            if table.empty:
                raise ValueError(f"learning_rate={learning_rate} did not run; there are {rates}")
        else:
            first = table.groupby("method")["learning_rate"].transform("first")
            table = table[table["learning_rate"] == first]
        curves = table.groupby(["method", "step"], sort=False)["loss"].agg(["mean", "std", "count"])
        error = curves["std"] / np.sqrt(curves["count"]) * t.ppf(0.975, curves["count"] - 1)
        curves["low"], curves["high"] = curves["mean"] - error, curves["mean"] + error
        floor = runs.baselines
        floor = floor[(floor["baseline"] == "constant") & (floor["split"] == split)]
        return cls(
            curves=curves.reset_index()[["method", "step", "mean", "low", "high"]],
            split=split,
            constant=float(floor[floor["target"] == target]["loss"].mean()),
            seeds=int(curves["count"].max()),
        )

    def summary(self) -> str:
        if not getattr(self, "revealed_", True):
            return f"{self.split} loss against step, not shown yet: guess first"
        last = self.curves[self.curves["step"] == self.curves["step"].max()].sort_values("mean")
        order = ", ".join(f"{row.method} {row.mean:.3g}" for row in last.itertuples())
        return (
            f"{self.split} loss after {self.curves['step'].max()} steps, mean of {self.seeds} "
            f"seeds: {order}; constant predictor {self.constant:.3g}"
        )

    def plot(
        self, ax: Axes | None = None, *, legend: bool = True, reveal: bool = True
    ) -> "RaceDisplay":
        """Draw into `ax`, or into a figure of its own.

        With reveal=False the same axes and limits stand there without the lines, for a class to
        guess first; the legend and the constant predictor stay.
        """
        ax = new_figure(6.4, 4.0).subplots() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        self.lines_, self.bands_ = {}, {}
        for method, curve in self.curves.groupby("method", sort=False):
            name = str(method)
            style = method_style(name)
            (self.lines_[name],) = ax.plot(
                curve["step"],
                curve["mean"],
                color=style.color,
                linestyle=style.linestyle,
                marker=style.marker,
                markevery=max(1, len(curve) // 8),
                markersize=4,
                label=name,
            )
            self.bands_[name] = ax.fill_between(
                curve["step"], curve["low"], curve["high"], color=style.color, alpha=0.2, lw=0
            )
        self.constant_line_ = ax.axhline(
            self.constant, color=ink(), lw=1, ls=(0, (1, 1)), label="constant predictor"
        )
        ax.set(xlabel="step", ylabel=f"{self.split} loss (mean squared error)")
        if legend:
            ax.legend(frameon=False, fontsize="small")
        if not reveal:
            ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
            for method, line in self.lines_.items():
                line.set_data([], [])
                self.bands_[method].set_visible(False)
        self.revealed_ = reveal
        return self


def choose_target(runs: "Runs", target: str | None) -> str:
    """`target`, or the first of the runs; ValueError if there is no such target."""
    targets = list(dict.fromkeys(runs.losses["target"]))
    if target is None:
        return str(targets[0])
    if target not in targets:
        raise ValueError(f"target={target!r} did not run; choose from {', '.join(targets)}")
    return target
