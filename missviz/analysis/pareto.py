"""Who is on the front of cost against accuracy, and how sure that is when accuracies are noisy."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from missviz.adapters import validation
from missviz.randomness import generator_for, normal

DRAWS = 4000
"""Repetitions: a probability of 1/2 is then known to ± 0.016 (95 %)."""


def on_front(
    costs: Float[np.ndarray, " method"], accuracies: Float[np.ndarray, "*draw method"]
) -> Bool[np.ndarray, "*draw method"]:
    """Whether nobody else is at least as cheap and as accurate, and better in one of the two.

    Of methods with one cost only the most accurate is on the front; twins in both are together.

    Args:
        costs: lower is better.
        accuracies: higher is better; leading dimensions are repetitions.

    Raises ValueError where the shapes disagree or a number is NaN or infinite.
    """
    costs, accuracies = _checked(costs, accuracies)
    best = best_so_far(costs, accuracies)
    order = np.argsort(costs, kind="stable")
    first = np.searchsorted(costs[order], costs, side="left")
    last = np.searchsorted(costs[order], costs, side="right") - 1
    nobody = np.full((*accuracies.shape[:-1], 1), -np.inf)
    before = np.concatenate([nobody, best], axis=-1)
    # More accurate than all that cost less, and than none that cost the same.
    return (accuracies > before[..., first]) & (accuracies >= best[..., last])


def best_so_far(
    costs: Float[np.ndarray, " method"], accuracies: Float[np.ndarray, "*draw method"]
) -> Float[np.ndarray, "*draw method"]:
    """The highest accuracy that each cost can buy: at place n, of the n + 1 cheapest."""
    order = np.argsort(costs, kind="stable")
    best: np.ndarray = np.maximum.accumulate(accuracies[..., order], axis=-1)
    return best


@dataclass(frozen=True)
class FrontUnderNoise:
    """How often each method is on the front, and where the front runs, over repetitions."""

    probability: Float[np.ndarray, " method"]
    low: Float[np.ndarray, " method"]
    """The front's height at each cost, costs ascending: 5 % of the repetitions are below it."""
    high: Float[np.ndarray, " method"]
    """The same, above it."""


def front_under_noise(
    costs: Float[np.ndarray, " method"],
    accuracies: Float[np.ndarray, " method"],
    deviations: Float[np.ndarray, " method"],
    *,
    draws: int = DRAWS,
) -> FrontUnderNoise:
    """Repeat the comparison `draws` times, each accuracy drawn from N(accuracy, deviation²).

    P(on the front) is then the share of repetitions in which a method is on the front, if the
    accuracies given were the true ones and independent. Costs are taken as exact. The same numbers
    are drawn at every call, so two levels of noise differ in nothing else.

    Raises ValueError where the shapes disagree or a number is NaN, infinite or (deviations)
    negative.
    """
    costs, accuracies = _checked(costs, accuracies)
    _, deviations = _checked(costs, deviations, "deviations")
    if (deviations < 0).any():
        raise ValueError(f"deviations has {int((deviations < 0).sum())} negative values")
    shape = validation.positive_int("draws", draws), len(costs)
    standard = normal(shape, 1.0, generator_for("pareto")).numpy()
    repeated = accuracies + deviations * standard
    low, high = np.quantile(best_so_far(costs, repeated), (0.05, 0.95), axis=0)
    return FrontUnderNoise(on_front(costs, repeated).mean(axis=0), low, high)


def binomial_deviation(
    accuracies: Float[np.ndarray, " method"], questions: int
) -> Float[np.ndarray, " method"]:
    """√(p(1 − p)/n): how far a share of n right answers strays with other questions of the kind."""
    return np.sqrt(accuracies * (1 - accuracies) / questions)


@dataclass(frozen=True)
class RerunNoise:
    """What is left when a configuration is run again, in units of the binomial deviation."""

    ratio: float
    freedom: int
    """Degrees of freedom that the ratio rests on."""
    shifts: dict[str, float]
    """How much higher all accuracies of a period are than those of the last one."""


def rerun_noise(
    experiments: pd.Series, periods: pd.Series, accuracies: pd.Series, questions: int
) -> RerunNoise:
    """The spread of repeated runs, pooled over configurations.

    accuracy = configuration + period + noise by least squares: what all configurations have in
    common in a period (software, data) is no noise between methods that ran in one period. The
    noise's deviation is taken to be `ratio` times the binomial one.

    Args:
        experiments, periods, accuracies: one entry per run.
        questions: of the test set.

    Raises ValueError where no configuration was run twice in a way that leaves anything over.
    """
    configurations, names = pd.factorize(experiments)
    times, labels = pd.factorize(periods, sort=True)
    count, last = len(names), len(labels) - 1
    design = np.zeros((len(accuracies), count + last))
    design[np.arange(len(design)), configurations] = 1
    earlier = np.flatnonzero(times < last)
    design[earlier, count + times[earlier]] = 1
    values = accuracies.to_numpy()
    means = accuracies.groupby(configurations).transform("mean").to_numpy()
    scale = binomial_deviation(means, questions)
    fitted, _, rank, _ = np.linalg.lstsq(design / scale[:, None], values / scale, rcond=None)
    freedom = len(values) - int(rank)
    if freedom < 1:
        raise ValueError(f"{len(values)} runs of {count} configurations leave no repetition")
    left = (values - design @ fitted) / scale
    shifts = {
        str(label): float(shift) for label, shift in zip(labels, fitted[count:], strict=False)
    }
    return RerunNoise(math.sqrt(float(left @ left) / freedom), freedom, shifts)


def _checked(
    costs: np.ndarray, values: np.ndarray, name: str = "accuracies"
) -> tuple[np.ndarray, np.ndarray]:
    costs, values = np.array(costs, dtype=float), np.array(values, dtype=float)
    if costs.ndim != 1 or values.shape[-1:] != costs.shape:
        raise ValueError(f"costs {costs.shape} and {name} {values.shape} are not of one length")
    validation.finite("costs", torch.from_numpy(costs))
    validation.finite(name, torch.from_numpy(values))
    return costs, values
