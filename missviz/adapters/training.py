"""What a training loop does for the few methods that ask for more than a gradient step.

    optimiser = torch.optim.AdamW(mv.param_groups(model, lr=1e-3))
    for step, (x, y) in enumerate(batches, start=1):
        loss = task_loss(model(x), y) + mv.penalty(model)
        loss.backward()
        optimiser.step()
        mv.after_step(model, step)
        optimiser.zero_grad()

is right for every method; for most of them the three functions do nothing.
"""

from typing import Any

from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Method


def adapters_in(model: nn.Module) -> dict[str, Adapter]:
    """The adapters of a model by the names of their layers; ValueError where there are none."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is not an nn.Module")
    found = {name: part for name, part in model.named_modules() if isinstance(part, Adapter)}
    if not found:
        raise ValueError("the model has no adapters; missviz.attach puts them there")
    return found


def penalty(model: nn.Module) -> Tensor:
    """What the methods in `model` add to its loss, a scalar: AdaLoRA's orthogonality term.

    A mean over the adapters that have one, as PEFT takes it; 0 where none has.
    Raises ValueError where the model has no adapter.
    """
    adapters = list(adapters_in(model).values())
    own = [adapter for adapter in adapters if type(adapter).penalty is not Adapter.penalty]
    terms = [adapter.penalty() for adapter in own or adapters[:1]]
    total = terms[0]
    for term in terms[1:]:
        total = total + term.to(total)
    return total / len(terms)


def after_step(model: nn.Module, step: int) -> None:
    """Let the methods in `model` act after optimiser step `step` = 1, 2, …: AdaLoRA's budget.

    Call it before the gradients are cleared. Raises ValueError where there is no adapter.
    """
    step = validation.positive_int("step", step)
    by_method: dict[Method, list[Adapter]] = {}
    for adapter in adapters_in(model).values():
        by_method.setdefault(adapter.method, []).append(adapter)
    for method, adapters in by_method.items():
        method.after_step(adapters, step)


def param_groups(model: nn.Module, lr: float, ratio: float | None = None) -> list[dict[str, Any]]:
    """Optimiser groups of all that `model` trains, each with its learning rate.

    Args:
        model: with or without adapters.
        lr: the learning rate; a method may multiply it (`LoRAPlus` does so for B).
        ratio: multiply B's rate by this in every adapter that trains a product B A: LoRA+ for a
            model that was attached without it.

    Raises:
        TypeError: `model` is no module, or `lr` or `ratio` is no number.
        ValueError: one of them is not positive, nothing is trainable, or no adapter trains A and B.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is not an nn.Module")
    lr = validation.positive_float("lr", lr)
    multipliers = rate_multipliers(model)
    if not multipliers:
        raise ValueError("nothing to train: every parameter is frozen")
    if ratio is not None:
        ratio = validation.positive_float("ratio", ratio)
        trained = [_trained(part) for part in model.modules() if isinstance(part, Adapter)]
        products = [own["B"] for own in trained if "A" in own and "B" in own]
        if not products:
            raise ValueError(
                f"ratio={ratio:g} multiplies the rate of B, and no adapter trains A and B"
            )
        multipliers |= dict.fromkeys(products, ratio)
    groups: dict[float, list[Tensor]] = {}
    for parameter, factor in multipliers.items():
        groups.setdefault(factor, []).append(parameter)
    return [{"params": params, "lr": lr * factor} for factor, params in groups.items()]


def rate_multipliers(model: nn.Module) -> dict[Tensor, float]:
    """Factor on the learning rate of each parameter that `model` trains, in the model's order."""
    multipliers: dict[Tensor, float] = {
        parameter: 1.0 for parameter in model.parameters() if parameter.requires_grad
    }
    for module in model.modules():
        if isinstance(module, Adapter):
            for name, parameter in _trained(module).items():
                multipliers[parameter] = module.rate_multiplier(name)
    return multipliers


def _trained(adapter: Adapter) -> dict[str, nn.Parameter]:
    """The adapter's own trained parameters by name."""
    own = adapter.named_parameters(recurse=False)
    return {name: parameter for name, parameter in own if parameter.requires_grad}


def asks_more(adapter: Adapter) -> bool:
    """Whether this adapter's method asks for more than a gradient step."""
    return (
        type(adapter).penalty is not Adapter.penalty
        or type(adapter.method).after_step is not Method.after_step
    )
