"""What fine-tuning a network gave: every method on every split that was looked at once."""

from dataclasses import dataclass, field
from typing import Self

import pandas as pd

from missviz.displays.base import Display
from missviz.displays.lunch import BASELINES
from missviz.experiments.runs import Runs, chosen_reference
from missviz.style import FAINT, ink, method_styles, row_of_axes

CURVES = ("final train", "final valid", "valid at stop")
"""Metrics on splits that training or stopping saw."""
WORDS = {"constant": "majority class", "unadapted": "linear probe"}


@dataclass(eq=False, repr=False, kw_only=True)
class ContestDisplay(Display):
    """Accuracy of every method on each split that was looked at once, at the step where validation
    stopped: mean and 95 % interval over seeds, a column of points for each split.

    The linear probe of the unadapted network stands among the rows, the majority class as a dashed
    line, or in the column's title where it lies far below.

    Args:
        accuracies: rows of `Runs.summary(measure="accuracy")` for one target.
        reference: the method that differences are to.

    After `plot`: `axes_` by split, `points_` by (method, split), `figure_`.
    """

    accuracies: pd.DataFrame
    reference: str
    splits: list[str] = field(init=False)
    methods: list[str] = field(init=False)
    _cells: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        metrics = list(dict.fromkeys(self.accuracies["metric"]))
        self.splits = [metric for metric in metrics if metric not in CURVES]
        names = dict.fromkeys(self.accuracies["method"])
        self.methods = [name for name in names if name not in BASELINES]
        self._cells = self.accuracies.set_index(["method", "metric"])

    @classmethod
    def from_runs(cls, runs: Runs, *, reference: str | None = None) -> "ContestDisplay":
        """From `fine_tune`'s runs; the reference as in `Runs.summary`, LoRA or the first method."""
        methods = list(dict.fromkeys(runs.losses["method"]))
        reference = chosen_reference(reference, methods)
        return cls(accuracies=runs.summary(reference, measure="accuracy"), reference=reference)

    def table(self) -> pd.DataFrame:
        """One row per method, majority class and linear probe; a column per split, accuracy in per
        cent ± half of its 95 % interval; then the paired difference to the reference on "test"."""

        def said(row: "pd.Series[float]") -> str:
            half = row["high"] - row["mean"]
            spread = f" ± {100 * half:.1f}" if half > 0 else ""
            return f"{100 * row['mean']:.1f}{spread}"

        names = [*self.methods, *(name for name in WORDS if name in self._cells.index)]
        rows = {
            WORDS.get(name, name): {
                "rate": self._rate(name),
                "numbers": self._numbers(name),
                **{split: said(self._cells.loc[(name, split)]) for split in self.splits},
                f"test − {self.reference}": self._difference(name),
            }
            for name in names
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def _rate(self, name: str) -> str:
        row = self._cells.loc[(name, "test")]
        if pd.isna(row["learning_rate"]):
            return ""
        return f"{row['learning_rate']:.2g}" + (" (edge)" if row["rate_on_edge"] else "")

    def _numbers(self, name: str) -> str:
        number = int(self._cells.loc[(name, "test"), "adapter_parameters"])
        return f"{number:,}" if name not in BASELINES else ""

    def _difference(self, name: str) -> str:
        row = self._cells.loc[(name, "test")]
        if name == self.reference:
            return ""
        half = row["difference_high"] - row["difference"]
        return f"{100 * row['difference']:+.1f} ± {100 * half:.1f}"

    def summary(self) -> str:
        order = sorted(self.methods, key=lambda name: -self._mean(name, "test"))
        said = ", ".join(f"{name} {self._mean(name, 'test'):.3f}" for name in order)
        return (
            f"test accuracy: {said}; linear probe {self._mean('unadapted', 'test'):.3f}, "
            f"majority {self._mean('constant', 'test'):.3f}"
        )

    def _mean(self, name: str, split: str) -> float:
        return float(self._cells.loc[(name, split), "mean"])

    def plot(self) -> Self:
        """Draw into a figure of its own."""
        rows = [*self.methods, "unadapted"]
        axes = row_of_axes(
            2.2 + 1.5 * len(self.splits),
            0.9 + 0.28 * len(rows),
            (1,) * len(self.splits),
            left=2.15,
            bottom=0.5,
            top=0.35,
            gap=0.2,
        )
        self.figure_ = axes[0].figure  # type: ignore[assignment]
        self.axes_ = dict(zip(self.splits, axes, strict=True))
        styles = method_styles(self.methods)
        self.points_ = {}
        for split, ax in self.axes_.items():
            for height, name in enumerate(rows):
                row = self._cells.loc[(name, split)]
                known = name in styles
                self.points_[name, split] = ax.errorbar(
                    [row["mean"]],
                    [height],
                    xerr=[[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
                    fmt=styles[name].marker if known else "|",
                    color=styles[name].color if known else ink(),
                    markersize=6 if known else 11,
                    zorder=3,
                )
            shown = self._cells.xs(split, level="metric").loc[rows]
            low, high = shown["low"].min(), shown["high"].max()
            room = 0.08 * max(high - low, 0.01)
            majority = self._mean("constant", split)
            if majority > low - 4 * room:
                low = min(low, majority)
                ax.axvline(majority, color=FAINT, linestyle="--", linewidth=1)
            ax.axvline(self._mean(self.reference, split), color=FAINT, linewidth=0.8)
            ax.set_xlim(low - room, high + room)
            ax.set_ylim(len(rows) - 0.5, -0.5)
            ax.set_yticks(range(len(rows)), [])
            ax.set_title(split, loc="left", fontsize="medium")
            ax.set_xlabel(f"majority {majority:.2f}", fontsize="small", color=FAINT)
            ax.locator_params(axis="x", nbins=3)
        axes[0].set_yticklabels([WORDS.get(name, name) for name in rows])
        return self
