"""The interval is Student's."""

import numpy as np
import pytest
from scipy import stats

from missviz.intervals import half_width


def test_it_is_students_interval_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, (7, 4))
    low, high = stats.t.interval(0.95, 6, values.mean(0), stats.sem(values, axis=0))
    np.testing.assert_allclose(half_width(values), (high - low) / 2)
    assert half_width(values[:, 0]) == pytest.approx((high[0] - low[0]) / 2)


def test_it_covers_the_mean_of_small_samples_as_often_as_it_says() -> None:
    samples = np.random.default_rng(1).normal(0.0, 1.0, (5, 20_000))
    covered = np.abs(samples.mean(0)) < half_width(samples)
    assert covered.mean() == pytest.approx(0.95, abs=0.005)


def test_without_two_finite_values_there_is_none() -> None:
    assert np.isnan(half_width(np.ones(1)))
    assert np.isnan(half_width(np.ones((1, 3)))).all()
    assert np.isnan(half_width(np.array([1.0, np.inf, 2.0])))
    assert half_width(np.ones(4)) == 0
