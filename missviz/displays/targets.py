"""Who wins where: methods × target families."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from missviz.displays.base import Display
from missviz.displays.lunch import BASELINES
from missviz.style import ink, new_figure

if TYPE_CHECKING:
    from missviz.experiments.runs import Runs

LEAST_SHOWN = 1e-4
"""Shares below it are all "solved": what is left is rounding."""


class TargetsDisplay(Display):
    """Test loss of each method on each target, as a share of the unadapted network's loss.

    1 means that nothing was learnt, 0 that the target was found. A frame marks the winner of a
    column where it beats every other method beyond the interval of their paired difference.

    Args:
        shares: methods × targets, loss divided by the unadapted loss.
        winners: for each target the method that wins it, or None.

    After `plot`: `im_`, `texts_`, `frames_`, `ax_`, `figure_`.
    """

    def __init__(self, *, shares: pd.DataFrame, winners: dict[str, str | None]) -> None:
        self.shares, self.winners = shares, winners

    @classmethod
    def from_runs(cls, runs: "Runs") -> "TargetsDisplay":
        """From runs of the teacher protocol."""
        summary = runs.summary()
        tested = summary[summary["metric"] == "test"]
        if tested.empty:
            raise ValueError('these runs have no test split; use protocol="teacher"')
        losses = tested.pivot(index="method", columns="target", values="mean")
        losses = losses.loc[
            list(dict.fromkeys(tested["method"])), list(dict.fromkeys(tested["target"]))
        ]
        methods = [name for name in losses.index if name not in BASELINES]
        return cls(
            shares=losses.loc[methods] / losses.loc["unadapted"],
            winners={str(target): winner(runs, str(target)) for target in losses.columns},
        )

    def summary(self) -> str:
        wins = "; ".join(
            f"{target}: {method or 'undecided'}" for target, method in self.winners.items()
        )
        return f"winner on the test split by target: {wins}"

    def plot(self, ax: Axes | None = None) -> "TargetsDisplay":
        """Draw into `ax`, or into a figure of its own."""
        rows, columns = self.shares.shape
        ax = new_figure(2.8 + 1.1 * columns, 1.2 + 0.5 * rows).subplots() if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        values = self.shares.to_numpy()
        self.im_ = ax.imshow(
            np.clip(values, LEAST_SHOWN, 1),
            cmap="Blues_r",
            norm=LogNorm(LEAST_SHOWN, 1.5),
            aspect="auto",
        )
        self.texts_ = [
            ax.text(
                column,
                row,
                f"{values[row, column]:.2f}" if values[row, column] >= LEAST_SHOWN else "solved",
                ha="center",
                va="center",
                color="white" if values[row, column] < 0.03 else ink(),
            )
            for row in range(rows)
            for column in range(columns)
        ]
        self.frames_ = [
            ax.add_patch(
                Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, ec="#D55E00", lw=2.5)
            )
            for column, target in enumerate(self.shares.columns)
            for row, method in enumerate(self.shares.index)
            if self.winners[str(target)] == method
        ]
        ax.set_xticks(range(columns), self.shares.columns)
        ax.set_yticks(range(rows), self.shares.index)
        ax.set(xlabel="target family", title="test loss / unadapted loss (frame: winner)")
        return self


def winner(runs: "Runs", target: str) -> str | None:
    """The method whose test loss is lower than every other's, each paired difference "lower" by
    `Runs.summary`'s rule; None where there is none."""
    methods = list(dict.fromkeys(runs.losses["method"]))
    for method in methods:
        against = runs.summary(reference=method)
        rows = against[
            (against["target"] == target)
            & (against["metric"] == "test")
            & against["method"].isin([name for name in methods if name != method])
        ]
        if len(rows) and (rows["verdict"] == "higher").all():
            return str(method)
    return None
