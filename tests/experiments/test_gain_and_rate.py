"""Gain against rate: the runs against torch's optimisers on real adapters, and the identity."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import missviz as mv
from missviz.experiments.gain_and_rate import (
    OPTIMISERS,
    SIZE,
    STEPS,
    compensated_rate,
    gain_runs,
    linear_task,
)
from missviz.randomness import generator_for

TORCH = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}


def trained(
    adapter: nn.Module, loss, optimiser: str, rates: dict[str, float], steps: int, **options
) -> list[float]:
    groups = [{"params": [getattr(adapter, name)], "lr": rate} for name, rate in rates.items()]
    stepper = TORCH[optimiser](groups, **options)
    found = []
    for _ in range(steps):
        stepper.zero_grad()
        value = loss(adapter)
        value.backward()
        stepper.step()
        found.append(value.item())
    return found


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("input_mean", [0.0, 0.5])
def test_runs_are_those_of_torch_on_the_adapter(optimiser: str, input_mean: float) -> None:
    task = linear_task(input_mean, seed=3)
    runs = gain_runs([1.0, 3.0], optimiser, input_mean, seed=3)
    for (gain, _), rows in runs.groupby(["gain", "compensated"]):
        adapter = mv.LoRA(8, alpha=8 * gain, freeze_a=True).on(
            task.linear, generator=generator_for("gain", 3)
        )
        rate = rows["learning_rate"].iloc[0]
        found = np.array(trained(adapter, task.loss, optimiser, {"B": rate}, STEPS + 1))
        features = task.x @ adapter.A.mT
        least = torch.linalg.lstsq(features, task.x @ task.wanted.mT).solution
        floor = (features @ least - task.x @ task.wanted.mT).square().mean().item()
        wanted = (found - floor) / (found[0] - floor)
        np.testing.assert_allclose(rows["loss"], wanted, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_compensated_runs_do_not_move(optimiser: str) -> None:
    runs = gain_runs([0.3, 1.0, 7.0], optimiser, 0.3)
    curves = runs[runs["compensated"]].pivot(index="step", columns="gain", values="loss")
    tolerance = 1e-12 if optimiser == "SGD" else 1e-4  # Adam's ε
    for gain in (0.3, 7.0):
        np.testing.assert_allclose(curves[gain], curves[1.0], rtol=tolerance)
    same = runs[~runs["compensated"]].pivot(index="step", columns="gain", values="loss")
    assert abs(same[7.0] / same[1.0] - 1).max() > 0.5
    assert curves.loc[0].to_list() == pytest.approx([1, 1, 1])


class Network(nn.Module):
    """Not convex in ΔW: a ReLU and another layer come after it."""

    def __init__(self, adapter: mv.Adapter) -> None:
        super().__init__()
        self.adapter = adapter
        head = torch.randn(3, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        self.register_buffer("head", head)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.adapter(x)) @ self.head.mT


X = torch.randn(20, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def network_loss(adapter: nn.Module) -> Tensor:
    return (Network(adapter)(X) - Y).square().mean()


@settings(max_examples=15)
@given(
    gain=st.floats(0.05, 20),
    factor=st.sampled_from(["tiled", "orthogonal", "gaussian", "columns"]),
    optimiser=st.sampled_from(OPTIMISERS),
)
def test_a_frozen_gain_cancels_for_every_factor_and_any_loss(
    gain: float, factor: str, optimiser: str
) -> None:
    linear = mv.testing.random_linear(6, 8, torch.float64)
    rate = {"SGD": 0.05, "Adam": 0.01}[optimiser]
    options = {"eps": 1e-30} if optimiser == "Adam" else {}
    found = {
        c: trained(
            mv.FixedFactor(4, factor, gain=c).on(linear),
            network_loss,
            optimiser,
            {"D": compensated_rate(rate, c, optimiser)},
            25,
            **options,
        )
        for c in (1.0, gain)
    }
    np.testing.assert_allclose(found[gain], found[1.0], rtol=1e-9)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_with_a_trained_one_rate_is_not_enough_and_two_are(optimiser: str) -> None:
    linear = mv.testing.random_linear(6, 8, torch.float64)
    rate, gain = {"SGD": 0.02, "Adam": 0.01}[optimiser], 3.0
    options = {"eps": 1e-30} if optimiser == "Adam" else {}

    def run(c: float, of_b: float, of_a: float) -> np.ndarray:
        adapter = mv.LoRA(4, alpha=4 * c).on(linear)
        rates = {"B": of_b, "A": of_a}
        return np.array(trained(adapter, network_loss, optimiser, rates, 40, **options))

    reference = run(1.0, rate, rate)
    for power in (0, 1, 2):
        single = rate / gain**power
        assert np.abs(run(gain, single, single) / reference - 1).max() > 1e-3
    both = run(gain, compensated_rate(rate, gain, optimiser), rate)
    np.testing.assert_allclose(both, reference, rtol=1e-9)


def test_adam_does_not_see_the_size_of_the_first_gradient() -> None:
    """At any gain |D| = lr after one step, and ‖ΔW‖ follows the factor's gain."""
    linear = mv.testing.random_linear(6, 8, torch.float64)
    for gain in (0.1, 1.0, 10.0):
        adapter = mv.FixedFactor(4, "tiled", gain=gain).on(linear)
        trained(adapter, network_loss, "Adam", {"D": 1e-3}, 1, eps=0.0)
        np.testing.assert_allclose(adapter.D.detach().abs(), 1e-3, rtol=1e-9)
        moved = torch.linalg.norm(adapter.delta()).item()
        assert moved == pytest.approx(1e-3 * gain * math.sqrt(6 * 4))


def test_the_task_has_the_gradient_and_loss_that_it_states() -> None:
    task = linear_task(0.4, seed=2)
    weight = task.linear.weight.detach().clone().requires_grad_()
    model = nn.Linear(SIZE, SIZE, bias=False)
    model.weight = nn.Parameter(weight)
    value = task.loss(model)
    (G,) = torch.autograd.grad(value, [model.weight])
    torch.testing.assert_close(task.gradient(), G, rtol=1e-12, atol=1e-15)
    wanted = ((task.wanted @ task.second_moment()) * task.wanted).sum() / SIZE
    assert value.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_the_global_generator_and_the_cores_are_left_alone() -> None:
    before, cores = torch.get_rng_state(), torch.get_num_threads()
    first, again = (gain_runs([2.0], "Adam", 0.1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == cores
    assert first.equals(again)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gain_runs([1.0], "AdamW"), ValueError, "optimiser='AdamW' is unknown"),
        (lambda: gain_runs([-1.0], "SGD"), ValueError, "gains=-1.0 is not a positive"),
        (lambda: gain_runs(["x"], "SGD"), TypeError, "gains='x' is not a number"),
        (lambda: compensated_rate(0.1, 2.0, "sgd"), ValueError, "optimiser='sgd' is unknown"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
