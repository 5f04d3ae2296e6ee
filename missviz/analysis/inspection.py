"""What an adapter did to each layer of a model: one row of numbers per module."""

import functools
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.update import Update
from missviz.analysis.products import Updates, named_updates, numerical_rank, shortened
from missviz.analysis.shards import mean_shard_cosine
from missviz.analysis.spectra import effective_rank, energy, spectrum, stable_rank
from missviz.machine import one_thread

MOST_VALUES = 256
"""Singular values kept in a row."""
USUAL_SCALING = (0.25, 4.0)
"""PEFT's default α = 8 is below it with r = 64, and α = 64 above it with r = 8."""
PART = 2**15
"""Numbers of W₀ in float64 at a time: they fit a processor's cache."""
BELOW_ROUNDING = 1e-7
"""Relative to W₀: float32 cannot hold such a change of it."""

MEASURES = (
    "norm",
    "relative_norm",
    "numerical_rank",
    "stable_rank",
    "effective_rank",
    "top_energy",
    "shard_cosine",
)

Base = nn.Module | Callable[[str], Tensor]


def inspect_adapter(updates: Updates, base: Base | None = None) -> pd.DataFrame:
    """Size, rank and shards of every ΔW, and what looks wrong with it.

    Where ΔW has factors, nothing of its size is built, and one module is read at a time: an
    adapter on a model of 7 billion weights takes seconds. Where it has none (Bat, DoRA) each
    module costs an SVD of its full size.

    Args:
        updates: updates by module name, such as `missviz.read_peft(folder)`, or an attached model.
        base: the model that has W₀, or a function from a module's name to its W₀ (out, in) or
            transposed. Not needed for an attached model, nor where `read_peft` was given it.

    Returns a table with one row per module, in the given order:
        module, method: their names.
        shape: (out, in); None in place of what only the base knows.
        rank: r as it was set; None where a method has none.
        num_parameters: how many numbers were trained.
        norm: ‖ΔW‖_F.
        relative_norm: ‖ΔW‖_F / ‖W₀‖_F; NaN, not measured, where W₀ is not known.
        numerical_rank: how many singular values exceed 1e-6 of the largest.
        stable_rank, effective_rank, top_energy: Σσ²/σ₁²; exp of the entropy of σ/Σσ; σ₁²/Σσ².
        shard_cosine: mean cosine of ΔW's slices of r (Bat: its block size) neighbouring columns.
            1 for MiSS: its shards are copies.
        singular_values: those of the numerical rank, largest first, at most 256: a list.
        warnings: a list of sentences.
    What is undefined, since ΔW is zero, not finite, or not known, is NaN.

    Raises:
        TypeError: `updates` is neither a mapping of updates nor a model, or `base` neither a model
            nor a function.
        ValueError: there is no update, or W₀ is missing in `base` or has another shape.
    """
    if base is not None and not callable(base):
        raise TypeError(f"base of type {type(base).__name__}; give the model that has W₀")
    named = named_updates("updates", updates)
    rows = [_row(module, update, base) for module, update in named.items()]
    table = pd.DataFrame(rows)
    for name in ("rank", "num_parameters"):
        # Or pandas would write None as NaN, and so 4 as 4.0.
        table[name] = pd.Series([row[name] for row in rows], dtype=object)
    return table


def _row(module: str, update: Update, base: Base | None) -> dict[str, Any]:
    settings, scaling, width = _about(update)
    row = {"module": module, **settings, **dict.fromkeys(MEASURES, math.nan)}
    row |= {"singular_values": [], "warnings": _odd_scaling(scaling)}
    try:
        basis, short = shortened(update, basis=False)
    except ValueError as error:
        row["warnings"].append(str(error))
        return row
    if row["shape"] is None:
        row["shape"] = (len(short if basis is None else basis), short.shape[1])
    with nullcontext() if basis is None else one_thread():
        row |= _measures(short, width)
    weight = base_weight(module, update, base, row["shape"])
    if weight is not None:
        row["relative_norm"] = row["norm"] / norm if (norm := _norm(weight)) else math.nan
    row["warnings"] += _odd_size(row) or _odd_rank(row)
    return row


