"""The panel on PEFT's published benchmark: what it says of whom, and that it is not made up."""

import statistics

import numpy as np
import pandas as pd
import pytest

import missviz as mv
from missviz import published
from missviz.analysis.pareto import on_front
from missviz.explore.panel import Panel
from missviz.explore.pareto import COSTS, EXPERIMENTS, LEAST, NAMED, NOISES, QUESTIONS, rerun_spread


@pytest.fixture(scope="module")
def panel() -> Panel:
    return mv.explore.pareto()


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    found = published.table("peft_benchmark")
    return found.assign(method=found["method"].fillna(found["experiment"].map(EXPERIMENTS)))


def chances(panel: Panel, **values: str) -> dict[str, float]:
    shown = panel.drawn(**values)
    return dict(zip(shown.names, shown.front.probability, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("cost", COSTS)
def test_without_noise_it_is_the_published_front(
    panel: Panel, table: pd.DataFrame, cost: str
) -> None:
    fronts = on_front(table[COSTS[cost].column].to_numpy(), table["accuracy"].to_numpy())
    wanted = dict(zip(table["method"], fronts, strict=True))
    found = chances(panel, cost=cost, noise="none")
    assert {name: found[name] for name in NAMED} == {name: wanted[name] for name in NAMED}
    shown = panel.drawn(cost=cost, noise="none")
    assert shown.front.probability.sum() == fronts.sum()


def test_each_method_stands_where_it_was_published(panel: Panel, table: pd.DataFrame) -> None:
    shown = panel.drawn(cost="memory")
    rows = table.set_index("method")
    for n, name in enumerate(NAMED):
        assert shown.names[n] == name
        assert shown.costs[n] == rows.loc[name, "memory_bytes"]
        assert shown.accuracies[n] == rows.loc[name, "accuracy"]
    assert len(shown.costs) == len(table) == 63


def test_the_surprise(panel: Panel) -> None:
    """One method, five fronts: always, never, and about every second time."""
    found = {cost: chances(panel, cost=cost, noise="reruns")["MiSS r=64"] for cost in COSTS}
    assert found["memory"] == found["train time"] == 1
    assert 0.4 < found["file size"] < 0.55
    assert found["trained numbers"] < 0.01
    assert found["forgetting"] < 0.01
    exact = chances(panel, cost="file size", noise="none")
    assert exact["MiSS r=64"] == 0


def test_more_noise_is_less_sure(panel: Panel) -> None:
    """Where the published front is certain, noise can only take away."""
    seen = [chances(panel, cost="memory", noise=noise)["rsLoRA r=64"] for noise in NOISES]
    assert seen[0] == 1
    assert sorted(seen, reverse=True) == seen


def test_rerun_noise_rests_on_repeated_runs() -> None:
    noise = rerun_spread()
    assert noise.freedom >= 20
    assert f"{noise.ratio:.2f} of the binomial" in mv.explore.pareto.__doc__.replace("\n", " ")
    # PEFT's maintainer: "test accuracy can vary by +/- 1 percentage point" (PEFT #3725).
    assert 0.005 < noise.ratio * (0.25 / QUESTIONS) ** 0.5 < 0.01
    assert 0.015 < noise.shifts["2025"] < 0.022


def test_pairs_alone_give_about_the_same_noise(table: pd.DataFrame) -> None:
    """Table 8 (2025) against 2026: the deviation of the differences, over √2."""
    reruns = published.table("peft_reruns")
    pairs = reruns[reruns["source"].str.contains("Table 8")].merge(
        table, on="experiment", suffixes=("", "_now")
    )
    pairs = pairs[pairs["accuracy_now"] > LEAST]
    differences = pairs["accuracy_now"] - pairs["accuracy"]
    assert len(pairs) >= 15
    assert (differences < 0).sum() >= len(pairs) - 1
    deviation = statistics.stdev(differences) / 2**0.5
    binomial = (pairs["accuracy"] * (1 - pairs["accuracy"]) / QUESTIONS).mean() ** 0.5
    assert deviation == pytest.approx(rerun_spread().ratio * binomial, rel=0.2)


def test_says_that_figures_are_published(panel: Panel) -> None:
    assert [text.get_text()[:9] for text in panel.figure.texts] == ["published"]


def test_ranges_hold_all_ticks() -> None:
    for cost in COSTS.values():
        low, high = cost.limits
        assert all(low <= tick <= high for tick in cost.ticks)
        assert len(cost.ticks) <= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(cost="money"), "cost='money' is not a choice; choose from 'trained numbers'"),
        (dict(noise="some"), "noise='some' is not a choice; choose from 'none', 'reruns'"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mv.explore.pareto(**options)


def test_halves_of_the_draws_agree(panel: Panel, table: pd.DataFrame) -> None:
    """4000 repetitions are enough: another 4000 differ by less than 0.03."""
    from missviz.analysis.pareto import binomial_deviation

    accuracies = table["accuracy"].to_numpy()
    deviations = rerun_spread().ratio * binomial_deviation(accuracies, QUESTIONS)
    draws = accuracies + deviations * np.random.default_rng(0).standard_normal((4000, 63))
    for cost in COSTS:
        again = on_front(table[COSTS[cost].column].to_numpy(), draws).mean(axis=0)
        once = chances(panel, cost=cost, noise="reruns")
        for name in NAMED:
            row = int(np.flatnonzero(table["method"] == name)[0])
            assert once[name] == pytest.approx(again[row], abs=0.03)
