"""First gradients of every method on the user's model: how large they are, and how much they vary
from batch to batch."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.attach import Targets, attach
from missviz.adapters.base import Adapter, Method, checked_method
from missviz.adapters.full import FullFineTuning
from missviz.analysis.gradient_laws import column_correlation
from missviz.machine import one_thread

if TYPE_CHECKING:
    from missviz.experiments.gain_and_rate import LinearTask

Loss = Callable[[nn.Module], Tensor]
"""model → a scalar."""


def initial_gradient_norms(
    model: nn.Module,
    loss: Loss,
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
    rows = []
    for method, variant, seed in _cases(methods, ranks, seeds):
        attached = _attached(model, variant, targets, seed, loss)
        squares = {
            name: (sum(map(_square, gradients)), _count(gradients))
            for name, gradients in adapter_gradients(attached, loss).items()
        }
        shown = {
            "family": method.name,
            "method": variant.name,
            "rank": getattr(variant, variant.sized_by, None),
            "seed": seed,
        }
        rows += [
            shown | {"module": name, "norm": square**0.5, "num_parameters": count}
            for name, (square, count) in squares.items()
        ]
        total, count = (sum(part) for part in zip(*squares.values(), strict=True))
        rows.append(shown | {"module": "*", "norm": total**0.5, "num_parameters": count})
    return pd.DataFrame(rows)


def gradient_variance(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    methods: Sequence[Method],
    seeds: int | Iterable[int] = 1,
    *,
    targets: Targets = "*",
) -> pd.DataFrame:
    """E‖g_b − g‖² / ‖g‖²: how far the first gradients of minibatches are from their mean g.

    The mean and E are over the batches given. Where these part the data into equal sizes, g is the
    gradient of the whole. With batches of n points, drawn at random from many, the ratio falls as
    1/n; about 1/ratio batches tell as much of g as of their own noise.

    Args:
        model: any module with linear layers; it stays as it is, and trains nothing.
        loss: loss(model, batch) → a scalar, the mean over the batch.
        batches: two or more, of equal size: anything that `loss` takes.
        methods, seeds, targets: as in `initial_gradient_norms`. A method that starts from a
            gradient gets that of the first batch.

    Returns one row per method, seed and module, and one for all modules together (module "*"):
        method, seed, module: as in `initial_gradient_norms`.
        mean_square: ‖g‖², over what the module trains.
        variance: E‖g_b − g‖².
        ratio: variance / mean_square; NaN where g = 0.
        num_parameters, batches: counts.

    Raises as `initial_gradient_norms`, and ValueError for fewer than two batches.

    Example:
        >>> import torch, missviz as mv
        >>> def loss(model, x): return model(x).square().mean()
        >>> batches = torch.eye(8).split(2)
        >>> layer, methods = torch.nn.Linear(8, 4), [mv.MiSS(2)]
        >>> table = mv.analysis.gradient_variance(layer, loss, batches, methods)
        >>> list(table["module"])
        ['', '*']
    """
    batches = list(batches)
    if len(batches) < 2:
        raise ValueError(f"batches has {len(batches)}; a variance takes two or more")

    def on(batch: Any) -> Loss:
        return lambda model: loss(model, batch)

    rows = []
    for _, method, seed in _cases(methods, None, seeds):
        attached = _attached(model, method, targets, seed, on(batches[0]))
        means: dict[str, list[Tensor]] = {}
        spread: dict[str, float] = {}
        for count, batch in enumerate(batches, start=1):
            for name, gradients in adapter_gradients(attached, on(batch)).items():
                # Welford: no difference of two large sums.
                zeros = [torch.zeros_like(g, dtype=torch.float64) for g in gradients]
                mean = means.setdefault(name, zeros)
                for own, gradient in zip(mean, gradients, strict=True):
                    off = gradient.double() - own
                    own += off / count
                    moved = float((off * (gradient.double() - own)).sum())
                    spread[name] = spread.get(name, 0.0) + moved
        squares = {name: sum(map(_square, mean)) for name, mean in means.items()}
        counts = {name: _count(mean) for name, mean in means.items()}
        squares["*"], spread["*"] = sum(squares.values()), sum(spread.values())
        counts["*"] = sum(counts.values())
        rows += [
            {
                "method": method.name,
                "seed": seed,
                "module": name,
                "mean_square": squares[name],
                "variance": (variance := spread[name] / len(batches)),
                "ratio": variance / squares[name] if squares[name] else float("nan"),
                "num_parameters": counts[name],
                "batches": len(batches),
            }
            for name in squares
        ]
    return pd.DataFrame(rows)


def adapter_gradients(attached: nn.Module, loss: Loss) -> dict[str, list[Tensor]]:
    """Per adapted module ∂L/∂θ of all that it trains; zeros where the loss does not see it.

    Raises ValueError where the loss is not one finite number.
    """
    adapters = {
        name: [parameter for parameter in module.parameters() if parameter.requires_grad]
        for name, module in attached.named_modules()
        if isinstance(module, Adapter)
    }
    with torch.enable_grad():
        value = loss(attached)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"loss(model) must be one number, got {getattr(value, 'shape', value)}")
    validation.finite("the loss", value.detach())
    trained = [parameter for parameters in adapters.values() for parameter in parameters]
    found = iter(torch.autograd.grad(value.reshape(()), trained, materialize_grads=True))
    return {name: [next(found) for _ in parameters] for name, parameters in adapters.items()}


def _cases(
    methods: Sequence[Method], ranks: Sequence[int] | None, seeds: int | Iterable[int]
) -> Iterator[tuple[Method, Method, int]]:
    """(method as passed, as it runs, seed), in this order."""
    if isinstance(methods, Method):
        raise TypeError(f"methods={methods} is one method; give a list, such as [{methods!r}]")
    chosen = seeds_of(seeds)
    for method in methods:
        checked_method("one of methods", method)
        # A method without a rank is the same at each, and runs once.
        variants = [method] if ranks is None else dict.fromkeys(map(method.with_rank, ranks))
        for variant in variants:
            for seed in chosen:
                yield method, variant, seed


def seeds_of(seeds: int | Iterable[int]) -> list[int]:
    """The seeds; n means 0 … n − 1."""
    if isinstance(seeds, int):
        return list(range(validation.positive_int("seeds", seeds)))
    return list(seeds)


def _attached(
    model: nn.Module, method: Method, targets: Targets, seed: int, loss: Loss
) -> nn.Module:
    calibration = loss if method.needs_gradient else None
    return attach(model, method, targets, seed=seed, calibration=calibration)


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


@one_thread()
def first_gradients(
    tasks: "Sequence[LinearTask]", methods: Mapping[str, Method], ranks: Sequence[int]
) -> pd.DataFrame:
    """First gradients of methods on one layer, over full fine-tuning's.

    Args:
        tasks: one for each seed, of layers of one shape; the seed also draws the adapter.
        methods: by family name.
        ranks: of each method (Bat: block sizes), as far as they fit the layer; one that has no size
            is the same at each.

    Returns one row per family, rank and seed, with `ratio` and `correlation` (ρ of that seed's G).
    """

    # One model with a layer per seed: the layers don't meet, and one gradient serves all.
    layers = nn.ModuleList(task.linear for task in tasks)

    def loss(model: nn.Module) -> Tensor:
        pairs = zip(tasks, model.children(), strict=True)
        return torch.stack([task.loss(layer) for task, layer in pairs]).sum()

    @functools.cache
    def measured(method: Method) -> "pd.Series[float]":
        found = initial_gradient_norms(layers, loss, [method])
        found = found[found["module"] != "*"]
        return found.set_index(found["module"].astype(int))["norm"]

    correlations = {n: column_correlation(task.gradient()) for n, task in enumerate(tasks)}
    tables = []
    for family, method in methods.items():
        for rank in ranks:
            variant = method.with_rank(rank)
            try:
                variant.check_shape(*tasks[0].wanted.shape)
            except ValueError:
                continue
            ratios = measured(variant) / measured(FullFineTuning())
            table = pd.DataFrame({"rank": rank, "seed": ratios.index, "ratio": ratios.to_numpy()})
            table["correlation"] = table["seed"].map(correlations)
            tables.append(table.assign(family=family))
    return pd.concat(tables, ignore_index=True)
