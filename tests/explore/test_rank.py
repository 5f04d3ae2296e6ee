"""The rank panel: spectra of real runs, and of the reader's own weight."""

import numpy as np
import pytest
import torch

import missviz as mv
from missviz.experiments import adapter_snapshots
from missviz.explore.panel import Panel
from missviz.explore.rank import METHODS, STEPS


@pytest.fixture(scope="module")
def panel() -> Panel:
    return mv.explore.rank()


@pytest.mark.slow
def test_shows_the_run_of_the_snapshots(panel: Panel) -> None:
    adapter = adapter_snapshots(mv.PiSSA(4), [30])[30]
    wanted = np.linalg.svd(adapter.double().delta().detach().numpy(), compute_uv=False)
    panel.set(method="PiSSA", steps=30)
    panel.figure  # noqa: B018 (draws the present values)
    drawn = panel.view.display.delta_lines_[0].get_ydata()
    np.testing.assert_allclose(drawn[:8], wanted[:8], rtol=1e-6)
    assert "rank 8, stable rank" in panel.summary
    assert "after 30 steps" in panel.summary


@pytest.mark.slow
def test_ranks_and_ladder(panel: Panel) -> None:
    for steps in STEPS[1:]:
        summary = panel.set(method="MiSS", steps=steps).summary
        assert "rank 4, " in summary
        assert "σ(ΔW) = 4.00 σ(D)" in summary
        assert "rank 4, " in panel.set(method="LoRA").summary
        assert "rank 64, " in panel.set(method="Bat").summary
        assert "σ(ΔW) = 1.00 σ(D)" in panel.set(method="fixed orthogonal").summary


def test_before_training_there_is_no_update(panel: Panel) -> None:
    for method in METHODS:
        assert "no update yet" in panel.set(method=method, steps=0).summary


def test_a_rank_that_bat_cannot_have() -> None:
    panel = mv.explore.rank(rank=3)
    assert "rank 3," in panel.summary
    assert "block_size=3 does not divide" in panel.set(method="Bat").summary


def test_own_weight() -> None:
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    panel = mv.explore.rank(weight=weight, method="MiSS", rank=4)
    assert panel.state == "mv.explore.rank(weight=weight, method='MiSS', rank=4)"
    assert "random, not trained" in panel.summary
    assert "σ(ΔW) = 4.00 σ(D)" in panel.summary
    np.testing.assert_allclose(
        panel.view.display.base, np.linalg.svd(weight.double().numpy(), compute_uv=False)
    )
    again = eval(panel.state, {"mv": mv, "weight": weight})
    assert again.picture == panel.picture
    assert "rank 16, " in panel.set(method="PiSSA", rank=8).summary
    assert "does not divide" in panel.set(method="Bat", rank=16).summary
    limits = panel.figure.axes[0].get_ylim()
    for method in METHODS:
        for rank in panel.view.choices["rank"]:
            display = panel.view.compute(method=method, rank=rank)
            for of in filter(None, display.spectra.values()):
                assert max(of.delta.max(), of.moved.max()) < limits[1]


def test_a_large_own_weight_is_cut_and_says_so() -> None:
    panel = mv.explore.rank(weight=np.eye(600), rank=1)
    assert "the first 512 × 512 of 600 × 600 weights" in panel.summary
    words = panel.view.display.notice_text_.get_text().replace("\n", " ")
    assert "the first 512 × 512 of 600 × 600 weights" in words


def test_own_weight_from_a_file(tmp_path) -> None:
    path = tmp_path / "w.npy"
    np.save(path, np.random.default_rng(0).normal(size=(8, 16)))
    panel = mv.explore.rank(weight=str(path), rank=2)
    assert repr(str(path)) in panel.state
    assert eval(panel.state, {"mv": mv}).summary == panel.summary


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 65}, ValueError, "rank=65 exceeds in_features=64"),
        ({"rank": 0}, ValueError, "rank=0 is not positive"),
        ({"rank": 2.5}, TypeError, "rank=2.5 is not an integer"),
        ({"method": "none"}, ValueError, "method='none' is not a choice"),
        ({"steps": 7}, ValueError, "steps=7 is not a choice; choose from 0, 1, 3"),
        ({"method": "Bat", "rank": 3}, ValueError, "block_size=3 does not divide"),
        ({"weight": "nothing.npy"}, FileNotFoundError, "there is no file nothing.npy"),
        ({"weight": torch.ones(8, 8), "rank": 9}, ValueError, "rank=9 exceeds in_features=8"),
        ({"reveal": 1}, TypeError, "reveal=1 is not True or False"),
    ],
)
def test_bad_input(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mv.explore.rank(**options)
