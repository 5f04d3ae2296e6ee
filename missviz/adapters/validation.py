"""Checks on what a user passes in: one clear sentence that names the argument and what it was."""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from missviz.randomness import generator_for, normal

Check = Callable[[str, Any], Any]
"""(name, value) → the value as it is kept; raises TypeError or ValueError that names both."""


def store(settings: Any, **checks: Check) -> None:
    """Check settings of a frozen dataclass, and keep them as the checks give them:
    `store(self, rank=positive_int, alpha=optional(positive_float))`."""
    for name, check in checks.items():
        object.__setattr__(settings, name, check(name, getattr(settings, name)))


def fill(settings: Any, name: str, value: Any) -> None:
    """Put `value` where a frozen dataclass has None, so that both ways to say it are equal."""
    if getattr(settings, name) is None:
        object.__setattr__(settings, name, value)


def optional(check: Check) -> Check:
    """`check`, and None as well."""
    return lambda name, value: None if value is None else check(name, value)


def among(*valid: str) -> Check:
    """One of these, as `one_of`."""
    return lambda name, value: one_of(name, value, valid)


def whole(name: str, value: Any) -> int:
    """`value` as a plain int; TypeError where it is not an integer."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} is not an integer; give a whole number, such as 4")
    return int(value)


def positive_int(name: str, value: Any) -> int:
    """`value` as a plain int >= 1. Raises TypeError (not an integer) or ValueError (below 1)."""
    if whole(name, value) < 1:
        raise ValueError(f"{name}={value} is not positive; the smallest is 1")
    return int(value)


def non_negative_int(name: str, value: Any) -> int:
    """`value` as a plain int >= 0. Raises TypeError (not an integer) or ValueError (below 0)."""
    if whole(name, value) < 0:
        raise ValueError(f"{name}={value} is negative; the smallest is 0")
    return int(value)


def number(name: str, value: Any) -> Real:
    """`value` if it is a real number; else TypeError."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is not a number; give one such as 1.0")
    return value


def positive_float(name: str, value: Any) -> float:
    """`value` as a finite float > 0. Raises TypeError or ValueError."""
    if not (math.isfinite(number(name, value)) and float(value) > 0):
        raise ValueError(f"{name}={value} is not a positive finite number, such as 1.0")
    return float(value)


def non_negative_float(name: str, value: Any) -> float:
    """`value` as a finite float >= 0. Raises TypeError or ValueError."""
    if not (math.isfinite(number(name, value)) and float(value) >= 0):
        raise ValueError(f"{name}={value} is not a finite number of 0 or more")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """`value` if it is True or False; else TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is not True or False")
    return value


def one_of(name: str, value: Any, valid: tuple[str, ...]) -> str:
    """`value` if it is among `valid`; else ValueError that lists them."""
    if not isinstance(value, str) or value not in valid:
        raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(map(repr, valid))}")
    return str(value)


def at_most(name: str, value: int, limit_name: str, limit: int) -> None:
    """ValueError where `value` exceeds `limit`, naming both."""
    if value > limit:
        raise ValueError(f"{name}={value} exceeds {limit_name}={limit}; the largest is {limit}")


def divides(name: str, value: int, **sizes: int) -> None:
    """ValueError where `value` does not divide every one of `sizes`, with the nearest that do."""
    undivided = [size for size in sizes if sizes[size] % value]
    if not undivided:
        return
    common = math.gcd(*sizes.values())
    divisors = [n for n in range(1, common + 1) if common % n == 0]
    below = [n for n in divisors if n < value][-1:]
    above = [n for n in divisors if n > value][:1]
    nearest = ", ".join(map(str, below + above))
    size = undivided[0]
    raise ValueError(f"{name}={value} does not divide {size}={sizes[size]}; nearest: {nearest}")


def is_plain(linear: nn.Linear) -> bool:
    """Whether forward is W x + b: nn.Linear's own, or one that gives that for a few numbers."""
    if type(linear).forward is nn.Linear.forward and "forward" not in vars(linear):
        return True
    weight = linear.weight
    x = normal((2, linear.in_features), 1.0, generator_for("plain")).to(weight)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            y, right = linear.forward(x), nn.functional.linear(x, weight, linear.bias)
            rounding = 8 * torch.finfo(weight.dtype).eps * float(right.abs().max())
            close = torch.allclose(y, right, rtol=0, atol=rounding)
    except Exception:  # it is someone else's code
        return False
    return close and y.dtype == right.dtype


def linear_layer(module: Any) -> None:
    """Raise unless `module` is a linear layer with non-empty floating-point weights."""
    if not isinstance(module, nn.Linear):
        raise TypeError(
            f"linear: expected an nn.Linear, got {type(module).__name__}; "
            "adapters go on linear layers"
        )
    if is_lazy(module.weight):
        raise ValueError("the linear layer has no weights yet; run one batch through the model")
    if not module.weight.is_floating_point():
        raise TypeError(
            f"weights of dtype {module.weight.dtype} cannot be adapted; "
            "use float64, float32, float16 or bfloat16"
        )
    if module.weight.numel() == 0:
        raise ValueError(f"weight of shape {tuple(module.weight.shape)} is empty")
    if not is_plain(module):
        raise TypeError(
            f"a {type(module).__name__} whose forward is not W x + b cannot be adapted; leave it "
            "out of targets"
        )


def not_finite(values: torch.Tensor) -> int:
    """How many of `values` are NaN or infinite."""
    # One of them spoils the sum, which is read much faster, and without a table as large as
    # `values`, than each is asked. A sum that overflows asks them all.
    if math.isfinite(float(values.detach().sum())):
        return 0
    return int((~torch.isfinite(values)).sum())


def finite(name: str, values: torch.Tensor) -> None:
    """ValueError where `values` hold NaN or infinity, with how many."""
    if bad := not_finite(values):
        raise ValueError(f"{name} has {bad} values that are NaN or infinite of {values.numel()}")


def tensor_of_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """TypeError unless `value` is a floating-point tensor, ValueError unless of this shape."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        raise TypeError(f"{name} is not a tensor of floating-point numbers")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it must be {shape}")
