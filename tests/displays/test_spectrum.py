"""The spectrum display draws numpy's singular values, and says the rank that it draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import missviz as mv
from missviz.displays import SpectrumDisplay
from missviz.displays.spectrum import Spectrum
from missviz.style import method_style
from missviz.testing import random_linear, randomise


def adapted(method, out_features: int = 12, in_features: int = 12, dtype=torch.float64):
    adapter = method.on(random_linear(out_features, in_features, dtype))
    randomise(adapter)
    return adapter


def singular_values(matrix: torch.Tensor) -> np.ndarray:
    return np.linalg.svd(matrix.detach().double().numpy(), compute_uv=False)


METHODS = [mv.LoRA(2), mv.PiSSA(2), mv.MiSS(3), mv.Bat(3), mv.FixedFactor(3, "orthogonal")]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_draws_numpys_singular_values(method) -> None:
    adapter = adapted(method)
    display = SpectrumDisplay.from_updates({method.name: adapter}).plot()
    delta, zero = singular_values(adapter.delta()), display.zero
    rank = int((delta > zero).sum())
    drawn = display.delta_lines_[0].get_ydata()
    np.testing.assert_allclose(drawn[:rank], delta[:rank], rtol=1e-9)
    assert (drawn[rank:] < zero).all()
    assert (drawn[rank:] > display.axes_[0].get_ylim()[0]).all()
    np.testing.assert_allclose(
        display.moved_lines_[0].get_ydata(), singular_values(adapter.weight), rtol=1e-9
    )
    np.testing.assert_allclose(
        display.base_line_.get_ydata(), singular_values(adapter.base.weight), rtol=1e-9
    )
    np.testing.assert_allclose(
        display.energy_lines_[0].get_ydata(), np.cumsum(delta**2) / np.sum(delta**2)
    )
    assert display.delta_lines_[0].get_color() == method_style(method.name).color
    stable = np.sum(delta**2) / delta[0] ** 2
    assert f"rank {rank}, stable rank {stable:.1f}" in display.summary()
    assert f"{method.num_parameters(12, 12)} trained numbers" in display.summary()
    shown = display.texts_[0].get_text().replace("\n", ", ")
    assert f"rank {rank}, stable rank {stable:.1f}, " in shown


def test_the_band_ends_where_rank_ends() -> None:
    display = SpectrumDisplay.from_updates({"LoRA r=2": adapted(mv.LoRA(2))}).plot()
    band = display.axes_[0].patches[0]
    low, high = display.axes_[0].get_ylim()
    assert band.get_y() == pytest.approx(low)
    assert band.get_y() + band.get_height() == pytest.approx(display.zero)
    assert high > display.base.max()


def test_sums_of_bfloat16_are_exact() -> None:
    """W₀ + ΔW is taken in float64: in bfloat16 the sum would lose two digits."""
    adapter = adapted(mv.LoRA(2), dtype=torch.bfloat16)
    display = SpectrumDisplay.from_updates({"LoRA r=2": adapter})
    exact = adapter.base.weight.double() + adapter.B.double() @ adapter.A.double()
    np.testing.assert_allclose(display.spectra["LoRA r=2"].moved, singular_values(exact))
    assert "rank 2," in display.summary()


@settings(max_examples=20)
@given(copies=st.integers(1, 5), rank=st.integers(1, 4))
def test_the_ladder_of_copies(copies: int, rank: int) -> None:
    """σ(ΔW) = √g σ(D)."""
    adapter = adapted(mv.MiSS(rank), 9, copies * rank)
    display = SpectrumDisplay.from_updates({"MiSS": adapter})
    assert f"σ(ΔW) = {np.sqrt(copies):.2f} σ(D)" in display.summary()
    np.testing.assert_allclose(display.spectra["MiSS"].small, singular_values(adapter.D))


def test_the_ladder_of_a_short_last_shard() -> None:
    adapter = adapted(mv.MiSS(4), 9, 10)
    ratios = singular_values(adapter.delta())[:4] / singular_values(adapter.D)
    words = SpectrumDisplay.from_updates({"MiSS": adapter}).summary()
    assert f"σ(ΔW) = {ratios.min():.2f} to {ratios.max():.2f} σ(D)" in words
    assert np.sqrt(2) <= ratios.min() < ratios.max() <= np.sqrt(3)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_no_update_is_no_spectrum(method) -> None:
    adapter = method.on(random_linear(12, 12, torch.float32))
    display = SpectrumDisplay.from_updates({method.name: adapter}).plot()
    assert "no update yet" in display.summary()
    assert "stable" not in display.summary()
    for lines in (display.delta_lines_, display.small_lines_, display.energy_lines_):
        assert len(lines[0].get_ydata()) == 0


def test_two_methods_on_the_same_axes() -> None:
    first, second = adapted(mv.LoRA(2)), adapted(mv.MiSS(4))
    display = SpectrumDisplay.from_updates({"LoRA r=2": first, "MiSS r=4": second}).plot()
    assert [line.get_marker() for line in display.delta_lines_] == ["o", "D"]
    np.testing.assert_allclose(
        display.delta_lines_[1].get_ydata()[:4], singular_values(second.delta())[:4]
    )
    assert len(display.small_lines_[0].get_ydata()) == 0
    assert len(display.small_lines_[1].get_ydata()) == 4
    assert display.summary().count("stable rank") == 2


def test_a_method_that_does_not_exist_here_says_why() -> None:
    base = np.ones(4)
    display = SpectrumDisplay(spectra={"Bat b=3": None}, base=base, notice="3 does not divide 4")
    assert "ΔW: none" in display.summary()
    assert "3 does not divide 4" in display.plot().notice_text_.get_text()
    assert len(display.delta_lines_[0].get_ydata()) == 0


def test_update_keeps_limits_and_restyles() -> None:
    display = SpectrumDisplay.from_updates({"LoRA r=2": adapted(mv.LoRA(2))}).plot()
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_]
    other = SpectrumDisplay.from_updates({"MiSS r=4": adapted(mv.MiSS(4))}, notice="later")
    display.update(other)
    assert display.delta_lines_[0].get_color() == method_style("MiSS").color
    assert display.summary() == other.summary()
    assert "later" in display.notice_text_.get_text()
    assert [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_] == limits


def test_hidden_update_leaves_the_weight() -> None:
    display = SpectrumDisplay.from_updates({"LoRA r=2": adapted(mv.LoRA(2))}).plot().reveal(False)
    assert display.base_line_.get_visible()
    hidden = (display.delta_lines_, display.moved_lines_, display.energy_lines_, display.texts_)
    assert not any(artist.get_visible() for artists in hidden for artist in artists)


@pytest.mark.slow
def test_a_ghost_without_an_update_is_empty() -> None:
    display = SpectrumDisplay.from_updates({"LoRA r=2": adapted(mv.LoRA(2))}).plot()
    fresh = mv.LoRA(2).on(random_linear(12, 12, torch.float64))
    assert display.ghost(SpectrumDisplay.from_updates({"LoRA r=2": fresh})) == []
    assert len(display.ghost(display)) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SpectrumDisplay(spectra={}, base=np.ones(2)), "spectra is empty"),
        (lambda: SpectrumDisplay.from_updates({}), "updates is empty"),
        (
            lambda: SpectrumDisplay(
                spectra={"x": Spectrum(np.ones(2), np.ones(2), np.ones(0), 1)}, base=np.ones(3)
            ),
            "x has 2 singular values and W₀ has 3",
        ),
        (
            lambda: SpectrumDisplay.from_updates(
                {"a": adapted(mv.LoRA(1)), "b": adapted(mv.LoRA(1), 12, 8)}
            ),
            "b is on another W₀ than a",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
