"""A learning rate for each method, chosen on seeds that are not reported."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from missviz.experiments.sweep import Cell

GRID_RATIO = 10**0.5
MOST_WIDENINGS = 4


@dataclass(frozen=True)
class Rates:
    """The rates of an experiment, and how one of them is chosen for a method."""

    grid: tuple[float, ...]
    tuning_seeds: tuple[int, ...] = ()
    """Disjoint from those that are reported; none where every rate of the grid is reported."""
    tune_on: str = "valid"
    """The split whose lowest loss over the steps, averaged over the tuning seeds, decides."""
    widen: bool = False
    """Whether other rates are tried while the best is on the grid's edge."""


class Train(Protocol):
    """Runs one method for (seed, rate) members; `blind` leaves out what choosing must not see."""

    def __call__(
        self, members: list[tuple[int, float]], *, blind: bool = False
    ) -> Cell[pd.DataFrame]: ...


def runs_of(
    train: Train, seeds: Sequence[int], rates: Rates
) -> Cell[tuple[pd.DataFrame, pd.DataFrame | None]]:
    """One method's runs on `seeds`: at the rate that its tuning seeds choose, or at each.

    Returns their rows, and the table of `choose_rate` with the seconds that all runs of a rate took
    together; None where nothing was tuned.
    """
    if not rates.tuning_seeds:
        members = [(seed, rate) for rate in rates.grid for seed in seeds]
        return (yield from train(members)), None
    seconds: dict[float, float] = {}

    def score(tried: Sequence[float]) -> Cell[dict[float, float]]:
        members = [(seed, rate) for rate in tried for seed in rates.tuning_seeds]
        frame = yield from train(members, blind=True)
        each = frame.drop_duplicates(["learning_rate", "seed"]).groupby("learning_rate")
        seconds.update(each[["init_seconds", "train_seconds"]].sum().sum(axis=1))
        return scores(frame, rates.tune_on)

    table = yield from choose_rate(score, rates.grid, rates.widen)
    table["seconds"] = table["learning_rate"].map(seconds)
    rate = float(table.loc[table["chosen"], "learning_rate"].iloc[0])
    return (yield from train([(seed, rate) for seed in seeds])), table


def choose_rate(
    score: Callable[[Sequence[float]], Cell[dict[float, float]]],
    grid: Sequence[float],
    widen: bool,
) -> Cell[pd.DataFrame]:
    """Try every rate of `grid`; while the best is the smallest or largest tried, go on that way.

    Returns one row per rate: learning_rate, score, chosen, on_edge (of the chosen one).
    """
    scores = yield from score(grid)
    for widening in range(MOST_WIDENINGS + 1):
        best = min(scores, key=scores.__getitem__)
        at_least, at_most = best == min(scores), best == max(scores)
        if not (at_least or at_most) or not widen or widening == MOST_WIDENINGS:
            break
        scores |= yield from score([best * GRID_RATIO if at_most else best / GRID_RATIO])
    table = pd.DataFrame({"learning_rate": sorted(scores)})
    table["score"] = table["learning_rate"].map(scores)
    table["chosen"] = table["learning_rate"] == best
    table["on_edge"] = table["chosen"] & (at_least or at_most)
    return table


def scores(frame: pd.DataFrame, split: str) -> dict[float, float]:
    """Mean over seeds of the lowest loss on `split`, by rate; infinite where a run diverged."""
    on_split = frame[frame["split"] == split]
    lowest = on_split.groupby(["learning_rate", "seed"])["loss"].agg(
        lambda losses: losses.min() if np.isfinite(losses).all() else np.inf
    )
    return {
        float(rate): float(loss) for rate, loss in lowest.groupby("learning_rate").mean().items()
    }


def warn_of_edges(tuning: pd.DataFrame | None) -> None:
    """A UserWarning that names the methods whose best rate is on the grid's edge."""
    if tuning is None:
        return
    edged = tuning[tuning["on_edge"]]
    if len(edged):
        named = ", ".join(
            f"{row.method} at {row.learning_rate:.3g} ({row.target})" for row in edged.itertuples()
        )
        warnings.warn(
            f"the best learning rate is on the edge of the grid for {named}; "
            "a rate beyond it may be better, so these methods are not compared at their best",
            UserWarning,
            stacklevel=3,
        )
