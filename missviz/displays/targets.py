"""Who wins where: methods × target families."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from missviz.displays.base import Display
from missviz.displays.colors import Cells
from missviz.displays.lunch import BASELINES
from missviz.experiments.runs import Runs
from missviz.style import FAINT, RED, row_of_axes

LEAST_SHOWN = 1e-4
"""Shares below it are all "solved": what is left is rounding."""
WHITE_BELOW = 0.03
"""Cells are dark there."""


@dataclass(eq=False, repr=False, kw_only=True)
class TargetsDisplay(Display):
    """Test loss of each method on each target, as a share of the unadapted network's loss.

    1 means that nothing was learnt, 0 that the target was found. A frame marks the winner of a
    column where it beats every other method beyond the interval of their paired difference.

    Args:
        shares: methods × targets, loss divided by the unadapted loss.
        winners: for each target the method that wins it, or None.
        shown: what the shares are, for the title.
        note: where the runs come from, if they were not made now.

    After `plot`: `im_`, `texts_`, `frames_` (one patch with all frames), `ax_`, `figure_`.
    """

    shares: pd.DataFrame
    winners: dict[str, str | None]
    shown: str = "test loss / unadapted loss"
    note: str = ""

    @classmethod
    def from_runs(cls, runs: Runs) -> "TargetsDisplay":
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
            winners={str(target): runs.winner(str(target)) for target in losses.columns},
        )

    def summary(self) -> str:
        wins = "; ".join(
            f"{target}: {method or 'undecided'}" for target, method in self.winners.items()
        )
        return f"winner by {self.shown}: {wins}"

    def plot(self, ax: Axes | None = None) -> "TargetsDisplay":
        """Draw into `ax`, or into a figure of its own."""
        rows, columns = self.shares.shape
        own = ax is None
        if ax is None:
            (ax,) = row_of_axes(4.0 + 1.25 * columns, 1.6 + 0.5 * rows, left=1.75, top=0.4)
        self.ax_, self.figure_ = ax, ax.figure  # type: ignore[assignment]
        norm = LogNorm(LEAST_SHOWN, 1.5)
        self.im_ = Cells(ax, np.ones((rows, columns)), cmap="Blues_r", norm=norm, aspect="auto")
        self.texts_ = [
            ax.text(column, row, "", ha="center", va="center")
            for row, column in np.ndindex(rows, columns)
        ]
        self.frames_ = PathPatch(Path(np.empty((0, 2))), fill=False, ec=RED, lw=2.5)
        ax.add_patch(self.frames_)
        ax.set_xticks(range(columns), self.shares.columns)
        ax.set_xlabel("target family")
        if own and self.note:
            self.figure_.text(0.005, 0.012, self.note, fontsize="small", color=FAINT)
        self.outcome_ = [self.im_, *self.texts_, self.frames_]
        self._fill()
        return self

    def _fixed(self) -> Any:
        return len(self.shares), list(self.shares.columns), self.note

    def _fill(self) -> None:
        names = list(self.shares.index)
        if [label.get_text() for label in self.ax_.get_yticklabels()] != names:
            self.ax_.set_yticks(range(len(names)), names)  # redraws the axis
        values = self.shares.to_numpy()
        self.im_.set_data(np.clip(values, LEAST_SHOWN, 1))
        for text, value in zip(self.texts_, values.flat, strict=True):
            text.set_text(f"{value:.2f}" if value >= LEAST_SHOWN else "solved")
            text.set_color("white" if value < WHITE_BELOW else "black")
        boxes = [
            Path(np.array([(-0.47, -0.45), (0.47, -0.45), (0.47, 0.45), (-0.47, 0.45), (0, 0)])
                 + np.array([column, row]), closed=True)
            for column, target in enumerate(self.shares.columns)
            for row, method in enumerate(self.shares.index)
            if self.winners[str(target)] == method
        ]  # fmt: skip
        self.frames_.set_path(Path.make_compound_path(*boxes) if boxes else Path(np.empty((0, 2))))
        self.ax_.set_title(f"{self.shown} (frame: winner)")

    def ghost(self, pinned: "TargetsDisplay") -> list[Artist]:
        """In each cell a grey bar at its foot, as long as the pinned share."""
        bars = [
            Path([(x - 0.45, y + 0.32), (x - 0.45 + 0.9 * share, y + 0.32),
                  (x - 0.45 + 0.9 * share, y + 0.42), (x - 0.45, y + 0.42)])
            for (y, x), share in np.ndenumerate(np.clip(pinned.shares.to_numpy(), 0, 1))
        ]  # fmt: skip
        return [self.ax_.add_patch(PathPatch(Path.make_compound_path(*bars), color=FAINT, lw=0))]
