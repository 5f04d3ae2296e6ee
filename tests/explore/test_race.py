"""Stored and fresh runs: the race, and who wins where."""

import numpy as np
import pandas as pd
import pytest

import missviz as mv
from missviz.displays import RaceDisplay
from missviz.explore import stored
from missviz.explore.lunch import least


def test_stored_runs_are_small_and_say_where_they_are_from() -> None:
    assert sum(path.stat().st_size for path in stored.FOLDER.iterdir()) < 2_000_000
    for name in ("race", "lunch"):
        about = stored.load(name)[1]
        assert {"seeds", "methods", "commit", "machine", "versions"} <= set(about)
        assert about["seeds"] >= 10


def test_a_stored_run_is_what_training_gives() -> None:
    table, _ = stored.load("race")
    runs = mv.experiments.no_free_lunch([mv.MiSS(4)], "published", 10, [3e-3])
    fresh = RaceDisplay.from_runs(runs, "valid")
    kept = table[
        (table["second_layer"] == "trained")
        & (table["split"] == "valid")
        & (table["learning_rate"] == 3e-3)
        & (table["method"] == "MiSS r=4")
    ]
    assert np.allclose(kept["mean"], fresh.curves["mean"], rtol=1e-3)
    assert np.allclose(kept["low"], fresh.curves["low"], rtol=1e-3)
    assert kept["constant"].iloc[0] == pytest.approx(fresh.constant, rel=1e-3)


def test_stored_runs_are_labelled_and_fresh_ones_are_not() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4))
    words = [text.get_text() for text in panel.figure.texts]
    assert any(text.startswith("stored run: 10 seeds, commit ") for text in words)
    assert set(panel.drawn().lines_) == {"LoRA r=2", "MiSS r=4"}


def test_methods_that_are_not_stored_are_trained_now(monkeypatch) -> None:
    asked = []

    def trained(methods, seeds=2):
        asked.append([method.name for method in methods])
        table, _ = stored.load("race")
        return table[table["method"] == "LoRA r=2"].assign(method="LoRA r=2 α=16")

    monkeypatch.setattr(stored, "race_table", trained)
    panel = mv.explore.race(mv.LoRA(2, alpha=16.0))
    assert asked == [["LoRA r=2 α=16"]]
    assert not panel.figure.texts
    mv.explore.race(mv.LoRA(2), fresh=True)
    assert asked[1] == ["LoRA r=2"]


def test_race_table_has_every_setting(monkeypatch) -> None:
    monkeypatch.setattr(stored, "RATES", (1e-3,))
    table = stored.race_table([mv.MiSS(4)], seeds=2)
    assert set(table["second_layer"]) == {"trained", "frozen"}
    assert set(table["split"]) == {"train", "valid"}
    assert (table["low"] <= table["mean"]).all()


def test_the_order_changes_with_the_rate_once_the_second_layer_is_frozen() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4), second_layer="frozen")
    assert panel.summary.index("MiSS") < panel.summary.index("LoRA")
    panel.set(learning_rate=0.01)
    assert panel.summary.index("LoRA") < panel.summary.index("MiSS")


def test_lunch_shows_training_beside_the_closed_form() -> None:
    panel = mv.explore.lunch()
    assert "periodic: MiSS r=4" in panel.summary
    trained = panel.drawn().shares
    computed = panel.drawn(shown="closed form").shares
    assert computed.loc["MiSS r=4", "periodic"] == pytest.approx(0, abs=1e-9)
    assert trained.loc["MiSS r=4", "periodic"] < 1e-6
    assert computed.loc["MiSS r=4", "low rank"] == pytest.approx(0.95, abs=0.02)


def test_the_closed_form_is_reach() -> None:
    table, _ = stored.load("lunch")
    dense = table[(table["target"] == "dense") & (table["family"] == "MiSS")]
    assert np.allclose(dense["missed"], 1 - dense["budget"] / 64 / 64, atol=0.01)


def test_the_words_say_what_is_shown() -> None:
    assert "winner by test loss" in mv.explore.lunch().summary
    assert "winner by 1 − reach" in mv.explore.lunch(shown="closed form").summary


def test_two_of_a_family_look_different() -> None:
    lines = mv.explore.side_by_side(mv.LoRA(2), mv.LoRA(4)).drawn().delta_lines_
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 2
    lines = (
        mv.displays.RaceDisplay.from_runs(
            mv.experiments.no_free_lunch([mv.LoRA(1), mv.LoRA(2)], seeds=2, steps=3)
        )
        .plot()
        .lines_.values()
    )
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2


def test_a_tie_has_no_winner() -> None:
    assert least({"a": 0.1, "b": 0.4}) == "a"
    assert least({"a": 0.0, "b": 1e-12, "c": 0.4}) is None


def test_budgets_are_equal() -> None:
    for budget in stored.BUDGETS:
        counts = {m.num_parameters(64, 64) for m in stored.budget_methods(budget).values()}
        assert counts == {budget}


def test_lunch_table(monkeypatch) -> None:
    monkeypatch.setattr(stored, "BUDGETS", (256,))
    monkeypatch.setattr(stored, "TARGETS", {"periodic": stored.TARGETS["periodic"]})

    def quick(methods, protocol, seeds):
        return mv.experiments.no_free_lunch(
            methods, protocol, seeds, targets=["periodic"], learning_rates=[0.01], tuning_seeds=2
        )

    monkeypatch.setattr(stored, "no_free_lunch", quick)
    with pytest.warns(UserWarning, match="edge"):
        table = stored.lunch_table(seeds=2)
    assert isinstance(table, pd.DataFrame)
    assert table.set_index("family").loc["MiSS", "share"] < 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mv.explore.race(learning_rate=0.5), "learning_rate=0.5 is not a choice"),
        (lambda: mv.explore.race(split="test"), "split='test' is not a choice"),
        (lambda: mv.explore.race(mv.MiSS(65)), "rank=65 exceeds in_features=64"),
        (lambda: mv.explore.race(mv.MiSS(4), mv.MiSS(4)), "MiSS r=4 more than once"),
        (lambda: mv.explore.lunch(budget=100), "budget=100 is not a choice"),
        (lambda: mv.explore.lunch(budget=100, fresh=True), "budget=100 is not a choice"),
        (lambda: mv.explore.race(split="test", fresh=True), "split='test' is not a choice"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
