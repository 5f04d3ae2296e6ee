"""The reach panel: every target has its claimed kind, and the shares are those of `mv.reach`."""

import numpy as np
import pytest
import torch
from helpers import raises_one_sentence, random

import missviz as mv
from missviz.analysis.reach import thin_factor
from missviz.analysis.reach_by_rank import reaches_of
from missviz.explore.panel import Panel
from missviz.explore.reach import METHODS, RANKS, TARGETS, _computed
from missviz.randomness import generator_for, normal


@pytest.fixture(scope="module")
def panel() -> Panel:
    return mv.explore.reach()


@pytest.fixture(scope="module")
def targets() -> dict[str, torch.Tensor]:
    return {name: _computed(name)[0] for name in TARGETS}


def test_all_targets_have_the_same_norm(targets) -> None:
    norms = [float(target.norm()) for target in targets.values()]
    np.testing.assert_allclose(norms, norms[0])


def test_targets_are_of_their_kind(targets) -> None:
    ranks = {name: int(torch.linalg.matrix_rank(target)) for name, target in targets.items()}
    assert ranks == {
        "rank one": 1,
        "invisible to MiSS": 1,
        "low rank": 2,
        "periodic": 4,
        "blocks": 4,
        "columns": 4,
        "dense": 24,
        "one of Bat's": 24,
        "one of PiSSA's": 8,
    }


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("rank one", "LoRA"),
        ("low rank", "LoRA"),
        ("periodic", "MiSS"),
        ("blocks", "MiSS block"),
        ("columns", "fixed columns"),
        ("one of Bat's", "Bat"),
        ("one of PiSSA's", "PiSSA"),
    ],
)
def test_each_target_is_in_reach_of_its_method_at_rank_4(target: str, method: str) -> None:
    _, reaches = _computed(target)
    whole = {
        name
        for name, found in reaches.items()
        if found.shares[list(found.ranks).index(4)] > 1 - 1e-9
    }
    assert method in whole
    assert whole <= {method, "LoRA"}


def test_the_surprise(panel: Panel) -> None:
    """Rank is not reach: all of a rank-4 target, nothing of one of rank 1; at rank 8 all of it."""
    shown = panel.set(target="periodic", rank=4).summary
    assert "MiSS 100% (96)" in shown
    assert "LoRA 100% (192)" in shown
    assert "LoRA 100%" not in panel.set(rank=2).summary
    assert "MiSS 0% (96)" in panel.set(target="invisible to MiSS", rank=4).summary
    assert "MiSS 100% (192)" in panel.set(rank=8).summary
    assert "MiSS 0% (288)" in panel.set(rank=12).summary


def test_where_bat_does_not_exist_it_is_not_drawn(panel: Panel) -> None:
    assert "Bat" not in panel.set(rank=5).summary
    assert "MiSS " in panel.summary


def test_every_rank_of_the_slider_was_computed() -> None:
    _, reaches = _computed("dense")
    assert set(reaches) == set(METHODS)
    for name, found in reaches.items():
        assert set(RANKS) - {5} <= set(found.ranks.tolist()), name
        assert np.isfinite(found.shares).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "round"}, "target='round' is not a choice; choose from 'rank one'"),
        ({"rank": 7}, "rank=7 is not a choice; choose from 1, 2"),
    ],
)
def test_bad_input(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mv.explore.reach(**options)


# --- A method of the reader's ---------------------------------------------------------------------


class Broken(mv.MiSS):
    """ΔW is not a number, though the method fits every layer."""

    name = "broken"

    def adapter(self, base, generator) -> mv.Adapter:
        made = super().adapter(base, generator)
        made.delta = lambda: made.D.new_full((24, 24), torch.nan)
        return made


@pytest.mark.parametrize("panel_of", [mv.explore.reach, mv.explore.sharing])
def test_an_update_that_is_no_number_is_said_in_one_sentence(panel_of) -> None:
    message = "broken on a layer of 24 × 24: delta() has 576 values that are NaN or infinite of 576"
    raises_one_sentence(lambda: panel_of(method=Broken(2)), ValueError, message)


@pytest.mark.slow
@pytest.mark.parametrize("on_inputs", [False, True])
def test_a_method_that_starts_from_the_gradient_gets_that_of_the_target(on_inputs: bool) -> None:
    x = random(40, 24, seed=5) if on_inputs else None
    panel = mv.explore.reach("dense", method=mv.LoRAGA(2), x=x)
    shown = panel.view.compute(**panel.values)
    found = shown.reaches["LoRA-GA"]
    target = torch.from_numpy(shown.target)
    factor = torch.eye(24, dtype=torch.float64) if x is None else thin_factor(x, target)
    weight = normal((24, 24), 24**-0.5, generator_for("explore.reach", "weight"))
    gradient = -target @ factor.mT @ factor
    share = mv.reach(mv.LoRAGA(2), target, weight, gradient=gradient, x=x)
    assert found.shares[found.at(2)] == pytest.approx(share, abs=1e-9)
    assert "LoRA-GA " in panel.summary


def test_a_size_that_does_not_fit_is_left_out_and_another_error_is_not() -> None:
    target = random(24, 24, seed=1)
    found = reaches_of(target, {"Bat": mv.Bat}, [4, 5], random(24, 24, seed=2))
    assert found["Bat"].ranks.tolist() == [4]
    with pytest.raises(ValueError, match="base has 576 values that are NaN"):
        reaches_of(target, {"MiSS": mv.MiSS}, [4], target * torch.nan)
