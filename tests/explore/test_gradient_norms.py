"""The two panels of lesson 04, beyond what holds for every panel."""

import numpy as np
import pytest
import torch

import missviz as mv


def test_compensation_is_what_the_picture_says() -> None:
    panel = mv.explore.gradient_norms()
    for optimiser in ("SGD", "Adam"):
        for gain in (0.25, 8.0):
            curves = panel.view.compute(
                **{**panel.values, "gain": gain, "optimiser": optimiser}
            ).curves
            np.testing.assert_allclose(curves["compensated"], curves["gain 1"], rtol=1e-4)
            assert abs(np.log(curves["same rate"][-1] / curves["gain 1"][-1])) > 1


@pytest.mark.slow
def test_input_mean_moves_miss_and_hardly_lora() -> None:
    panel = mv.explore.gradient_norms()
    means = {}
    for input_mean in (0.0, 1.0):
        display = panel.view.compute(gain=1.0, input_mean=input_mean, optimiser="SGD")
        means[input_mean] = display.norms.set_index(["family", "rank"])["mean"]
    assert means[0.0]["MiSS"].between(0.95, 1.05).all()
    assert means[1.0]["MiSS", 1] > 7.5  # √64 at ρ = 1
    assert means[1.0]["LoRA", 16] == pytest.approx(means[0.0]["LoRA", 16], rel=0.1)


def test_hidden_outcome_is_the_runs_at_gain_c() -> None:
    panel = mv.explore.gradient_norms(reveal=False)
    display = panel.view.display
    assert not display.lines_["same rate"].get_visible()
    assert not display.lines_["compensated"].get_visible()
    assert display.lines_["gain 1"].get_visible()
    panel.reveal()
    assert display.lines_["compensated"].get_visible()


def test_panels_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    mv.explore.gradient_norms().set(gain=1.0)
    mv.explore.landscape().set(start=0.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mv.explore.gradient_norms(gain=3.0), "gain=3.0 is not a choice; choose from 0.25"),
        (lambda: mv.explore.gradient_norms(optimiser="sgd"), "optimiser='sgd' is not a choice"),
        (lambda: mv.explore.landscape(start=0.3), "start=0.3 is not a choice; choose from 0.0"),
        (lambda: mv.explore.landscape(training="none"), "training='none' is not a choice"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
