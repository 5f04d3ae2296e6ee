"""What is wrong with a method of the reader's own, in one sentence each."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

LONGEST_NAME = 80


class ContractError(TypeError):
    """A method's `adapter` is not what `Method` says; the sentence says how."""


def wrong_name(method: object) -> str | None:
    """What is wrong with a method's name, which keys tables, colours and seeds; or None."""
    kind = type(method).__name__
    try:
        name: Any = method.name  # type: ignore[attr-defined]
    except Exception as error:  # the reader's own code may raise anything
        return f"{kind}.name raised {type(error).__name__}: {error}"
    if not isinstance(name, str):
        why = "a method; write @property above it" if callable(name) else repr(name)
        return f"{kind}: name must be a string, and is {why}"
    if not name.strip():
        return f"{kind}: name is empty; names key tables and colours"
    if len(name) > LONGEST_NAME or "$" in name or not name.isprintable():
        return (
            f"{kind}: name cannot be drawn: it must be one line of at most {LONGEST_NAME} "
            f"characters without $, and is {name!r:.60}"
        )
    return None


def check_call(make: Callable[..., Any], *arguments: str) -> None:
    """ContractError where the bound method `make` cannot be called with these: the last ones, from
    the third on, by keyword."""
    try:
        inspect.signature(make).bind(*arguments[:2], **dict.fromkeys(arguments[2:]))
    except TypeError as error:
        place = f"{type(make.__self__).__name__}.{make.__name__}"  # type: ignore[attr-defined]
        listed = ", ".join(["self", *arguments])
        raise ContractError(f"{place} must be: def {make.__name__}({listed})") from error


def has_begun(adapter: Any) -> bool:
    """Whether its __init__ has told torch of its layer."""
    return "base" in vars(adapter).get("_modules", {})


def begin_with_super(adapter: Any) -> str:
    return f"{type(adapter).__name__}.__init__ must begin with super().__init__(method, base)"


def odd_dtypes(adapter: Any) -> str:
    """A sentence on tensors that do not follow the layer's dtype; empty where all do."""
    wanted = adapter.base.weight.dtype
    odd = [
        f"{name} is {_short(tensor.dtype)}"
        for name, tensor in adapter.state_dict().items()
        if tensor.is_floating_point() and tensor.dtype != wanted
    ]
    if not odd:
        return ""
    return (
        f"{', '.join(odd)} on a layer of {_short(wanted)}: self.zeros(*shape) and "
        "self.parameter(values) make what has the layer's dtype"
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
