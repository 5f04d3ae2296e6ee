"""Gain and rate: what a larger first gradient does to training, where all of it is known.

One linear layer learns y = (W₀ + M) x with inputs x ~ N(μ, 1) and mean squared error, so the loss
is a quadratic in D wherever ΔW = D F with F frozen. LoRA with A frozen is such a method: its
scaling s = α / r multiplies F, and its first gradient, and is called the gain c here.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from missviz.adapters import validation
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.experiments.ensemble import Adam
from missviz.machine import one_thread
from missviz.randomness import generator_for, normal

SIZE, SAMPLES = 64, 256
"""in_features = out_features, and training inputs."""
OPTIMISERS = ("SGD", "Adam")
RUN_RANK, STEPS = 8, 60
SHARE_OF_STABLE = 1 / 32
"""SGD's rate at gain 1, as a share of the largest with which it doesn't diverge."""
ADAM_RATE = 0.004


@dataclass(frozen=True)
class LinearTask:
    """A frozen layer, and data that it would fit with the update M."""

    linear: nn.Linear
    x: Float[Tensor, "n in_"]
    wanted: Float[Tensor, "out in_"]
    """M."""

    @functools.cached_property
    def y(self) -> Float[Tensor, "n out"]:
        """(W₀ + M) x."""
        return self.x @ (self.linear.weight + self.wanted).mT

    def loss(self, model: nn.Module) -> Tensor:
        """Mean squared error of `model` in place of the layer."""
        return mse_loss(model(self.x), self.y)

    def second_moment(self) -> Float[Tensor, "in_ in_"]:
        """C = XᵀX / n: the loss of ΔW is tr((ΔW − M) C (ΔW − M)ᵀ) / d."""
        return self.x.mT @ self.x / len(self.x)

    def gradient(self) -> Float[Tensor, "out in_"]:
        """G = ∂L/∂W at the start."""
        return -2 / len(self.wanted) * self.wanted @ self.second_moment()


def linear_task(input_mean: float = 0.0, seed: int = 0) -> LinearTask:
    """64 → 64 in float64: W₀ and M of N(0, 1/k), 256 inputs of N(μ, 1) with μ = `input_mean`."""
    shapes = {"weight": (SIZE, SIZE), "wanted": (SIZE, SIZE), "x": (SAMPLES, SIZE)}
    stds = {"weight": SIZE**-0.5, "wanted": SIZE**-0.5, "x": 1.0}
    drawn = {
        name: normal(shape, stds[name], generator_for("gain and rate", seed, name))
        for name, shape in shapes.items()
    }
    linear = linear_with(drawn["weight"]).requires_grad_(False)
    return LinearTask(linear, drawn["x"] + input_mean, drawn["wanted"])


def compensated_rate(rate: float, gain: float, optimiser: str) -> float:
    """The rate with which gain c trains exactly as gain 1 does with `rate`, F frozen.

    SGD: the gradient grows c times, and ΔW = D (c F) once more, so rate / c². Adam divides the
    gradient by its own size, so c counts once: rate / c (up to Adam's ε).
    """
    power = {"SGD": 2, "Adam": 1}[validation.one_of("optimiser", optimiser, OPTIMISERS)]
    return rate / gain**power


@one_thread()
def gain_runs(
    gains: Sequence[float], optimiser: str, input_mean: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """LoRA-FA r=8 on `linear_task` at several gains s = c, full batch, 60 steps, B = 0 at first.

    Each gain runs with the rate of gain 1 (`compensated` False) and with `compensated_rate`.
    `loss` is what lies above the least possible loss, over that at the start.

    Returns one row per gain, compensated and step, with learning_rate and loss.

    Raises TypeError or ValueError, naming the argument.
    """
    validation.one_of("optimiser", optimiser, OPTIMISERS)
    members = [
        (validation.positive_float("gains", gain), compensated)
        for gain in gains
        for compensated in (False, True)
    ]
    task = linear_task(input_mean, seed)
    A = LoRA(RUN_RANK, freeze_a=True).on(task.linear, generator=generator_for("gain", seed)).A
    assert isinstance(A, Tensor)
    C, M = task.second_moment(), task.wanted
    # L(B) = tr((s B A − M) C (s B A − M)ᵀ) / d = tr(s² B H Bᵀ − 2 s B N) / d + constant.
    H, N = A @ C @ A.mT, A @ C @ M.mT
    best = torch.linalg.solve(H, N).mT
    rate = ADAM_RATE
    if optimiser == "SGD":
        # Curvature 2 λ / d in the steepest direction; SGD is stable below 2 / curvature.
        rate = SHARE_OF_STABLE * SIZE / float(torch.linalg.eigvalsh(H)[-1])
    rates = [compensated_rate(rate, gain, optimiser) if comp else rate for gain, comp in members]
    gain_of, rate_of = (
        torch.tensor(column, dtype=torch.float64)[:, None, None]
        for column in ([gain for gain, _ in members], rates)
    )
    B = torch.zeros(len(members), *best.shape, dtype=torch.float64)
    start = (best @ H * best).sum()
    adam = Adam([B], rates)
    losses = []
    for _ in range(STEPS + 1):
        missed = gain_of * B - best
        bent = missed @ H
        losses.append((missed * bent).sum(dim=(-2, -1)) / start)
        gradient = 2 / SIZE * gain_of * bent
        if optimiser == "SGD":
            B -= rate_of * gradient
        else:
            adam.step([gradient])
    table = torch.stack(losses).mT
    return pd.DataFrame(
        [
            (gain, comp, lr, step, loss)
            for (gain, comp), lr, curve in zip(members, rates, table.tolist(), strict=True)
            for step, loss in enumerate(curve)
        ],
        columns=["gain", "compensated", "learning_rate", "step", "loss"],
    )