@functools.singledispatch
def _about(update: Update) -> tuple[dict[str, Any], float | None, int | None]:
    """What a row says of an update's settings; its scaling; the width of its shards. None of a
    stored update, or of a method, that does not tell."""
    names = ("method", "shape", "rank", "num_parameters")
    row = {name: getattr(update, name, None) for name in names}
    return row, getattr(update, "scaling", None), getattr(update, "block_size", row["rank"])


@_about.register
def _(update: Adapter) -> tuple[dict[str, Any], float | None, int | None]:
    method, shape = update.method, (update.out_features, update.in_features)
    row = {
        "method": method.name,
        "shape": shape,
        "rank": getattr(method, "rank", None),
        "num_parameters": method.num_parameters(*shape),
    }
    return row, getattr(method, "scaling", None), getattr(method, method.sized_by, None)


def _measures(short: Float[Tensor, "n in_"], width: int | None) -> dict[str, Any]:
    values = spectrum(short)
    rank = numerical_rank(values)
    cosine = math.nan
    if width is not None and width < short.shape[1]:
        cosine = mean_shard_cosine(short, width)
    return {
        "norm": float(torch.linalg.norm(values)),
        "numerical_rank": rank,
        "stable_rank": float(stable_rank(values)),
        "effective_rank": float(effective_rank(values)),
        "top_energy": float(energy(values)[0]),
        "shard_cosine": cosine,
        "singular_values": values[: min(rank, MOST_VALUES)].tolist(),
    }


def base_weight(
    module: str, update: Update, base: Base | None, shape: tuple[int, int]
) -> Tensor | None:
    """W₀ of a module as (out, in), from a function perhaps transposed; None where not known."""
    if isinstance(update, Adapter):
        return update.base.weight
    if base is None:
        known: Tensor | None = getattr(update, "base_weight", None)
        return known
    if isinstance(base, nn.Module):
        try:
            layer: nn.Module | None = base.get_submodule(module)
        except AttributeError:
            layer = None
        weight = getattr(layer, "weight", None)
        if type(layer).__name__ == "Conv1D" and isinstance(weight, Tensor):
            weight = weight.mT  # transformers keeps it as (in, out)
    else:
        weight = base(module)
    if not isinstance(weight, Tensor):
        raise ValueError(f"base has no layer {module!r} with a weight")
    if sorted(weight.shape) != sorted(shape):
        raise ValueError(f"base: {module} has W₀ of shape {tuple(weight.shape)}, and ΔW is {shape}")
    return weight


def _norm(weight: Float[Tensor, "out in_"]) -> float:
    # By parts: the whole of a large W₀ in float64 would be the largest thing in memory.
    parts = weight.detach().split(max(1, PART // max(1, weight.shape[1])))
    norms = (float(torch.linalg.vector_norm(part.double())) for part in parts)
    return math.hypot(*norms)


# --- What looks wrong -------------------------------------------------------------------------


def _odd_scaling(scaling: float | None) -> list[str]:
    low, high = USUAL_SCALING
    if scaling is None or low <= scaling <= high:
        return []
    return [f"its scaling is {scaling:g}, far from 1: was α forgotten when r was chosen?"]


def _odd_size(row: Mapping[str, Any]) -> list[str]:
    if row["norm"] == 0:
        return ["ΔW = 0: nothing was learnt here"]
    if row["relative_norm"] < BELOW_ROUNDING:
        return [f"‖ΔW‖ is {row['relative_norm']:.0e} of ‖W₀‖, which float32 cannot tell from 0"]
    return []


def _odd_rank(row: Mapping[str, Any]) -> list[str]:
    possible = min(row["rank"] or 1, *row["shape"])
    if row["numerical_rank"] >= possible:
        return []
    return [f"ΔW has rank {row['numerical_rank']}, less than r = {row['rank']}"]
