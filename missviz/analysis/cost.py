"""What a method costs on one layer: numbers trained, arithmetic, and bytes kept for the backward
pass; counted while it runs, beside the formulas that the MiSS paper gives (Tables 2 and 3)."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.adalora import AdaLoRA
from missviz.adapters.base import Method, checked_method
from missviz.adapters.full import FrozenFineTuning, FullFineTuning
from missviz.adapters.linear import linear_with
from missviz.adapters.loha import LoHa
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.vera import VeRA
from missviz.randomness import generator_for, normal

PUBLISHED: dict[type[Method], Callable[[Any, int, int], tuple[int, int] | None]] = {
    FullFineTuning: lambda m, d, k: (d * k, d * k),
    FrozenFineTuning: lambda m, d, k: (d * k, d * k),
    LoRA: lambda m, d, k: ((d if m.freeze_a else d + k) * m.rank, (d + k) * m.rank),
    AdaLoRA: lambda m, d, k: ((d + k + m.rank) * m.rank, (d + k + m.rank) * m.rank),
    LoHa: lambda m, d, k: (2 * (d + k) * m.rank, 2 * (d + k) * m.rank),
    VeRA: lambda m, d, k: (d + m.rank, (d + k) * m.rank + m.rank + d),
    MiSS: lambda m, d, k: (
        (d * m.rank, k + d * m.rank) if m.share == "columns" and m.mini is None else None
    ),
}
"""MiSS (arXiv 2409.15371v12) Table 2, of a method m on d × k: trained numbers, and multiply-adds
per token; by the very class, since a subclass may have a formula of its own. The paper writes FLOPs
with O(…): up to a constant."""


def cost(
    methods: Sequence[Method],
    out_features: int = 1024,
    in_features: int = 1024,
    tokens: int = 256,
    dtype: torch.dtype = torch.float32,
) -> pd.DataFrame:
    """Count one training step of each method on one layer, in the middle of a network.

    The layer's input asks for a gradient, as below the first layer of a network it does. Nothing is
    timed (`missviz bench adapters` does that).

    Args:
        methods: any; their `forward` is what runs.
        out_features, in_features: the layer's shape, d and k.
        tokens: rows of the input, n.
        dtype: of weights and input.

    Returns one row per method, and one for the frozen layer alone (method "frozen layer"):
        num_parameters: trained numbers.
        forward_flops, backward_flops: of matrix products and convolutions, two per multiply-add
            (`torch.utils.flop_counter`); additions by themselves, such as MiSS's block sums, are
            not counted.
        extra_forward_flops, extra_backward_flops: beyond the frozen layer's.
        kept_bytes: of tensors that autograd keeps for the backward pass, each storage once, and
            without parameters, buffers and what the frozen layer keeps.
        published_parameters, published_flops: Table 2's formula (two FLOPs per multiply-add, times
            tokens); missing where the paper has none.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if isinstance(methods, Method) or not isinstance(methods, Iterable):
        raise TypeError(f"methods={methods} is not a list of methods, such as [missviz.MiSS(64)]")
    methods = list(methods)
    for method in methods:
        checked_method("one of methods", method)
    sizes = {"out_features": out_features, "in_features": in_features, "tokens": tokens}
    for name, size in sizes.items():
        validation.positive_int(name, size)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype={dtype!r} is not a floating-point dtype")
    weight = normal((out_features, in_features), in_features**-0.5, generator_for("cost"))
    linear = linear_with(weight.to(dtype))
    x = normal((tokens, in_features), 1.0, generator_for("cost", "x")).to(dtype)
    frozen = _counted(linear_with(linear.weight.detach()).requires_grad_(False), x)
    rows: list[dict[str, Any]] = [{"method": "frozen layer", "num_parameters": 0, **frozen}]
    for method in methods:
        gradient = linear.weight.detach() if method.needs_gradient else None
        adapter = method.on(linear, gradient=gradient)
        formula = PUBLISHED.get(type(method))
        published = formula and formula(method, out_features, in_features)
        rows.append(
            {
                "method": method.name,
                "num_parameters": method.num_parameters(out_features, in_features),
                **_counted(adapter, x),
                "published_parameters": published and published[0],
                "published_flops": published and 2 * tokens * published[1],
            }
        )
    table = pd.DataFrame(rows)
    for way in ("forward", "backward"):
        table[f"extra_{way}_flops"] = table[f"{way}_flops"] - frozen[f"{way}_flops"]
    table["kept_bytes"] -= frozen["kept_bytes"]
    return table


def kept_bytes(layer: nn.Module, x: Float[Tensor, "n in_"]) -> int:
    """Bytes that autograd keeps for the backward pass of layer(x): each storage once, without the
    layer's parameters and buffers."""
    own = {_storage(tensor) for tensor in (*layer.parameters(), *layer.buffers())}
    # Weakly: what only a part of the graph that nothing needs has kept is gone with it.
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def keep(tensor: Tensor) -> _Kept:
        kept.add(one := _Kept(tensor))
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor):
        y = layer(x.detach().requires_grad_(True))
    storages = {_storage(one.tensor): one.tensor.untyped_storage() for one in kept}
    del y
    return sum(storage.nbytes() for key, storage in storages.items() if key not in own)


class _Kept:
    """A tensor in a set: by itself it would be compared entry by entry."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _counted(layer: nn.Module, x: Tensor) -> dict[str, int]:
    """FLOPs and kept bytes of one forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    def added_in_place(y: torch.Size, x: torch.Size, weight: torch.Size, **_: object) -> int:
        return 2 * x.numel() * weight[-1]

    def counter() -> FlopCounterMode:
        # It knows addmm, and not yet addmm in place.
        return FlopCounterMode(
            display=False, custom_mapping={torch.ops.aten.addmm_: added_in_place}
        )

    x = x.detach().requires_grad_(True)
    with counter() as forward:
        y = layer(x)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]
    with counter() as backward:
        torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)
    return {
        "forward_flops": forward.get_total_flops(),
        "backward_flops": backward.get_total_flops(),
        "kept_bytes": kept_bytes(layer, x),
    }


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
