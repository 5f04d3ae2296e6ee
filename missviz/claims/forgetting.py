"""Claims on forgetting, tried on the toy: what the network could do before it was adapted.

The network learnt sin 2πx, is adapted to W₀ + M, and is asked for sin 2πx again.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.claims.claim import Claim, Evidence, Larger
from missviz.experiments.ensemble import Ensemble, never_alone, train
from missviz.experiments.no_free_lunch import make_task, no_free_lunch
from missviz.experiments.tasks import (
    PROTOCOLS,
    TARGETS,
    base_function,
    base_models,
    sample,
    stack_splits,
)

PROTOCOL = PROTOCOLS["teacher"]
BASE_POINTS = 256
VARIANCE = 0.5
"""Of sin 2πx for uniform x: the loss of always answering 0."""
CONTESTANTS: tuple[Method, ...] = (LoRA(2), MiSS(4))
"""Equal numbers."""


def forgotten(
    method: Method, rate: float, target: str, seeds: Sequence[int], device: str
) -> tuple[Float[np.ndarray, " seeds"], Float[np.ndarray, " seeds"]]:
    """Rise of the base task's loss, as a share of the task's variance, and what is left of the new
    task's loss, where validation is lowest."""
    members = tuple(never_alone(tuple(seeds)))
    place = torch.device(device)
    bases = base_models(members, torch.float32, place)
    splits = []
    for seed, base in zip(members, bases, strict=True):
        task = make_task(PROTOCOL, target, TARGETS[target], base, seed)
        splits.append(
            {**task, "base": sample(base_function, BASE_POINTS, 0.0, seed, "asked again")}
        )
    models = [
        attach(base, method, "fc1", seed=seed) for seed, base in zip(members, bases, strict=True)
    ]
    losses = train(
        Ensemble(models),
        stack_splits(splits, torch.float32, place),
        [rate] * len(members),
        PROTOCOL.steps,
    ).losses
    every = np.arange(len(seeds))
    stops = losses["valid"][: len(seeds)].argmin(axis=1)
    rise = (losses["base"][every, stops] - losses["base"][every, 0]) / VARIANCE
    return rise, losses["test"][every, stops] / losses["test"][every, 0]


def forgets_more(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    runs = no_free_lunch(CONTESTANTS, "teacher", 2, targets=list(TARGETS), device=device)
    assert runs.tuning is not None
    chosen = runs.tuning[runs.tuning["chosen"]].set_index(["target", "method"])["learning_rate"]
    found = {}
    for target in TARGETS:
        both = {
            method.name: forgotten(
                method, float(chosen[target, method.name]), target, seeds, device
            )
            for method in CONTESTANTS
        }
        lora, miss = (both[method.name][0] for method in CONTESTANTS)
        found[target] = Evidence.of(
            miss - lora,
            forgotten={name: float(one[0].mean()) for name, one in both.items()},
            left_of_the_new_loss={name: float(one[1].mean()) for name, one in both.items()},
        )
    return found


CLAIMS = (
    Claim(
        id="forgets-more",
        claim="MiSS forgets more than LoRA.",
        said="PEFT's MetaMathQA benchmark: four times the drift on other text",
        test="the toy, each at its best rate, on four targets; rise of the base task's loss",
        unit="share of the base task's variance",
        rule=Larger(0.05),
        because="a twentieth of what there was to know",
        seconds=90,
        measure=forgets_more,
    ),
)
