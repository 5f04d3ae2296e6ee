"""Figure 2's third panel: how long one layer takes to set up and to train, against its size."""

import statistics
import time
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import mse_loss

from missviz.adapters.attach import attach
from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import linear_with
from missviz.machine import one_thread
from missviz.randomness import generator_for, normal

RANKS = (1, 2, 4, 8, 16, 32, 64)


def adapter_timings(
    methods: Sequence[Method],
    ranks: Sequence[int] = RANKS,
    *,
    features: int = 64,
    batch: int = 32,
    steps: int = 20,
    repeats: int = 10,
) -> pd.DataFrame:
    """Time `method.on(linear)` and `steps` Adam steps of one Linear(features, features) on the CPU.

    Settings as in the authors' script (64 features, 32 samples of random data, 20 steps, 10
    repeats after warm-up). Methods take turns within a repeat, so that a busy machine touches all.

    Returns one row per method and rank: method (as it ran), family (the method as it was passed),
    rank, num_parameters, init_seconds and train_seconds (medians; train_seconds is for all steps).
    A method without a rank has one row. What starts from the gradient pays for it in init_seconds.
    """
    generator = generator_for("timings")
    shapes = ((features, features), (features,))
    linear = linear_with(*(normal(shape, features**-0.5, generator).float() for shape in shapes))
    x = normal((batch, features), 1.0, generator).float()
    y = normal((batch, features), 1.0, generator).float()
    cases = [
        (method.name, rank, variant)
        for method in methods
        for rank, variant in _variants(method, ranks, features)
    ]
    init: dict[int, list[float]] = {case: [] for case in range(len(cases))}
    training: dict[int, list[float]] = {case: [] for case in range(len(cases))}
    with one_thread():
        for repeat in range(repeats + 1):
            for case, (_, _, method) in enumerate(cases):
                started = time.perf_counter()
                adapter = _bound(method, linear, x, y)
                ready = time.perf_counter()
                _train(adapter, x, y, steps)
                if repeat:  # the first is a warm-up
                    init[case].append(ready - started)
                    training[case].append(time.perf_counter() - ready)
    return pd.DataFrame(
        {
            "method": method.name,
            "family": family,
            "rank": rank,
            "num_parameters": method.num_parameters(features, features),
            "init_seconds": statistics.median(init[case]),
            "train_seconds": statistics.median(training[case]),
        }
        for case, (family, rank, method) in enumerate(cases)
    )


def _variants(
    method: Method, ranks: Sequence[int], features: int
) -> list[tuple[int | None, Method]]:
    """The method at each rank (or block size) that fits, or as it is."""
    if method.with_rank(1) == method.with_rank(2):
        return [(None, method)]
    variants = [(rank, method.with_rank(rank)) for rank in ranks if rank <= features]
    return [(rank, variant) for rank, variant in variants if _fits(variant, features)]


def _fits(method: Method, features: int) -> bool:
    try:
        method.check_shape(features, features)
    except ValueError:
        return False
    return True


def _bound(method: Method, linear: nn.Linear, x: torch.Tensor, y: torch.Tensor) -> Adapter:
    if method.needs_gradient:
        return attach(linear, method, calibration=lambda layer: mse_loss(layer(x), y))  # type: ignore[return-value]
    return method.on(linear)


def _train(adapter: Adapter, x: torch.Tensor, y: torch.Tensor, steps: int) -> None:
    optimiser = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        (adapter(x) - y).square().mean().backward()
        optimiser.step()
