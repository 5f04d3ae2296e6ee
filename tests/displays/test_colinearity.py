"""Shards, their cosines, and the law of Bat's mean cosine, against brute force."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import missviz as mv
from missviz.analysis.shards import bat_cosine, mean_cosine, shard_cosines
from missviz.displays import ColinearityDisplay
from missviz.displays.colinearity import ROWS_SHOWN, SCALES
from missviz.style import FAINT
from missviz.testing import random_linear, randomise


def adapted(method: mv.Method, out: int = 16, in_: int = 24) -> mv.Adapter:
    adapter = method.on(random_linear(out, in_, torch.float64))
    randomise(adapter, std=1.0)
    return adapter


def brute_force_mean_cosine(W: np.ndarray, D: np.ndarray) -> float:
    """W_oi D_o + D_o block by block, then every two shards as long vectors."""
    b = D.shape[-1]
    shards = []
    for start in range(0, W.shape[1], b):
        parts = [
            W[o * b : (o + 1) * b, start : start + b] @ D[o] + D[o] for o in range(len(W) // b)
        ]
        shards.append(np.concatenate(parts).ravel())
    pairs = itertools.combinations(shards, 2)
    return float(np.mean([s @ t / np.linalg.norm(s) / np.linalg.norm(t) for s, t in pairs]))


D_KINDS = {
    "random": lambda random, shape: random.normal(size=shape),
    "half its blocks zero": lambda random, shape: (
        random.normal(size=shape) * (np.arange(shape[0]) % 2)[:, None, None]
    ),
    "all ones": lambda random, shape: np.ones(shape),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", D_KINDS)
@pytest.mark.parametrize(
    ("out", "in_", "b", "sigma"),
    [
        (256, 256, 16, 0.02),
        (256, 256, 16, 0.3),
        (192, 320, 64, 0.125),
        (320, 192, 8, 1.0),
        (256, 64, 1, 1.0),
    ],
)
def test_the_law_whatever_d_is(kind: str, out: int, in_: int, b: int, sigma: float) -> None:
    measured = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        D = D_KINDS[kind](random, (out // b, b, b))
        measured.append(brute_force_mean_cosine(random.normal(0, sigma, (out, in_)), D))
    assert np.mean(measured) == pytest.approx(bat_cosine(sigma, b), abs=0.01)


def test_the_law_at_its_ends() -> None:
    assert bat_cosine(0.0, 8) == 1
    assert bat_cosine(8**-0.5, 8) == pytest.approx(0.5)
    assert bat_cosine(1e6, 8) < 1e-9
    np.testing.assert_allclose(bat_cosine(np.array([0.5, 1.0]), 4), [0.5, 0.2])


@pytest.mark.parametrize(
    ("method", "columns", "rows"),
    [
        (mv.Bat(8), True, False),
        (mv.Bat(8, side="left"), True, False),
        (mv.Bat(8, index="input"), False, True),
    ],
)
def test_which_shards_obey_the_law(method: mv.Bat, columns: bool, rows: bool) -> None:
    sigma, means = 0.2, {"columns": [], "rows": []}
    for seed in range(8):
        linear = nn.Linear(128, 128, bias=False).double()
        random = torch.Generator().manual_seed(seed)
        linear.weight.data = sigma * torch.randn(128, 128, generator=random, dtype=torch.float64)
        adapter = method.on(linear)
        randomise(adapter, seed)
        delta = adapter.delta().detach()
        means["columns"].append(mean_cosine(shard_cosines(delta, 8)))
        means["rows"].append(mean_cosine(shard_cosines(delta.mT, 8)))
    for side, lawful in (("columns", columns), ("rows", rows)):
        wanted = bat_cosine(sigma, 8) if lawful else 0
        assert np.mean(means[side]) == pytest.approx(wanted, abs=0.03), side


def test_over_scales_is_the_adapter_on_scaled_weights() -> None:
    adapter = adapted(mv.Bat(4))
    weight, D = adapter.base.weight.clone(), adapter.D.clone()
    displays = ColinearityDisplay.over_scales(adapter, 4, scales=(0.5, 1, 3))
    assert torch.equal(adapter.base.weight, weight)
    assert torch.equal(adapter.D, D)
    rms = float(weight.square().mean().sqrt())
    for scale, display in displays.items():
        linear = random_linear(16, 24, torch.float64)
        linear.weight.data = scale * weight
        again = mv.Bat(4).on(linear)
        again.D.data = D
        delta = again.delta().detach()
        np.testing.assert_allclose(display.delta, delta, rtol=1e-12)
        np.testing.assert_allclose(display.cosines, shard_cosines(delta, 4), rtol=1e-12)
        np.testing.assert_allclose(display.singular_values, torch.linalg.svdvals(delta))
        assert display.mean == pytest.approx(mean_cosine(shard_cosines(delta, 4)))
        assert display.mean == pytest.approx(
            brute_force_mean_cosine(linear.weight.detach().numpy(), D.detach().numpy())
        )
        assert display.sigma == pytest.approx(scale * rms)
        assert display.own_sigma == pytest.approx(rms)
        assert display.num_parameters == 64
    assert [display.present for display in displays.values()] == [0, 1, 2]


def test_from_adapter_at_a_scale_between_the_usual() -> None:
    adapter = adapted(mv.Bat(4))
    display = ColinearityDisplay.from_adapter(adapter, 4, scale=3)
    assert display.mean == ColinearityDisplay.over_scales(adapter, 4, scales=[3])[3].mean
    assert len(display.means) == len(SCALES) + 1


@pytest.mark.parametrize("method", [mv.MiSS(4), mv.LoRA(2), mv.FixedFactor(4, "orthogonal")])
def test_only_bat_depends_on_the_scale_of_w(method: mv.Method) -> None:
    displays = list(ColinearityDisplay.over_scales(adapted(method), 4).values())
    assert all(np.array_equal(displays[0].delta, display.delta) for display in displays)
    assert len(set(displays[0].means)) == 1


def test_miss_has_copies_at_any_rank_and_a_twin_of_equal_spectrum_has_none() -> None:
    miss = adapted(mv.MiSS(4), 64, 64)
    twin = mv.FixedFactor(4, "orthogonal", gain=4).on(miss.base)
    twin.D.data = miss.D.data.clone()
    copies = ColinearityDisplay.from_adapter(miss, 4)
    others = ColinearityDisplay.from_adapter(twin, 4)
    np.testing.assert_allclose(copies.cosines, 1)
    assert copies.rank == others.rank == 4
    np.testing.assert_allclose(others.singular_values, copies.singular_values, atol=1e-9)
    assert abs(others.mean) < 0.1


def test_no_update_has_no_cosines() -> None:
    adapter = mv.Bat(4).on(random_linear(16, 24, torch.float64))
    display = ColinearityDisplay.from_adapter(adapter, 4, origin="at first").plot()
    assert np.isnan(display.cosines).all()
    assert np.isnan(display.mean)
    assert display.rank == 0
    assert display.axes_[1].get_title() == "no update yet"
    assert "at first: ΔW = 0, no update yet" in display.summary()
    assert display.ims_[1].get_array().mask.all()
    assert set(display.digits_.strings) == {""}


def test_it_draws_what_it_was_given() -> None:
    adapter = adapted(mv.Bat(4), 20, 24)
    display = ColinearityDisplay.from_adapter(adapter, 4, scale=2, origin="random D").plot()
    shown = display.ims_[0].get_array()
    np.testing.assert_allclose(shown, (display.delta / abs(display.delta).max())[:ROWS_SHOWN])
    np.testing.assert_allclose(display.ims_[1].get_array(), display.cosines)
    assert display.digits_.strings[0] == "1"
    x, y = display.points_.get_data()
    np.testing.assert_allclose(x, display.sigmas)
    np.testing.assert_allclose(y, display.means)
    assert display.point_.get_data() == ([display.sigma], [display.mean])
    x, y = display.law_.get_data()
    np.testing.assert_allclose(y, 1 / (1 + x**2 * 4))
    for number in ("80 trained numbers", f"rank {display.rank}", "stable rank"):
        assert number in display.note_.get_text()
        assert number in display.summary()


def test_of_wide_shards_the_first_columns_are_shown() -> None:
    display = ColinearityDisplay.from_adapter(adapted(mv.MiSS(12), 20, 30), 12).plot()
    delta = display.delta / abs(display.delta).max()
    shown = np.hstack([delta[:16, 0:8], delta[:16, 12:20], delta[:16, 24:30]])
    np.testing.assert_allclose(display.ims_[0].get_array(), shown)
    assert display.axes_[0].get_xlabel() == "3 shards of 12 columns (part)"


def test_update_shows_the_other() -> None:
    first = ColinearityDisplay.from_adapter(adapted(mv.Bat(4)), 4).plot()
    other = ColinearityDisplay.from_adapter(adapted(mv.MiSS(4)), 4, scale=4)
    first.update(other)
    assert first.summary() == other.summary()
    np.testing.assert_allclose(first.points_.get_ydata(), 1)
    assert first.point_.get_markerfacecolor() == mv.displays.colinearity.method_style("MiSS").color


def test_a_ghost_is_grey_and_stands_where_the_pinned_did() -> None:
    display = ColinearityDisplay.from_adapter(adapted(mv.Bat(4)), 4).plot()
    pinned = ColinearityDisplay.from_adapter(adapted(mv.MiSS(4)), 4, scale=4)
    series, present = display.ghost(pinned)
    assert {series.get_color(), present.get_color()} == {FAINT}
    np.testing.assert_allclose(series.get_data(), (pinned.sigmas, pinned.means))
    np.testing.assert_allclose(present.get_data(), ([pinned.sigma], [pinned.mean]))


def test_many_shards_have_no_digits() -> None:
    display = ColinearityDisplay.from_adapter(adapted(mv.Bat(1), 3, 40), 1).plot()
    assert display.digits_ is None
    assert display.cosines.shape == (40, 40)


def test_a_negative_zero_is_a_zero() -> None:
    given = ColinearityDisplay.from_adapter(adapted(mv.LoRA(2)), 4).__dict__
    given["means"] = np.full(len(given["means"]), -1e-4)
    assert "shards 0.00" in ColinearityDisplay(**given).summary()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cosines": np.ones((2, 2))}, r"cosines of shape \(2, 2\); ΔW \(16, 24\) has 6 shards"),
        ({"present": 8}, "present=8 with 8 sigmas"),
        ({"means": np.ones(3)}, "with 8 sigmas and 3 means"),
    ],
)
def test_bad_data(changed: dict, message: str) -> None:
    given = ColinearityDisplay.from_adapter(adapted(mv.Bat(4)), 4).__dict__
    with pytest.raises(ValueError, match=message):
        ColinearityDisplay(**{**given, **changed})


def test_bad_arguments() -> None:
    adapter = adapted(mv.Bat(4))
    with pytest.raises(ValueError, match="scale=0 is not a positive finite number"):
        ColinearityDisplay.from_adapter(adapter, 4, scale=0)
    with pytest.raises(ValueError, match="width=25 exceeds in_features=24"):
        ColinearityDisplay.from_adapter(adapter, 25)
    adapter.base.weight.data.zero_()
    with pytest.raises(ValueError, match="W₀ is zero"):
        ColinearityDisplay.from_adapter(adapter, 4)
