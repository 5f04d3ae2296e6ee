"""Fronts against a search of all pairs; noise against its definition and against made-up runs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from missviz.analysis.pareto import (
    best_so_far,
    binomial_deviation,
    front_under_noise,
    on_front,
    rerun_noise,
)

# Few different numbers, so that ties are common.
LEVELS = st.integers(0, 5)


def dominated(costs, accuracies, n: int) -> bool:
    return any(
        costs[m] <= costs[n]
        and accuracies[m] >= accuracies[n]
        and (costs[m] < costs[n] or accuracies[m] > accuracies[n])
        for m in range(len(costs))
    )


@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=12))
def test_against_all_pairs(points: list[tuple[int, int]]) -> None:
    costs, accuracies = np.array(points, dtype=float).T
    wanted = [not dominated(costs, accuracies, n) for n in range(len(costs))]
    assert on_front(costs, accuracies).tolist() == wanted


@given(st.lists(st.tuples(LEVELS, LEVELS, LEVELS), min_size=1, max_size=8))
def test_repetitions_are_fronts_of_their_own(points: list[tuple[int, int, int]]) -> None:
    costs, *draws = np.array(points, dtype=float).T
    together = on_front(costs, np.stack(draws))
    for n, accuracies in enumerate(draws):
        np.testing.assert_array_equal(together[n], on_front(costs, accuracies))
        assert together[n].any()


def test_twins_are_on_the_front_together_and_of_equal_costs_only_the_best() -> None:
    assert on_front(np.ones(2), np.ones(2)).tolist() == [True, True]
    assert on_front(np.ones(3), np.array([1.0, 3, 2])).tolist() == [False, True, False]


def test_best_so_far() -> None:
    best = best_so_far(np.array([3.0, 1, 2]), np.array([0.4, 0.5, 0.2]))
    assert best.tolist() == [0.5, 0.5, 0.5]
    assert best_so_far(np.array([1.0, 2, 3]), np.array([0.1, 0.5, 0.2])).tolist() == [0.1, 0.5, 0.5]


def test_two_methods_have_the_probability_of_the_normal_law() -> None:
    """The dearer one is on the front where it comes out ahead: Φ(gap / √2 σ)."""
    from scipy.stats import norm

    front = front_under_noise(
        np.array([1.0, 2.0]), np.array([0.49, 0.50]), np.array([0.01, 0.01]), draws=40_000
    )
    assert front.probability[0] == 1
    assert front.probability[1] == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.008)


def test_without_noise_the_front_is_certain() -> None:
    costs, accuracies = np.array([1.0, 2, 3]), np.array([0.3, 0.2, 0.5])
    front = front_under_noise(costs, accuracies, np.zeros(3))
    assert front.probability.tolist() == [1, 0, 1]
    assert front.low.tolist() == front.high.tolist() == [0.3, 0.3, 0.5]


def test_the_band_holds_ninety_percent() -> None:
    front = front_under_noise(np.array([1.0]), np.array([0.5]), np.array([0.01]), draws=40_000)
    assert front.low[0] == pytest.approx(0.5 - 1.645 * 0.01, abs=5e-4)
    assert front.high[0] == pytest.approx(0.5 + 1.645 * 0.01, abs=5e-4)


def test_levels_of_noise_share_their_draws() -> None:
    costs, accuracies = np.array([1.0, 2.0]), np.array([0.5, 0.5])
    small, large = (
        front_under_noise(costs, accuracies, np.full(2, deviation)) for deviation in (0.001, 0.1)
    )
    assert small.probability.tolist() == large.probability.tolist()


def test_binomial() -> None:
    rights = np.random.default_rng(0).binomial(1319, 0.3, 20_000) / 1319
    assert binomial_deviation(np.array([0.3]), 1319)[0] == pytest.approx(rights.std(), rel=0.02)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_rerun_noise_is_found_again(ratio: float) -> None:
    """What configurations and periods have in common is taken out, and not counted as noise."""
    random = np.random.default_rng(1)
    levels = random.uniform(0.35, 0.5, 300)
    rows = []
    for period, shift in (("2025", 0.05), ("2026", 0.0)):
        deviations = ratio * binomial_deviation(levels, 1319)
        accuracies = levels + shift + deviations * random.standard_normal(300)
        rows += [(f"m{n}", period, accuracy) for n, accuracy in enumerate(accuracies)]
    runs = pd.DataFrame(rows, columns=["experiment", "period", "accuracy"]).sample(
        frac=1, random_state=2
    )
    noise = rerun_noise(runs.experiment, runs.period, runs.accuracy, 1319)
    assert noise.ratio == pytest.approx(ratio, rel=0.1)
    assert noise.freedom == 600 - 300 - 1
    assert set(noise.shifts) == {"2025"}
    assert noise.shifts["2025"] == pytest.approx(0.05, abs=0.003)


def test_rerun_noise_by_hand() -> None:
    """Two runs of one configuration: deviation |a − b|/√2, one degree of freedom."""
    runs = pd.DataFrame({"e": ["x", "x", "y"], "p": ["1", "1", "1"], "a": [0.49, 0.51, 0.3]})
    noise = rerun_noise(runs.e, runs.p, runs.a, 1319)
    assert noise.freedom == 1
    assert noise.ratio == pytest.approx(0.02 / 2**0.5 / (0.25 / 1319) ** 0.5)
    assert noise.shifts == {}


COSTS, ACCURACIES = np.array([1.0, 2.0]), np.array([0.4, 0.5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: on_front(COSTS, ACCURACIES[:1]), r"costs \(2,\) and accuracies \(1,\) are not of"),
        (lambda: on_front(COSTS, ACCURACIES * np.nan), "accuracies has 2 values that are NaN"),
        (lambda: on_front(COSTS / 0.0, ACCURACIES), "costs has 2 values that are NaN or infinite"),
        (
            lambda: front_under_noise(COSTS, ACCURACIES, -ACCURACIES),
            "deviations has 2 negative values",
        ),
        (
            lambda: front_under_noise(COSTS, ACCURACIES, ACCURACIES * np.nan),
            "deviations has 2 values that are NaN",
        ),
        (
            lambda: front_under_noise(COSTS, ACCURACIES, ACCURACIES, draws=0),
            "draws=0 is not positive",
        ),
        (
            lambda: rerun_noise(
                pd.Series(["a", "b"]), pd.Series(["1", "1"]), pd.Series([0.4, 0.5]), 9
            ),
            "2 runs of 2 configurations leave no repetition",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=message):
        call()
