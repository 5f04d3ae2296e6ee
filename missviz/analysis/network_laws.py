"""The laws of the toy on the layers of any network: measured, with what the law says beside it."""

import functools
import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.attach import Targets, attach
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.dora import DoRA
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FrozenFineTuning, FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.training import adapters_in
from missviz.analysis.gradient_laws import (
    bat_law,
    column_correlation,
    dora_law,
    fixed_law,
    lora_law,
    miss_law,
    pissa_law,
)
from missviz.analysis.gradients import Loss, adapter_gradients, initial_gradient_norms, seeds_of
from missviz.analysis.products import shortened
from missviz.analysis.shards import bat_cosine, mean_shard_cosine
from missviz.randomness import generator_for, normal

# --- First gradients --------------------------------------------------------------------------


def layer_gradients(
    model: nn.Module,
    loss: Loss,
    methods: Sequence[Method],
    seeds: int | Iterable[int] = 1,
    *,
    targets: Targets = "*",
) -> pd.DataFrame:
    """First gradients of every layer and method, over full fine-tuning's, beside their laws.

    Args:
        model: any module with linear layers; it stays as it is.
        loss: loss(model) → a scalar, the same data at every call.
        methods, seeds, targets: as in `initial_gradient_norms`.

    Returns one row per method, seed and module, and one for all modules together (module "*"):
        method, seed, module: as in `initial_gradient_norms`.
        norm: ‖∂L/∂θ‖ over what the method trains there.
        full: ‖G‖, G = ∂L/∂W of that layer: full fine-tuning's first gradient.
        ratio: norm / full; NaN where G = 0.
        law: what `first_gradient_law` says of the ratio; NaN where there is no law.
        num_parameters: trained numbers.

    Raises as `initial_gradient_norms`.

    Example:
        >>> import torch, missviz as mv
        >>> def loss(model): return model(torch.eye(8)).square().mean()
        >>> model, methods = torch.nn.Linear(8, 4), [mv.LoRA(2), mv.MiSS(2)]
        >>> table = mv.analysis.layer_gradients(model, loss, methods, seeds=5)
        >>> laws = table[table["module"] == "*"].groupby("method")[["ratio", "law"]].mean()
    """
    methods = list(methods) if not isinstance(methods, Method) else methods
    table = initial_gradient_norms(model, loss, methods, None, seeds, targets=targets)
    by_name = {method.name: method for method in methods}
    frozen = attach(model, FrozenFineTuning(), targets)
    adapters = adapters_in(frozen)
    layers = {
        name: (adapters[name].base.weight.detach().double(), G.double())
        for name, (G,) in adapter_gradients(frozen, loss).items()
    }
    full = {name: float(torch.linalg.norm(G)) for name, (_, G) in layers.items()}
    laws = {
        (called, name): first_gradient_law(method, *layers[name]) if full[name] else math.nan
        for called, method in by_name.items()
        for name in layers
    }
    full["*"] = math.hypot(*full.values())
    for called in by_name:
        parts = [laws[called, name] * full[name] for name in layers if full[name]]
        laws[called, "*"] = math.hypot(*parts) / full["*"] if parts else math.nan
    table["full"] = table["module"].map(full)
    table["ratio"] = table["norm"] / table["full"].where(table["full"] > 0)
    table["law"] = [laws[pair] for pair in zip(table["method"], table["module"], strict=True)]
    return table[["method", "seed", "module", "norm", "full", "ratio", "law", "num_parameters"]]


@functools.singledispatch
def first_gradient_law(
    method: Method, weight: Float[Tensor, "out in_"], gradient: Float[Tensor, "out in_"]
) -> float:
    """What is known beforehand of ‖∂L/∂θ‖ / ‖G‖ at a method's start, from W₀ and G = ∂L/∂W alone;
    NaN where no law is known.

    A root mean square over the random starts of LoRA, of its kin and of fixed factors. MiSS's takes
    one ρ for all pairs of columns of G, PiSSA's and Bat's a W₀ that has nothing to do with G.
    """
    return math.nan


@first_gradient_law.register
def _(method: FrozenFineTuning, weight: Tensor, gradient: Tensor) -> float:
    return 1.0


@first_gradient_law.register
def _(method: FullFineTuning, weight: Tensor, gradient: Tensor) -> float:
    return math.nan if method.bias else 1.0


@first_gradient_law.register
def _(method: LoRA, weight: Tensor, gradient: Tensor) -> float:
    if method.init == "gaussian":  # entries of variance 1/r²
        return method.scaling / math.sqrt(method.rank)
    return lora_law(method.rank, weight.shape[1], method.scaling)


