"""The gradient displays draw what was measured, trained and published."""

import math

import numpy as np
import pandas as pd
import pytest

import missviz as mv
from missviz import published
from missviz.analysis.gradient_laws import lora_law, miss_law
from missviz.analysis.gradients import first_gradients
from missviz.displays import GradientNormDisplay, PublishedGradientsDisplay
from missviz.displays.gradient_norms import EVERY, FAMILIES
from missviz.experiments.gain_and_rate import gain_runs, linear_task
from missviz.randomness import generator_for

RANKS = (2, 8, 32)


@pytest.fixture(scope="module")
def norms() -> pd.DataFrame:
    tasks = {mean: [linear_task(mean, seed) for seed in range(4)] for mean in (0.0, 0.3)}
    return pd.concat(
        first_gradients(of_mean, FAMILIES, RANKS).assign(input_mean=mean)
        for mean, of_mean in tasks.items()
    )


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return gain_runs([1.0, 3.0], "SGD", 0.3)


@pytest.fixture(scope="module")
def display(norms: pd.DataFrame, runs: pd.DataFrame) -> GradientNormDisplay:
    options = {"gain": 3.0, "input_mean": 0.3, "optimiser": "SGD"}
    return GradientNormDisplay.from_tables(norms, runs, **options).plot()


def test_first_gradients_are_those_of_the_adapters(norms: pd.DataFrame) -> None:
    rows = norms.set_index(["input_mean", "family", "rank", "seed"])["ratio"]
    assert len(rows) == 2 * 2 * len(RANKS) * 4
    task = linear_task(0.3, seed=2)
    G = task.gradient()
    whole = G.square().sum().sqrt()
    # `attach` names the draw by seed and module; the module here is the task's seed.
    A = mv.LoRA(8).on(task.linear, generator=generator_for(0, "2")).A.detach()
    summed = G.reshape(64, 8, 8).sum(dim=1)
    assert rows[0.3, "MiSS", 8, 2] == pytest.approx(float(summed.square().sum().sqrt() / whole))
    assert rows[0.3, "LoRA", 8, 2] == pytest.approx(float((G @ A.mT).square().sum().sqrt() / whole))


def test_points_are_the_measured_means_and_laws_the_laws(
    display: GradientNormDisplay, norms: pd.DataFrame
) -> None:
    here = norms[norms["input_mean"] == 0.3]
    rho = here.groupby("seed")["correlation"].first().mean()
    laws = {
        "LoRA": [3 * lora_law(rank, 64) for rank in RANKS],
        "MiSS": [miss_law(rank, 64, rho) for rank in RANKS],
    }
    for family, gain in (("LoRA", 3.0), ("MiSS", 1.0)):
        by_rank = here[here["family"] == family].groupby("rank")["ratio"]
        points = display.points_[family]
        np.testing.assert_array_equal(points.get_xdata(), RANKS)
        np.testing.assert_allclose(points.get_ydata(), gain * by_rank.mean())
        np.testing.assert_allclose(display.laws_[family].get_ydata(), laws[family])
        # t(0.975, 3 degrees of freedom) = 3.182446
        half = gain * 3.182446 * by_rank.std() / 2
        bars = np.array(display.intervals_[family].get_segments())
        np.testing.assert_allclose(bars[:, 1, 1] - bars[:, 0, 1], 2 * half, rtol=1e-5)


def test_gain_multiplies_loras_first_gradient_as_alpha_does(display: GradientNormDisplay) -> None:
    task = linear_task(0.3)
    table = mv.initial_gradient_norms(
        task.linear, task.loss, [mv.LoRA(8), mv.LoRA(8, alpha=24), mv.LoRA(8, freeze_a=True)]
    )
    plain, scaled, frozen = table[table["module"] == "*"]["norm"]
    assert scaled == pytest.approx(3 * plain)
    assert frozen == plain


