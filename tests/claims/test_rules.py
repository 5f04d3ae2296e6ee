"""Verdicts follow from evidence by rules: made-up evidence on both sides of each boundary."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from missviz.claims.claim import (
    FAILS,
    HOLDS,
    NOT_TESTABLE,
    UNDECIDED,
    Claim,
    Evidence,
    Exact,
    Larger,
    Order,
    Probable,
    Rule,
    Same,
    order_of,
    seeds_needed,
    verdict_of,
)

EDGE = 1e-6


def between(low: float, high: float) -> Evidence:
    return Evidence((low + high) / 2, low, high, 10)


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Exact(1e-9), 0, 0, HOLDS),
        (Exact(1e-9), 1e-9, 1e-9, HOLDS),
        (Exact(1e-9), 1.01e-9, 1.01e-9, FAILS),
        (Larger(1), 1 + EDGE, 3, HOLDS),
        (Larger(1), 1 - EDGE, 3, UNDECIDED),
        (Larger(1), -3, 1 + EDGE, UNDECIDED),
        (Larger(1), -3, 1 - EDGE, FAILS),
        (Larger(1), 0.2, 0.8, FAILS),
        (Same(1), -1 + EDGE, 1 - EDGE, HOLDS),
        (Same(1), -1 - EDGE, 0, UNDECIDED),
        (Same(1), 0, 1 + EDGE, UNDECIDED),
        (Same(1), 1 + EDGE, 2, FAILS),
        (Same(1), -2, -1 - EDGE, FAILS),
        (Probable(0.9), 0.9, 0.99, HOLDS),
        (Probable(0.9), 0.9 - EDGE, 0.99, UNDECIDED),
        (Probable(0.9), 0.01, 0.1 + EDGE, UNDECIDED),
        (Probable(0.9), 0.01, 0.1 - EDGE, FAILS),
    ],
)
def test_each_side_of_each_boundary(rule: Rule, low: float, high: float, verdict: str) -> None:
    assert rule.verdict(between(low, high)) == verdict


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([(1, 2), (1 + EDGE, 3)], HOLDS),
        ([(1, 2), (1 - EDGE, 3)], UNDECIDED),
        ([(1, 2), (-1, 0.5 - EDGE)], FAILS),
        ([(0, 2), (-1, 0.5 - EDGE)], FAILS),
    ],
)
def test_an_order_holds_step_by_step(steps: list[tuple[float, float]], verdict: str) -> None:
    rule = Order(0.5 if verdict == FAILS else 1 - EDGE / 2)
    neighbours = {str(n): ((low + high) / 2, low, high) for n, (low, high) in enumerate(steps)}
    evidence = replace(between(*steps[-1]), seen={"neighbours": neighbours})
    assert rule.verdict(evidence) == verdict


def test_order_of_compares_neighbours_seed_by_seed() -> None:
    shared = np.random.default_rng(0).normal(0, 100, 12)  # seeds differ by more than methods do
    found = order_of({"a": shared + 3, "b": shared + 2 + 0.01 * np.arange(12), "c": shared})
    assert set(found.seen["neighbours"]) == {"a − b", "b − c"}
    assert found.effect == pytest.approx(0.945)
    assert Order(0.5).verdict(found) == HOLDS
    assert Order(1.5).verdict(found) == FAILS


@pytest.mark.parametrize("rule", [Exact(), Larger(1), Same(1), Probable()])
def test_what_is_no_number_decides_nothing(rule: Rule) -> None:
    nothing = Evidence(math.nan, math.nan, math.nan, 3)
    assert rule.verdict(nothing) == UNDECIDED


@pytest.mark.parametrize("rule", [Exact(0.5), Larger(1), Same(1), Probable(0.9)])
@given(low=st.floats(-5, 5), width=st.floats(0, 5), shrink=st.floats(0, 1))
def test_a_narrower_interval_never_takes_a_verdict_back(
    rule: Rule, low: float, width: float, shrink: float
) -> None:
    wide = between(low, low + width)
    inner = between(low + shrink * width / 2, low + width - shrink * width / 2)
    decided = rule.verdict(wide)
    if decided != UNDECIDED and not isinstance(rule, Exact):
        assert rule.verdict(inner) == decided


@pytest.mark.parametrize("rule", [Larger(1), Same(1), Probable(0.9)])
@given(effect=st.floats(-5, 5))
def test_the_band_is_where_a_sharp_effect_holds(rule: Rule, effect: float) -> None:
    start, end = rule.band
    no_probability = isinstance(rule, Probable) and effect > 1
    if no_probability or abs(effect - start) < EDGE or abs(effect - end) < EDGE:
        return
    holds = rule.verdict(between(effect, effect)) == HOLDS
    assert holds == (start < effect < end)


def a_claim(rule: Rule, measure: Any = lambda seeds, device: between(0, 0)) -> Claim:
    return Claim("x", "X.", "nobody", "by hand", "units", rule, "made up", 1, measure)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ({"": (2, 3)}, HOLDS),
        ({"toy": (2, 3), "real": (2, 3)}, HOLDS),
        ({"toy": (-3, -2), "real": (-3, -2)}, FAILS),
        ({"toy": (2, 3), "real": (-3, -2)}, "holds in part: toy"),
        ({"toy": (2, 3), "real": (0, 2)}, "holds in part: toy"),
        ({"toy": (0, 2), "real": (-3, -2)}, "undecided, but fails: real"),
        ({"toy": (0, 2), "real": (0, 2)}, UNDECIDED),
    ],
)
def test_several_places(parts: dict[str, tuple[float, float]], verdict: str) -> None:
    evidence = {place: between(*ends) for place, ends in parts.items()}
    assert verdict_of(a_claim(Larger(1)), evidence) == verdict


def test_a_claim_without_a_test_says_what_it_would_take() -> None:
    claim = replace(a_claim(Larger(1)), measure=None, lacking="a GPU")
    assert verdict_of(claim, {}) == NOT_TESTABLE
    for measure, lacking in ((None, ""), (claim.rule.verdict, "a GPU")):
        with pytest.raises(ValueError, match="needs a measure, or what is lacking"):
            replace(claim, measure=measure, lacking=lacking)


def test_seeds_that_would_decide() -> None:
    """Half-width 1 at n = 10, 0.5 from the boundary: four times as many seeds."""
    assert seeds_needed(Larger(1), between(-0.5, 1.5)) == 40
    assert seeds_needed(Same(1), between(-0.5, 1.5)) == 40
    assert seeds_needed(Larger(1), between(0, 2)) is None  # on the boundary: no number would
    rng = np.random.default_rng(1)
    draws = rng.normal(0.7, 2, (200, 40))
    needed = [seeds_needed(Larger(0), Evidence.of(one)) or 0 for one in draws]
    decided = [Larger(0).verdict(Evidence.of(rng.normal(0.7, 2, 35))) for _ in range(200)]
    # (t s / 0.7)² with t ≈ 2 is about 33: half of the studies of that size decide.
    assert 20 < np.median(needed) < 50
    assert 0.4 < decided.count(HOLDS) / 200 < 0.7
