"""The tasks of the "no free lunch" experiment (MiSS §3.1, App. C, Table 12): a two-layer network
learns one function and is then adapted, on its first layer, to another.

Every array comes from a generator of its own, named by the seed and by what it is, so that a
member's task does not depend on which other members, methods or splits there are.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.fixed_factor import make_factor
from missviz.adapters.linear import linear_with
from missviz.experiments.data import OwnData
from missviz.experiments.ensemble import Ensemble, never_alone, train
from missviz.randomness import generator_for, normal, uniform

WIDTH = 64
"""Inputs, hidden units and outputs: 64-64-64 in Table 12. Own data have their own inputs and
outputs; hidden units stay."""

BASE_STEPS, BASE_RATE, BASE_SAMPLES = 250, 1e-3, 50
NOISE = 0.05
"""Standard deviation of the noise on training targets (the other splits have none)."""


class TwoLayerNet(nn.Module):
    """fc2(relu(fc1(x))) with biases; 64-64-64 unless inputs and outputs are given."""

    stackable = True

    fc1: nn.Module
    fc2: nn.Module

    def __init__(
        self, generator: torch.Generator, in_features: int = WIDTH, out_features: int = WIDTH
    ) -> None:
        super().__init__()
        self.fc1 = _linear(in_features, WIDTH, generator)
        self.fc2 = _linear(WIDTH, out_features, generator)

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        output: Tensor = self.fc2(torch.relu(self.fc1(x)))
        return output


def _linear(in_features: int, out_features: int, generator: torch.Generator) -> nn.Linear:
    """nn.Linear with its usual start, U(±1/√in) for weight and bias, from `generator`."""
    bound = 1 / math.sqrt(in_features)
    shapes = ((out_features, in_features), (out_features,))
    weight, bias = (uniform(shape, bound, generator) for shape in shapes)
    return linear_with(weight.float(), bias.float())


def base_function(x: Tensor) -> Tensor:
    """sin 2πx on each coordinate by itself: what the network learns first."""
    return torch.sin(2 * math.pi * x)


def adapted_function(x: Tensor) -> Tensor:
    """sin 2πx + 0.3 cos 3πx on each coordinate: what it is adapted to."""
    return torch.sin(2 * math.pi * x) + 0.3 * torch.cos(3 * math.pi * x)


def sample(
    function: Callable[[Tensor], Tensor], size: int, noise: float, *key: object
) -> tuple[Float[Tensor, "n in_"], Float[Tensor, "n out"]]:
    """`size` points x ~ U(−1, 1)^64 with y = function(x) + N(0, noise²), in float64."""
    generator = generator_for(*key)
    x = uniform((size, WIDTH), 1.0, generator)
    y = function(x)
    return x, y + normal(tuple(y.shape), noise, generator)


@functools.lru_cache(maxsize=64)
def base_models(
    seeds: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    data: OwnData | None = None,
) -> tuple[TwoLayerNet, ...]:
    """The network of each seed after 250 Adam steps on `base_function`, or on the "base" points of
    the reader's own data; where those have none, as it starts. Do not change them."""
    members = never_alone(seeds)
    sizes = (WIDTH, WIDTH) if data is None else (data.in_features, data.out_features)
    models = [
        TwoLayerNet(generator_for(seed, "base model"), *sizes).to(device, dtype) for seed in members
    ]
    if data is None:
        pairs = [sample(base_function, BASE_SAMPLES, NOISE, seed, "base data") for seed in members]
    elif data.base is None:
        return tuple(models[: len(seeds)])
    else:
        pairs = [data.base] * len(members)
    ensemble = Ensemble(models)
    split = stack_splits([{"train": pair} for pair in pairs], dtype, device)
    train(ensemble, split, [BASE_RATE] * len(models), BASE_STEPS)
    return tuple(ensemble.member(index, models[index]) for index in range(len(seeds)))


