"""One run of "no free lunch", stopped at a few steps: the adapter itself, not only its loss."""

import copy
from collections.abc import Sequence

import torch
from torch.nn.functional import mse_loss

from missviz.adapters import validation
from missviz.adapters.attach import attach
from missviz.adapters.base import Adapter, Method, checked_method
from missviz.adapters.training import after_step, penalty, rate_multipliers
from missviz.adapters.trial import on_layer, random_linear
from missviz.experiments.ensemble import Adam
from missviz.experiments.no_free_lunch import calibration, make_task
from missviz.experiments.tasks import PROTOCOLS, WIDTH, base_models
from missviz.machine import one_thread

STEPS = (0, 1, 3, 10, 30, 100)


@one_thread()
def adapter_snapshots(
    method: Method,
    steps: Sequence[int] = STEPS,
    *,
    seed: int = 43,
    learning_rate: float = 1e-3,
) -> dict[int, Adapter]:
    """The first layer's adapter (64 × 64) after each of `steps` Adam steps, published protocol.

    The run is that of `no_free_lunch([method], seeds=[seed], learning_rates=[learning_rate])`,
    one member at a time on the CPU: about 0.1 s for 100 steps.

    Args:
        method: any Method.
        steps: how many steps were done; 0 is the start.
        seed: of data, base network and adapter.
        learning_rate: of Adam, for the adapter and the second layer.

    Returns {step: adapter}; each adapter is a copy with W₀ in `adapter.base`.

    Raises TypeError or ValueError, naming the argument.
    """
    on_layer(checked_method("method", method), random_linear(WIDTH, WIDTH, torch.float32))
    wanted = list(steps)
    if not wanted or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in wanted):
        raise ValueError(f"steps={steps!r} is not a list of whole numbers from 0 on")
    learning_rate = validation.positive_float("learning_rate", learning_rate)
    protocol = PROTOCOLS["published"]
    (base,) = base_models((seed,), torch.float32, torch.device("cpu"))
    split = make_task(protocol, "published", None, base, seed)["train"]
    x, y = (part.float() for part in split)
    loss = calibration(method, base, split)
    model = attach(base, method, "fc1", seed=seed, trainable=("fc2",), calibration=loss)
    multipliers = rate_multipliers(model)
    trained = list(multipliers)
    optimiser = Adam([p.unsqueeze(0) for p in trained], [learning_rate], [*multipliers.values()])
    taken: dict[int, Adapter] = {}
    for step in range(max(wanted) + 1):
        if step in wanted:
            assert isinstance(model.fc1, Adapter)
            taken[step] = copy.deepcopy(model.fc1)
        if step < max(wanted):
            (mse_loss(model(x), y) + penalty(model)).backward()
            optimiser.step([p.grad.unsqueeze(0) for p in trained if p.grad is not None])
            after_step(model, step + 1)
            model.zero_grad()
    return {step: taken[step] for step in wanted}
