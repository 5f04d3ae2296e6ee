"""The sharing panel: what is stored is what is computed, at equal budgets."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import raises_one_sentence

import missviz as mv
from missviz.analysis.sharing import curves_of, layer_targets, sharing_table
from missviz.experiments.arguments import FIRST_SEED
from missviz.explore import stored
from missviz.explore.panel import Panel
from missviz.explore.sharing import sized
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


# --- A method of the reader's ---------------------------------------------------------------------


class Pool(torch.nn.Module):
    def __init__(self, A: torch.Tensor) -> None:
        super().__init__()
        self.A = torch.nn.Parameter(A)


@dataclass(frozen=True)
class OneA(mv.Method):
    """LoRA with one A for all layers."""

    rank: int

    @property
    def name(self) -> str:
        return f"one A r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def shared(self, layers, generator: torch.Generator) -> Pool:
        drawn = torch.randn(self.rank, layers[0].in_features, generator=generator) / 5
        return Pool(drawn.to(layers[0].weight))

    def adapter(self, base, generator: torch.Generator, shared: Pool) -> mv.Adapter:  # type: ignore[override]
        return OneAAdapter(self, base, shared)


class OneAAdapter(mv.Adapter):
    def __init__(self, method: OneA, base: torch.nn.Linear, pool: Pool) -> None:
        super().__init__(method, base)
        self.pool = pool
        self.B = self.zeros(self.out_features, method.rank)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.B, self.pool.A


def trained_numbers(method: mv.Method) -> int:
    model = torch.nn.ModuleList(
        mv.testing.random_linear(24, 24, torch.float32, bias=False) for _ in range(6)
    )
    attached = mv.attach(model, method)
    return sum(p.numel() for p in attached.parameters() if p.requires_grad)


@pytest.mark.parametrize("budget", stored.SHARED_BUDGETS)
def test_what_is_shared_counts_once_in_the_size_of_a_method(budget: int) -> None:
    method = sized(OneA(1), budget)
    rank = method.rank
    assert trained_numbers(method) <= 6 * 48 * budget < trained_numbers(OneA(rank + 1))
    assert rank == 6 * 48 * budget // (7 * 24)
    assert sized(mv.LoRA(1), budget) == mv.LoRA(budget)


@pytest.mark.slow
def test_a_method_that_is_searched_for_is_at_least_that(panel: Panel) -> None:
    own = mv.explore.sharing(method=[OneA(1), mv.MiSS(1)])
    for words in ("one A at least ", "subset at least ", "full MoS at least "):
        assert words in own.summary
    for words in ("LoRA at least", "MiSS at least", "pure sharing at least"):
        assert words not in own.summary
    ticks = [label.get_text() for label in own.figure.axes[2].get_yticklabels()]
    assert {"one A ≥", "subset ≥", "LoRA", "pure sharing", "MiSS"} <= set(ticks)
    assert "subset at least " in panel.summary


@pytest.mark.parametrize("method", [mv.LoRAGA(2), [OneA(1), mv.LoRAGA(2)]])
def test_a_method_that_needs_a_gradient_is_refused(method) -> None:
    message = "method='LoRA-GA r=2' starts from the gradient of a loss, and there is none here"
    raises_one_sentence(lambda: mv.explore.sharing(method=method), ValueError, message)
    with pytest.raises(ValueError, match="starts from the gradient of a loss, and there is none"):
        sharing_table({"GA": mv.LoRAGA(2)}, [0.5], seeds=[1])