@first_gradient_law.register
def _(method: DoRA, weight: Tensor, gradient: Tensor) -> float:
    lengths = -1 if method.norm == "rows" else -2
    along = dora_share(weight, gradient, lengths)
    direction = lora_law(method.rank, weight.shape[1], method.scaling)
    return dora_law(direction, along, bool(method.norm_gradient))


@first_gradient_law.register
def _(method: PiSSA, weight: Tensor, gradient: Tensor) -> float:
    law = pissa_law(torch.linalg.svdvals(weight), method.rank, *weight.shape)
    return math.sqrt(method.scaling) * law


@first_gradient_law.register
def _(method: MiSS, weight: Tensor, gradient: Tensor) -> float:
    if method.mini is not None:
        return math.nan
    shared = gradient if method.share == "columns" else gradient.mT
    return miss_law(method.rank, shared.shape[1], _correlation(shared))


@first_gradient_law.register
def _(method: FixedFactor, weight: Tensor, gradient: Tensor) -> float:
    columns = weight.shape[1]
    if method.factor == "columns":
        return math.nan
    if method.factor in ("tiled", "block"):
        law = miss_law(method.rank, columns, _correlation(gradient))
        return law * (
            1.0 if method.gain is None else method.gain / math.sqrt(columns / method.rank)
        )
    return fixed_law(method.rank, columns, 1.0 if method.gain is None else method.gain)


@first_gradient_law.register
def _(method: Bat, weight: Tensor, gradient: Tensor) -> float:
    shared = gradient.mT if method.index == "input" else gradient
    return bat_law(method.block_size, shared.shape[1], _correlation(shared), _scale(weight))


def _correlation(gradient: Float[Tensor, "out in_"]) -> float:
    return column_correlation(gradient) if gradient.shape[1] > 1 else 0.0


def _scale(weight: Float[Tensor, "out in_"]) -> float:
    """ω: the root mean square of W₀'s entries."""
    return float(weight.square().mean().sqrt())


def dora_share(
    weight: Float[Tensor, "out in_"], gradient: Float[Tensor, "out in_"], dim: int
) -> float:
    """Share of ‖G‖² along W₀'s own rows (dim −1) or columns (dim −2): Σ⟨G_o, W_o/‖W_o‖⟩² / ‖G‖²."""
    lengths = torch.linalg.vector_norm(weight, dim=dim)
    along = (gradient * weight).sum(dim) / lengths
    return float(along.nan_to_num().square().sum() / gradient.square().sum())


# --- Shards of Bat ----------------------------------------------------------------------------


@torch.no_grad()
def bat_cosines(
    model: nn.Module, method: Bat, seeds: int | Iterable[int] = 1, *, targets: Targets = "*"
) -> pd.DataFrame:
    """Mean cosine of Bat's column shards in each layer, with random D, beside 1/(1 + ω²b).

    What a trained Bat has is in `missviz.inspect_adapter(model)["shard_cosine"]`. The law takes the
    entries of W₀ as independent, with mean 0: where W₀ has structure it need not hold.

    Args:
        model: any module with linear layers; it stays as it is.
        method: `Bat(b)` or `Bat(b, side="left")`; the law is not that of index="input".
        seeds: for D, of N(0, 1); n means 0 … n − 1.
        targets: as in `attach`.

    Returns one row per seed and module:
        module, seed: as given.
        omega: ω, the root mean square of W₀'s entries.
        cosine: mean over all pairs of shards, b columns wide, in float64.
        law: 1/(1 + ω²b) (`missviz.analysis.shards.bat_cosine`).

    Raises:
        TypeError: `method` is no Bat.
        ValueError: its index is "input", b does not divide a layer, or nothing matches.

    Example:
        >>> import torch, missviz as mv
        >>> table = mv.analysis.bat_cosines(torch.nn.Linear(64, 32), mv.Bat(8), seeds=3)
        >>> list(table.columns)
        ['module', 'seed', 'omega', 'cosine', 'law']
    """
    if not isinstance(method, Bat):
        raise TypeError(f"method={method!r} is no Bat; give one such as missviz.Bat(16)")
    if method.index == "input":
        raise ValueError(f"method={method}: its shards do not share D, so there is no such law")
    adapters = adapters_in(attach(model, method, targets))
    rows = []
    for seed in seeds_of(seeds):
        for name, adapter in adapters.items():
            assert isinstance(adapter.D, Tensor)
            drawn = normal(tuple(adapter.D.shape), 1.0, generator_for("bat_cosines", seed, name))
            adapter.D.copy_(drawn)
            omega = _scale(adapter.base.weight.double())
            _, delta = shortened(adapter)
            rows.append(
                {
                    "module": name,
                    "seed": seed,
                    "omega": omega,
                    "cosine": mean_shard_cosine(delta, method.block_size),
                    "law": bat_cosine(omega, method.block_size),
                }
            )
    return pd.DataFrame(rows)