def stack_splits(
    members: list[dict[str, tuple[Tensor, Tensor]]], dtype: torch.dtype, device: torch.device
) -> dict[str, tuple[Tensor, Tensor]]:
    """Each member's splits, as splits with a leading member dimension."""
    return {
        split: tuple(  # type: ignore[misc]
            torch.stack([member[split][part].mT for member in members]).to(device, dtype).mT
            for part in range(2)
        )
        for split in members[0]
    }


# --- What a first layer can be asked to become ------------------------------------------------

Target = Callable[[Float[Tensor, "out in_"], torch.Generator], Float[Tensor, "out in_"]]
"""(W₀, generator) → M, the update that would solve the task: the teacher has W₀ + M."""

TARGET_SIZE = 0.5
"""‖M‖_F / ‖W₀‖_F of the built-in targets: all ask for the same distance."""


def _scaled(update: Tensor, weight: Tensor) -> Tensor:
    return update * (TARGET_SIZE * torch.linalg.norm(weight) / torch.linalg.norm(update))


def low_rank(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random matrix of rank 2."""
    left = normal((weight.shape[0], 2), 1.0, generator)
    return _scaled(left @ normal((2, weight.shape[1]), 1.0, generator), weight)


def periodic(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Random columns that repeat with period 4 in the input features."""
    tiled = make_factor("tiled", 4, weight.shape[1], generator)
    return _scaled(normal((weight.shape[0], 4), 1.0, generator) @ tiled, weight)


def few_columns(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Random in the first 4 columns, zero in the others."""
    selected = make_factor("columns", 4, weight.shape[1], generator)
    return _scaled(normal((weight.shape[0], 4), 1.0, generator) @ selected, weight)


def dense(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Independent entries: full rank, no structure."""
    return _scaled(normal(tuple(weight.shape), 1.0, generator), weight)


TARGETS: dict[str, Target] = {
    "low rank": low_rank,
    "periodic": periodic,
    "columns": few_columns,
    "dense": dense,
}


def teacher_function(base: TwoLayerNet, target: Target, seed: int, name: str) -> Callable[..., Any]:
    """The network `base` with W₀ + M in its first layer, in float64, as a function of x."""
    state = {name: tensor.double().cpu() for name, tensor in base.state_dict().items()}
    weight = state["fc1.weight"]
    update = target(weight.clone(), generator_for(seed, "target", name))
    if not isinstance(update, Tensor) or update.shape != weight.shape:
        got = tuple(update.shape) if isinstance(update, Tensor) else type(update).__name__
        raise ValueError(f"target {name!r} gave {got}; expected a tensor {tuple(weight.shape)}")
    validation.finite(f"target {name!r}", update)
    first = weight + update.to(weight)

    def teach(x: Tensor) -> Tensor:
        hidden = torch.relu(x @ first.mT + state["fc1.bias"])
        return hidden @ state["fc2.weight"].mT + state["fc2.bias"]

    return teach


@dataclass(frozen=True)
class Protocol:
    """One way to run the experiment."""

    name: str
    samples: Mapping[str, int]
    """Points per split."""
    steps: int
    learning_rates: tuple[float, ...]
    noise: float
    train_fc2: bool
    """Train the second layer too, with its bias (4160 numbers)."""
    tuned: bool
    """Whether each method's rate is chosen, on other seeds; else all run at the given rates."""
    data: OwnData | None = None
    """The reader's own points, in place of the protocol's."""


HALF_DECADES = tuple(10 ** (exponent / 2) for exponent in range(-7, -2))
"""3e-4, 1e-3, 3e-3, 1e-2, 3e-2."""

PROTOCOLS = {
    "published": Protocol(
        "published", {"train": 50, "valid": 100}, 100, (1e-3,), NOISE, train_fc2=True, tuned=False
    ),
    "controlled": Protocol(
        "controlled",
        {"train": 50, "valid": 100, "test": 100},
        100,
        HALF_DECADES,
        NOISE,
        train_fc2=False,
        tuned=True,
    ),
    "teacher": Protocol(
        "teacher",
        {"train": 128, "valid": 128, "test": 128},
        200,
        HALF_DECADES,
        0.0,
        train_fc2=False,
        tuned=True,
    ),
}
