"""The contest's figure and table hold what `Runs.summary` says."""

import numpy as np
import pytest
from word_task import SMALL, encoder, first_word_task, word_task

import missviz as mv
from missviz.displays.contest import ContestDisplay
from missviz.experiments import Runs, fine_tune

METHODS = [mv.LoRA(2), mv.MiSS(4), mv.FullFineTuning()]
SPLITS = ["test", "longer", "first word"]


@pytest.fixture(scope="module")
def runs() -> Runs:
    return fine_tune(
        encoder(),
        word_task(),
        METHODS,
        learning_rates=[3e-2],
        remembered=[first_word_task()],
        **SMALL,
    )


def test_every_method_stands_on_every_split_with_its_interval(runs: Runs) -> None:
    display = ContestDisplay.from_runs(runs).plot()
    summary = runs.summary(measure="accuracy").set_index(["method", "metric"])
    assert list(display.axes_) == SPLITS
    names = [method.name for method in METHODS]
    assert set(display.points_) == {(n, s) for n in (*names, "unadapted") for s in SPLITS}
    for (name, split), drawn in display.points_.items():
        row = summary.loc[(name, split)]
        point, _, (bar,) = drawn.lines
        assert point.get_xdata()[0] == row["mean"]
        ends = bar.get_segments()[0][:, 0]
        assert np.allclose(ends, [row["low"], row["high"]], equal_nan=True)
        low, high = display.axes_[split].get_xlim()
        assert low < row["low"]
        assert row["high"] < high
    colors = [display.points_[name, "test"].lines[0].get_color() for name in names]
    assert len(set(colors)) == len(colors)


def test_the_table_says_accuracy_rate_numbers_and_paired_difference(runs: Runs) -> None:
    table = ContestDisplay.from_runs(runs, reference="MiSS r=4").table()
    summary = runs.summary("MiSS r=4", measure="accuracy").set_index(["method", "metric"])
    assert list(table.index) == [m.name for m in METHODS] + ["majority class", "linear probe"]
    row = summary.loc[("LoRA r=2", "test")]
    half = row["high"] - row["mean"]
    assert table.loc["LoRA r=2", "test"] == f"{100 * row['mean']:.1f} ± {100 * half:.1f}"
    assert table.loc["LoRA r=2", "rate"] == "0.03"
    assert table.loc["LoRA r=2", "numbers"] == f"{int(row['adapter_parameters']):,}"
    gap = row["difference_high"] - row["difference"]
    said = f"{100 * row['difference']:+.1f} ± {100 * gap:.1f}"
    assert table.loc["LoRA r=2", "test − MiSS r=4"] == said
    assert table.loc["MiSS r=4", "test − MiSS r=4"] == ""
    majority = runs.baselines.query("baseline == 'constant' and split == 'test'")["accuracy"]
    assert table.loc["majority class", "test"] == f"{100 * majority.mean():.1f}"


def test_it_is_said_in_words(runs: Runs) -> None:
    said = ContestDisplay.from_runs(runs).summary()
    best = runs.summary(measure="accuracy").query("metric == 'test'").set_index("method")["mean"]
    assert said.startswith(f"test accuracy: {best.drop(['constant', 'unadapted']).idxmax()}")
    assert f"majority {best['constant']:.3f}" in said
