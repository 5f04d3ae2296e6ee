"""The toy of "no free lunch" as claims use it: losses as shares of what the network began with."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from missviz.adapters.base import Method
from missviz.experiments.no_free_lunch import no_free_lunch
from missviz.experiments.runs import SPLIT_OF, Runs, metrics

INTERESTING = 0.01
"""Smallest effect of interest, as everywhere in missviz: 1 % of the unadapted network's loss."""
BECAUSE = "1 % of the loss without adapting; less would not change anybody's choice"

Shares = dict[str, dict[str, Float[np.ndarray, " seeds"]]]
"""target → method → seed by seed."""


def shares(runs: Runs, metric: str) -> Shares:
    """A metric of `Runs.summary`, or "mean train": the training loss, averaged over all steps. The
    constant predictor stands among the methods."""
    floors = runs.baselines.set_index(["target", "baseline", "split"])["loss"].sort_index()
    split = "train" if metric == "mean train" else SPLIT_OF.get(metric, metric)
    found: Shares = {}
    for (target, method), cell in runs.losses.groupby(["target", "method"], sort=False):
        losses = {
            str(name): table.pivot(index="seed", columns="step", values="loss")
            for name, table in cell.groupby("split", sort=False)
        }
        if metric == "mean train":
            values = losses["train"].to_numpy().mean(axis=1)
        else:
            values = metrics(losses["valid"], losses)[metric]
        start = float(floors[target, "unadapted", split].mean())
        constant = floors[target, "constant", split].to_numpy() / start
        found.setdefault(str(target), {"constant": constant})[str(method)] = values / start
    return found


def taught(
    methods: Sequence[Method],
    seeds: Sequence[int],
    device: str,
    targets: Sequence[str] | None = None,
    metric: str = "test",
    tune_on: Literal["valid", "train"] = "valid",
) -> Shares:
    """Protocol "teacher": each method at the rate that is best for it on other seeds."""
    runs = no_free_lunch(methods, "teacher", seeds, targets=targets, tune_on=tune_on, device=device)
    return shares(runs, metric)


def means(of_target: dict[str, Float[np.ndarray, " seeds"]]) -> dict[str, float]:
    """By method, for a reader."""
    return {method: round(float(values.mean()), 4) for method, values in of_target.items()}
