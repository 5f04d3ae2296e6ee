"""Initial gradient norms: how large the first gradient of each method is, on the user's model."""

from collections.abc import Callable, Iterable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.attach import Targets, attach
from missviz.adapters.base import Adapter, Method, checked_method


def initial_gradient_norms(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    methods: Sequence[Method],
    ranks: Sequence[int] | None = None,
    seeds: int | Iterable[int] = 1,
    *,
    targets: Targets = "*",
) -> pd.DataFrame:
    """‖∂L/∂θ‖ over all adapter parameters θ of `model`, before any training.

    Args:
        model: any module with linear layers; it stays as it is.
        loss: loss(model) → a scalar, the same data at every call.
        methods: with the given settings, but at each of `ranks`.
        ranks: ranks (Bat: block sizes); None means each method's own.
        seeds: for the adapters' random starts; n means 0 … n − 1.
        targets: as in `attach`.

    Returns one row per method, seed and module, and one for all modules together (module "*"):
    family (the method as passed), method (as it ran), rank, seed, module, norm, num_parameters.

    Raises:
        TypeError, ValueError: naming the argument; also where the loss is not a scalar or not
            finite.
    """
    if isinstance(methods, Method):
        raise TypeError(f"methods={methods} is one method; give a list, such as [{methods!r}]")
    counted = isinstance(seeds, int)
    chosen = range(validation.positive_int("seeds", seeds)) if counted else seeds
    rows = []
    for method in methods:
        checked_method("one of methods", method)
        # A method without a rank is the same at each, and runs once.
        variants = [method] if ranks is None else dict.fromkeys(map(method.with_rank, ranks))
        for variant in variants:
            for seed in chosen:  # type: ignore[union-attr]
                calibration = loss if variant.needs_gradient else None
                attached = attach(model, variant, targets, seed=seed, calibration=calibration)
                squares = _squared_norms(attached, loss)
                shown = {
                    "family": method.name,
                    "method": variant.name,
                    "rank": getattr(variant, "rank", getattr(variant, "block_size", None)),
                    "seed": seed,
                }
                rows += [
                    shown | {"module": name, "norm": square**0.5, "num_parameters": count}
                    for name, (square, count) in squares.items()
                ]
                total, count = (sum(part) for part in zip(*squares.values(), strict=True))
                rows.append(shown | {"module": "*", "norm": total**0.5, "num_parameters": count})
    return pd.DataFrame(rows)


def _squared_norms(
    attached: nn.Module, loss: Callable[[nn.Module], Tensor]
) -> dict[str, tuple[float, int]]:
    """Per adapted module: ‖gradient‖² and the number of parameters."""
    adapters = {
        name: [parameter for parameter in module.parameters() if parameter.requires_grad]
        for name, module in attached.named_modules()
        if isinstance(module, Adapter)
    }
    value = loss(attached)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"loss(model) must be one number, got {getattr(value, 'shape', value)}")
    validation.finite("the loss", value.detach())
    trained = [parameter for parameters in adapters.values() for parameter in parameters]
    found = iter(torch.autograd.grad(value.reshape(()), trained, allow_unused=True))
    norms = {}
    for name, parameters in adapters.items():
        gradients = [next(found) for _ in parameters]
        square = sum(float(g.double().square().sum()) for g in gradients if g is not None)
        norms[name] = square, sum(parameter.numel() for parameter in parameters)
    return norms
