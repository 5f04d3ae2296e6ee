"""A device that computes nowhere else but here, for machines without a GPU.

Inside `with StandIn():` device="meta" holds numbers, and demands what a GPU demands: operands on
one device (but numbers, and indices), a generator of its own, and no numpy.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

AWAY = torch.device("meta")
aten = torch.ops.aten
MAY_MIX = {
    aten._to_copy.default,
    aten.copy_.default,
    # Indices may be on the host.
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class Away(Tensor):
    """A tensor on the other device; its numbers are in `here`."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Away":
        made = Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=AWAY,
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return computed(operation, args, kwargs or {})


class StandIn(TorchDispatchMode):
    """Makes factories and copies to the device work."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return computed(operation, args, kwargs or {})


def computed(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [tensor for tensor in given if isinstance(tensor, Away)]
    asked = kwargs.get("device")
    ends_away = torch.device(asked) == AWAY if asked is not None else bool(away)
    if away and operation not in MAY_MIX:
        for tensor in given:
            if not isinstance(tensor, Away) and tensor.dim() > 0:
                raise RuntimeError(f"{operation}: operands on two devices")
    if ends_away and isinstance(kwargs.get("generator"), torch.Generator):
        raise RuntimeError(f"{operation}: a generator on the host")
    if operation is aten.copy_.default:
        ends_away = isinstance(args[0], Away)
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    origin = {id(tensor.here): tensor for tensor in away}

    def there(value: Any) -> Any:
        if not isinstance(value, Tensor) or not ends_away:
            return value
        return origin.get(id(value)) if id(value) in origin else Away(value)

    def here(value: Any) -> Any:
        return value.here if isinstance(value, Away) else value

    return tree_map(there, operation(*tree_map(here, args), **tree_map(here, kwargs)))
