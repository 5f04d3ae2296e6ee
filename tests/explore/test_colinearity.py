"""The colinearity panel: trained adapters, own weights, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import missviz as mv
from missviz.analysis.shards import bat_cosine, mean_cosine, shard_cosines
from missviz.displays.colinearity import SCALES
from missviz.explore.colinearity import FEWEST_SHARDS, _block_size
from missviz.explore.colinearity import methods as methods_of


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_opens_where_the_law_can_be_seen() -> None:
    panel = mv.explore.colinearity()
    assert panel.values == {"method": "Bat", "scale": 1, "steps": 100}
    display = panel.view.compute(**panel.values)
    assert 0.8 < display.mean < 0.9
    assert display.mean == pytest.approx(bat_cosine(display.sigma, 8), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MiSS", "Bat", "LoRA", "fixed orthogonal"])
def test_it_shows_the_trained_adapters(name: str) -> None:
    panel = mv.explore.colinearity(name, steps=10)
    adapter = mv.experiments.adapter_snapshots(methods_of(8)[name], [10])[10].double()
    delta = adapter.delta().detach()
    shown = panel.view.compute(**panel.values)
    np.testing.assert_allclose(shown.delta, delta, atol=1e-12)
    assert shown.mean == pytest.approx(mean_cosine(shard_cosines(delta, 8)))
    assert shown.num_parameters == 512


def test_training_does_not_move_bats_cosine_and_w_does() -> None:
    panel = mv.explore.colinearity()
    after = [panel.view.compute("Bat", 1, steps).mean for steps in (1, 3, 10, 30, 100)]
    assert max(after) - min(after) < 0.01
    over = [panel.view.compute("Bat", scale, 100).mean for scale in SCALES]
    assert over == sorted(over, reverse=True)
    assert over[0] > 0.99
    assert over[-1] < 0.1


def test_before_training_there_is_nothing_to_compare() -> None:
    panel = mv.explore.colinearity("MiSS", steps=0)
    assert "no update yet" in panel.summary
    assert "cosine of" not in panel.summary


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"weight": random(16, 32)}])
def test_what_is_kept_for_all_panels_is_not_drawn_over(options: dict) -> None:
    panel = mv.explore.colinearity(**options)
    first = panel.summary
    panel.set(scale=8, method="MiSS")
    assert mv.explore.colinearity(**options).summary == first
    assert panel.view.compute(**{**panel.values, "scale": 1, "method": "Bat"}).summary() == first


@pytest.mark.slow
def test_own_weight_says_what_is_shown_and_cannot_be_trained() -> None:
    weight = random(600, 520) * 0.02
    panel = mv.explore.colinearity(weight=weight)
    notice = "the first 512 × 512 of 600 × 520 weights"
    assert notice in panel.summary
    assert notice in panel.view.display.note_.get_text()
    assert "random D" in panel.summary
    assert set(panel.values) == {"method", "scale"}
    again = eval(panel.state, {"mv": mv, "weight": weight})
    assert again.picture == panel.picture
    display = panel.view.compute("Bat", 1)
    assert display.width == 64
    assert display.mean == pytest.approx(bat_cosine(0.02, 64), abs=0.01)


def test_scale_multiplies_the_own_weight() -> None:
    weight = random(32, 64).double()
    once = mv.explore.colinearity(weight=weight).view.compute("Bat", 4)
    times = mv.explore.colinearity(weight=4 * weight).view.compute("Bat", 1)
    np.testing.assert_allclose(once.delta, times.delta, rtol=1e-12)
    assert once.mean == pytest.approx(times.mean)
    assert once.sigma == pytest.approx(times.sigma)


def test_own_weight_from_a_file(tmp_path) -> None:
    path = tmp_path / "weight.npy"
    np.save(path, random(16, 32).numpy())
    panel = mv.explore.colinearity(weight=str(path), scale=2)
    assert eval(panel.state, {"mv": mv}).picture == panel.picture


@given(out=st.integers(1, 200), in_=st.integers(2, 200))
def test_a_block_size_that_divides_is_found(out: int, in_: int) -> None:
    b = _block_size(out, in_)
    assert out % b == in_ % b == 0
    assert b == 1 or in_ // b >= FEWEST_SHARDS
    larger = [c for c in range(b + 1, math.gcd(out, in_) + 1) if out % c == in_ % c == 0]
    assert all(in_ // c < FEWEST_SHARDS for c in larger)


@pytest.mark.parametrize("shape", [(7, 11), (1, 2), (5, 3)])
def test_shapes_that_nothing_divides(shape: tuple[int, int]) -> None:
    panel = mv.explore.colinearity(weight=random(*shape))
    assert panel.view.compute("Bat", 1).width == 1
    assert panel.view.compute("MiSS", 1).mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight": random(4, 4), "steps": 10}, ValueError, "steps=10: nothing is trained"),
        ({"weight": random(5, 1)}, ValueError, r"\(5, 1\) is one shard"),
        ({"weight": torch.zeros(4, 4)}, ValueError, "weight is zero"),
        ({"weight": torch.full((4, 4), math.nan)}, ValueError, "16 values that are NaN"),
        ({"weight": 3}, TypeError, "weight of type int"),
        ({"weight": "nowhere.npy"}, FileNotFoundError, "no file nowhere.npy"),
        ({"method": "DoRA"}, ValueError, "method='DoRA' is not a choice"),
        ({"method": "DoRA", "weight": random(4, 4)}, ValueError, "is not a choice"),
        ({"scale": 3}, ValueError, "scale=3 is not a choice"),
        ({"steps": 50}, ValueError, "steps=50 is not a choice"),
        ({"reveal": 1}, TypeError, "reveal=1 is not True or False"),
    ],
)
def test_bad_input(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mv.explore.colinearity(**options)
