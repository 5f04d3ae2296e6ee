"""A method tried on a layer before anything is drawn or trained: whatever is wrong, in one sentence
that names the method."""

from typing import Any

import torch
from torch import nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Method
from missviz.adapters.contract import ContractError
from missviz.adapters.linear import linear_with
from missviz.adapters.update import two_factors
from missviz.randomness import generator_for, normal


def random_linear(
    out_features: int, in_features: int, dtype: torch.dtype, bias: bool = True
) -> nn.Linear:
    """A linear layer with entries of N(0, 1/in), always the same for the same arguments."""
    generator = generator_for("linear", out_features, in_features)
    shapes = ((out_features, in_features), (out_features,))[: 1 + bias]
    tensors = (normal(shape, in_features**-0.5, generator).to(dtype) for shape in shapes)
    return linear_with(*tensors)


def randomise(adapter: nn.Module, *key: object, std: float = 0.3) -> None:
    """Move every trainable parameter away from its start by N(0, std²): a zero update proves
    nothing."""
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if parameter.requires_grad:
                step = normal(tuple(parameter.shape), std, generator_for("randomise", name, *key))
                parameter.add_(step.to(parameter))


def bound(method: Method, linear: nn.Linear, generator: torch.Generator | None = None) -> Adapter:
    """`method.on(linear)` for any method: one that starts from the gradient gets random numbers
    for it, N(0, 1/in) as in `random_linear`, always the same for the same shape."""
    gradient = None
    if method.needs_gradient:
        shape = linear.out_features, linear.in_features
        drawn = normal(shape, linear.in_features**-0.5, generator_for("gradient", *shape))
        gradient = drawn.to(linear.weight)
    return method.on(linear, generator=generator, gradient=gradient)


def given_size(method: Method) -> int | None:
    """The value of the setting that `with_rank` sets; None where the method has none.

    Raises TypeError or ValueError where that is no whole number from 1 on.
    """
    value = vars(method).get(method.sized_by)
    if value is None:
        return None
    try:
        return validation.positive_int(method.sized_by, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{method.name}: {error}") from None


def trained_numbers(adapter: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in adapter.parameters() if p.requires_grad)


def count_says(method: Method, adapter: Adapter) -> str | None:
    """What is wrong with `num_parameters`, or None."""
    base = adapter.base
    if base.bias is None and getattr(method, "bias", False):
        return None  # full fine-tuning of a bias that is not there
    claimed: Any = method.num_parameters(base.out_features, base.in_features)
    count = trained_numbers(adapter)
    if isinstance(claimed, bool) or not isinstance(claimed, int) or claimed != count:
        return f"num_parameters says {claimed}, training may change {count}"
    return None


@torch.no_grad()
def on_layer(method: Method, linear: nn.Linear) -> Adapter:
    """The adapter of `method` on this layer, tried once; one that starts from the gradient gets
    random numbers for it.

    Raises ValueError that names both where the method does not fit, or does not keep the contract:
    ΔW of another shape or dtype or with NaN, a forward that fails, a wrong `num_parameters`.
    """
    given_size(method)
    place = _place(method, linear)
    try:
        adapter = bound(method, linear)
        said = _said_of(method, adapter)
    except (ValueError, ContractError) as error:
        raise ValueError(f"{place}: {error}") from error
    except Exception as error:  # the reader's own code may raise anything
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{place} raised {type(error).__name__}: {reason}; missviz.testing.check_method tells "
            "more"
        ) from error
    if said is not None:
        raise ValueError(f"{place}: {said}")
    return adapter


@torch.no_grad()
def refuse_faults(method: Method, adapter: Adapter) -> None:
    """ValueError, as that of `on_layer`, where this adapter of `method` does not keep the contract.
    What the method's own code raises comes as it is."""
    if (said := _said_of(method, adapter)) is not None:
        raise ValueError(f"{_place(method, adapter.base)}: {said}")


def _place(method: Method, linear: nn.Linear) -> str:
    return f"{method} on a layer of {linear.out_features} × {linear.in_features}"


def _said_of(method: Method, adapter: Adapter) -> str | None:
    """What does not hold on this layer, or None."""
    weight = adapter.base.weight
    if (thin := adapter.factors()) is not None:
        two_factors(thin)
    delta: Any = adapter.delta()
    if not isinstance(delta, torch.Tensor):
        return f"delta() is a {type(delta).__name__}; it must be a tensor"
    if delta.shape != weight.shape:
        return f"delta() is {tuple(delta.shape)}; it must have the layer's shape"
    if delta.dtype != weight.dtype:
        return f"delta() is {delta.dtype}; it must be {weight.dtype} as W₀ is"
    if bad := validation.not_finite(delta):
        return f"delta() has {bad} values that are NaN or infinite of {delta.numel()}"
    x = weight.new_ones(2, adapter.in_features)
    y: Any = adapter(x)
    if not isinstance(y, torch.Tensor) or y.shape != (2, adapter.out_features):
        return f"forward makes {tuple(getattr(y, 'shape', ()))} of {tuple(x.shape)}"
    return count_says(method, adapter)
