"""The sharing panel: what is stored is what is computed, at equal budgets."""

import itertools

import numpy as np
import pytest
import torch

import missviz as mv
from missviz.analysis.sharing import layer_targets, sharing_table
from missviz.displays.sharing import curves_of
from missviz.experiments.arguments import FIRST_SEED
from missviz.explore import stored
from missviz.explore.panel import Panel
from missviz.randomness import generator_for


@pytest.fixture(scope="module")
def panel() -> Panel:
    return mv.explore.sharing()


def test_all_methods_train_as_many_numbers() -> None:
    for budget in stored.SHARED_BUDGETS:
        methods = stored.sharing_methods(budget)
        model = torch.nn.ModuleList(
            mv.testing.random_linear(24, 24, torch.float32, bias=False) for _ in range(6)
        )
        for method in methods.values():
            attached = mv.attach(model, method)
            trained = sum(p.numel() for p in attached.parameters() if p.requires_grad)
            assert trained == 6 * 48 * budget, method


def test_each_method_differs_in_one_switch_from_the_one_before() -> None:
    chain = list(stored.sharing_methods(3).values())[1:]
    for before, after in itertools.pairwise(chain):
        changed = [name for name in vars(after) if getattr(after, name) != getattr(before, name)]
        assert len(changed) == 1, (before, after)


def test_stored_table_says_where_it_is_from() -> None:
    table, about = stored.load("sharing")
    assert {"seeds", "methods", "commit", "machine", "versions"} <= set(about)
    assert about["seeds"] >= 10
    points = len(stored.SHARED_BUDGETS) * len(stored.WANTED) * len(stored.ALIKE)
    assert len(table) == points * len(stored.sharing_methods(2))
    assert table["mean"].between(0, 1).all()


@pytest.mark.parametrize(("budget", "wanted", "name"), [(2, 4, "+ pairs apart"), (3, 8, "LoRA")])
def test_the_stored_table_is_what_the_search_gives(budget: int, wanted: int, name: str) -> None:
    method = stored.sharing_methods(budget)[name]
    seeds = range(FIRST_SEED, FIRST_SEED + stored.SEEDS)
    fresh = curves_of(sharing_table({name: method}, [0.3], rank=wanted, seeds=seeds)).iloc[0]
    table, _ = stored.load("sharing")
    kept = table.query("budget == @budget and wanted == @wanted and method == @name")
    kept = kept[np.isclose(kept["alike"], 0.3)].iloc[0]
    for column in ("mean", "low", "high"):
        assert kept[column] == pytest.approx(fresh[column], abs=1e-3)


def test_the_surprise(panel: Panel) -> None:
    """Sharing wins where layers want the same, and loses where they do not."""
    curves = panel.drawn(alike=0.0).curves.set_index(["alike", "method"])["mean"]
    assert curves[1.0, "pure sharing"] == pytest.approx(1)
    assert curves[1.0, "LoRA"] == pytest.approx(0.5)
    assert curves[0.0, "pure sharing"] < 0.2 < curves[0.0, "LoRA"]
    assert curves[1.0].idxmax() == "pure sharing"
    assert curves[0.0].idxmin() == "pure sharing"
    assert curves[1.0, "+ vectors cut"] < curves[1.0, "+ pairs apart"] - 0.2


def test_targets_are_those_of_the_first_problem(panel: Panel) -> None:
    wanted = layer_targets(0.2, rank=8, generator=generator_for("layers", FIRST_SEED))
    np.testing.assert_array_equal(panel.drawn(alike=0.2, wanted=8).targets, wanted)


def test_stored_is_labelled_and_fresh_is_not(panel: Panel, monkeypatch) -> None:
    words = [text.get_text() for text in panel.figure.texts]
    assert any(text.startswith("stored run: 10 seeds, commit ") for text in words)
    table, _ = stored.load("sharing")
    monkeypatch.setattr(stored, "sharing_curves", lambda: table)
    fresh = mv.explore.sharing(fresh=True)
    assert not fresh.figure.texts
    assert "fresh=True" in fresh.state


def test_curves_have_every_setting(monkeypatch) -> None:
    monkeypatch.setattr(stored, "SHARED_BUDGETS", (2,))
    monkeypatch.setattr(stored, "WANTED", (4,))
    monkeypatch.setattr(stored, "ALIKE", (0.3,))
    monkeypatch.setattr(stored, "sharing_methods", lambda budget: {"LoRA": mv.LoRA(budget)})
    table = stored.sharing_curves()
    assert set(table) == {"method", "alike", "mean", "low", "high", "budget", "wanted"}
    kept, _ = stored.load("sharing")
    kept = kept.query("budget == 2 and wanted == 4 and method == 'LoRA'")
    kept = kept[np.isclose(kept["alike"], 0.3)]
    np.testing.assert_allclose(table["mean"], kept["mean"], rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(alike=0.55), "alike=0.55 is not a choice; choose from 0.0, 0.1"),
        (dict(budget=1), "budget=1 is not a choice; choose from 2, 3, 4"),
        (dict(wanted=3), "wanted=3 is not a choice; choose from 2, 4, 8"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mv.explore.sharing(**options)