def test_lines_are_the_runs(display: GradientNormDisplay, runs: pd.DataFrame) -> None:
    wanted = {"gain 1": (1.0, False), "same rate": (3.0, False), "compensated": (3.0, True)}
    for name, (gain, compensated) in wanted.items():
        rows = runs[(runs["gain"] == gain) & (runs["compensated"] == compensated)]
        rows = rows.iloc[:: EVERY if name == "compensated" else 1]
        np.testing.assert_array_equal(display.lines_[name].get_xdata(), rows["step"])
        np.testing.assert_array_equal(display.lines_[name].get_ydata(), rows["loss"])
    assert "0.032 at c = 1" in display.summary()
    assert "0.032 at rate/c²" in display.summary()


def test_update_equals_drawing_anew(norms: pd.DataFrame, runs: pd.DataFrame) -> None:
    first, second = (
        GradientNormDisplay.from_tables(norms, runs, gain=c, input_mean=mean, optimiser="SGD")
        for c, mean in ((1.0, 0.0), (3.0, 0.3))
    )
    first.plot().update(second)
    second.plot()
    for family in ("LoRA", "MiSS"):
        for artists in ("points_", "laws_"):
            np.testing.assert_array_equal(
                getattr(first, artists)[family].get_ydata(),
                getattr(second, artists)[family].get_ydata(),
            )
    assert first.summary() == second.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_mean": 7.0}, "input_mean=7.0 was not measured"),
        ({"gain": 5.0}, "gain=5.0 did not run beside gain 1"),
        ({"gain": -1.0}, "gain=-1.0 did not run"),
        ({"optimiser": "AdamW"}, "optimiser='AdamW' is unknown"),
    ],
)
def test_bad_choices(norms: pd.DataFrame, runs: pd.DataFrame, change: dict, message: str) -> None:
    options = {"gain": 3.0, "input_mean": 0.3, "optimiser": "SGD"} | change
    with pytest.raises(ValueError, match=message):
        GradientNormDisplay.from_tables(norms, runs, **options)


def test_bad_tables(display: GradientNormDisplay) -> None:
    rest = {"gain": 1.0, "input_mean": 0.0, "correlation": 0.0, "optimiser": "SGD"}
    with pytest.raises(ValueError, match="norms has no column law"):
        GradientNormDisplay(norms=display.norms.drop(columns="law"), curves=display.curves, **rest)
    with pytest.raises(ValueError, match="curves: expected equally long ones of gain 1"):
        GradientNormDisplay(norms=display.norms, curves={"gain 1": np.ones(3)}, **rest)


def test_published_points_are_the_table_and_the_law_is_loras_alone() -> None:
    display = PublishedGradientsDisplay.from_published().plot()
    table = published.table("initial_gradients")
    for method in ("LoRA", "BigLoRA", "PiSSA", "MiSS"):
        rows = table[table["method"] == method]
        np.testing.assert_array_equal(display.points_[method].get_xdata(), rows["rank"])
        np.testing.assert_array_equal(display.points_[method].get_ydata(), rows["norm"])
        assert display.points_[method].get_markerfacecolor() == "none"
    assert set(display.points_["full fine-tuning"].get_ydata()) == {24.9}
    lora = [2.20, 3.15, 4.48, 6.31]
    constants = [norm / math.sqrt(r) for norm, r in zip(lora, (32, 64, 128, 256), strict=True)]
    assert display.constant == pytest.approx(np.mean(constants))
    ranks, law = display.law_.get_data()
    np.testing.assert_allclose(law, np.mean(constants) * np.sqrt(ranks))
    # BigLoRA, which the line has not seen, lies on it.
    assert display.constant * math.sqrt(1024) == pytest.approx(12.64, rel=0.01)
    assert "0.395 (r = 1024)" in display.summary()


def test_published_needs_lora() -> None:
    table = published.table("initial_gradients")
    with pytest.raises(ValueError, match="no row of LoRA"):
        PublishedGradientsDisplay(table=table[table["method"] == "PiSSA"])
    with pytest.raises(ValueError, match="table has no column norm"):
        PublishedGradientsDisplay(table=table.drop(columns="norm"))
