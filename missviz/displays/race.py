"""The race: loss against step, one line per method."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from missviz.displays.base import Display
from missviz.style import FAINT, ink, method_styles, row_of_axes, text_scale

if TYPE_CHECKING:
    from missviz.experiments.runs import Runs


class RaceDisplay(Display):
    """Mean loss against step with a 95 % band over seeds, and the constant predictor.

    Args:
        curves: one row per method and step: method, step, mean, low, high.
        split: what the loss was measured on.
        constant: loss of the constant predictor on that split.
        seeds: how many runs each line is the mean of.
        limit: upper end of the loss axis, which starts at 0; None fits it to the curves.
        note: where the runs come from, if they were not made now.

    After `plot`: `lines_` and `bands_` by method, `constant_line_`, `ax_`, `figure_`.
    """

    def __init__(
        self,
        *,
        curves: pd.DataFrame,
        split: str,
        constant: float,
        seeds: int,
        limit: float | None = None,
        note: str = "",
    ) -> None:
        self.curves, self.split, self.constant, self.seeds = curves, split, constant, seeds
        self.limit, self.note = limit, note

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
        last = self.curves[self.curves["step"] == self.curves["step"].max()].sort_values("mean")
        order = ", ".join(f"{row.method} {row.mean:.3g}" for row in last.itertuples())
        return (
            f"{self.split} loss after {self.curves['step'].max()} steps, mean of {self.seeds} "
            f"seeds: {order}; constant predictor {self.constant:.3g}"
        )

    def plot(
        self, ax: Axes | None = None, *, legend: bool = True, reveal: bool = True
    ) -> "RaceDisplay":
        """Draw into `ax`, or into a figure of its own with the legend beside the curves.

        With reveal=False the same axes and limits stand there without the lines, for a class to
        guess first; the legend and the constant predictor stay.
        """
        beside = ax is None
        if ax is None:
            (ax,) = row_of_axes(9.5, 4.2, right=2.75, bottom=0.75, top=0.2)
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        self.lines_, self.bands_ = {}, {}
        styles = method_styles(name for name, _ in self._by_method())
        for method, curve in self._by_method():
            style = styles[method]
            (self.lines_[method],) = ax.plot(
                curve["step"],
                curve["mean"],
                color=style.color,
                linestyle=style.linestyle,
                marker=style.marker,
                markevery=max(1, len(curve) // 8),
                markersize=4 * text_scale(),
                label=method,
            )
            self.bands_[method] = ax.fill_between(
                curve["step"], curve["low"], curve["high"], color=style.color, alpha=0.2, lw=0
            )
        self.constant_line_ = ax.axhline(
            self.constant, color=ink(), lw=1, ls=(0, (1, 1)), label="constant predictor"
        )
        ax.set(xlabel="step", ylabel=f"{self.split} loss (mean squared error)")
        if self.limit is not None:
            ax.set_ylim(0, self.limit)
        ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())
        if legend and beside:
            ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
        elif legend:
            ax.legend(frameon=False, fontsize="small")
        if beside and self.note:
            self.figure_.text(0.005, 0.012, self.note, fontsize="small", color=FAINT)
        self.outcome_ = [*self.lines_.values(), *self.bands_.values()]
        return self.reveal(reveal)

    def update(self, other: "RaceDisplay") -> None:
        """Show other curves of the same methods, on the same axes."""
        if other.split != self.split:  # a new label redraws the axis
            self.ax_.set_ylabel(f"{other.split} loss (mean squared error)")
        self.curves, self.split = other.curves, other.split
        self.constant, self.seeds = other.constant, other.seeds
        for method, curve in self._by_method():
            self.lines_[method].set_data(curve["step"], curve["mean"])
            self.bands_[method].set_verts([_outline(curve)])
        self.constant_line_.set_ydata([self.constant, self.constant])

    def ghost(self, pinned: "RaceDisplay") -> list[Artist]:
        """The pinned means, each with its method's dash."""
        return [
            self.ax_.add_line(
                Line2D(
                    curve["step"],
                    curve["mean"],
                    color=FAINT,
                    linestyle=self.lines_[method].get_linestyle(),
                    zorder=1.9,
                )
            )
            for method, curve in pinned._by_method()
        ]

    def _by_method(self) -> list[tuple[str, pd.DataFrame]]:
        return [(str(method), curve) for method, curve in self.curves.groupby("method", sort=False)]


def _outline(curve: pd.DataFrame) -> Float[np.ndarray, "points 2"]:
    """The band's outline: along its lower edge and back along the upper."""
    steps, low, high = (curve[column].to_numpy() for column in ("step", "low", "high"))
    return np.column_stack([np.r_[steps, steps[::-1]], np.r_[low, high[::-1]]])


def choose_target(runs: "Runs", target: str | None) -> str:
    """`target`, or the first of the runs; ValueError if there is no such target."""
    targets = list(dict.fromkeys(runs.losses["target"]))
    if target is None:
        return str(targets[0])
    if target not in targets:
        raise ValueError(f"target={target!r} did not run; choose from {', '.join(targets)}")
    return target
