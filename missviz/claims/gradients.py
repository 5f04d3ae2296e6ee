"""Claims on gradients: how large the first one is, what that is worth, and what sets the rate."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from missviz.adapters.attach import Targets, attach
from missviz.adapters.base import Method
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.analysis.gradients import (
    adapter_gradients,
    gradient_variance,
    initial_gradient_norms,
)
from missviz.analysis.hessian import curvature
from missviz.claims.claim import Claim, Evidence, Larger, Order, order_of
from missviz.claims.minilm import QUERY_AND_VALUE, batches, loss_on, pretrained
from missviz.experiments.arguments import ELEMENTWISE, default_methods
from missviz.experiments.ensemble import LARGEST, Adam, Ensemble, train
from missviz.experiments.gain_and_rate import OPTIMISERS, compensated_rate, gain_runs
from missviz.experiments.no_free_lunch import calibration, make_task
from missviz.experiments.tasks import (
    NOISE,
    PROTOCOLS,
    TARGETS,
    TwoLayerNet,
    adapted_function,
    base_models,
    sample,
    stack_splits,
)
from missviz.machine import one_thread

Points = tuple[Float[Tensor, "n in_"], Float[Tensor, "n out"]]
CPU = torch.device("cpu")
TOY = (MiSS(4), PiSSA(2), LoRA(2), FixedFactor(4, "orthogonal", gain=4.0))
"""As many numbers in each, as in Table 12; the last is MiSS's control."""
REAL = (MiSS(16), PiSSA(8), LoRA(8), FixedFactor(16, "orthogonal", gain=24**0.5))
"""Likewise, on layers of 384 × 384."""


def toy(
    seeds: Sequence[int], dtype: torch.dtype = torch.float32
) -> Iterator[tuple[int, TwoLayerNet, Points]]:
    """Seed, network before it is adapted, and training points of the published protocol."""
    bases = base_models(tuple(seeds), dtype, CPU)
    for seed, base in zip(seeds, bases, strict=True):
        x, y = make_task(PROTOCOLS["published"], ELEMENTWISE, None, base, seed)["train"]
        yield seed, base, (x.to(dtype), y.to(dtype))


def mse_on(model: nn.Module, points: Points) -> Tensor:
    x, y = points
    return mse_loss(model(x), y)


# --- First gradients --------------------------------------------------------------------------


def larger_first_gradient(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """ln ‖∂L/∂θ‖ of each method, in the order that is claimed."""
    on_toy = [
        norms(base, partial(mse_on, points=points), TOY, seed, "fc1")
        for seed, base, points in toy(seeds)
    ]
    on_minilm = []
    for seed in seeds:
        (batch,) = batches(seed, 1, 32, device)
        network = pretrained(seed, device)
        loss = partial(loss_on, batch=batch)
        on_minilm.append(norms(network, loss, REAL, seed, QUERY_AND_VALUE))
    return {"toy": ordered(TOY, on_toy), "MiniLM": ordered(REAL, on_minilm)}


def norms(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    methods: Sequence[Method],
    seed: int,
    targets: Targets,
) -> list[float]:
    """Of all layers together, by method."""
    table = initial_gradient_norms(model, loss, methods, None, [seed], targets=targets)
    return table.loc[table["module"] == "*", "norm"].tolist()


def ordered(methods: Sequence[Method], found: list[list[float]]) -> Evidence:
    """The order of all methods but the control, which stands beside them."""
    by_method = dict(zip((method.name for method in methods), np.log(found).T, strict=True))
    claimed = dict(list(by_method.items())[:-1])
    times = {name: round(float(np.exp(values.mean())), 5) for name, values in by_method.items()}
    evidence = order_of(claimed)
    return replace(evidence, seen={**evidence.seen, "geometric means": times})


# --- What a larger one is worth ---------------------------------------------------------------

GAIN = 4.0
MINILM_STEPS, MINILM_RATE = 16, 1e-3
LAST = tuple(f"*layer.5.attention.self.{name}" for name in ("query", "value"))
Curve = Float[np.ndarray, " steps1"]


def larger_is_faster(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """How many times faster four times the first gradient is, as logarithms: the gain of a frozen
    factor is made four times as large, with the rate as it was and with its own."""
    faster: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        curves = {f"toy, {optimiser}": toy_curves(optimiser, seed) for optimiser in OPTIMISERS}
        curves["MiniLM, Adam"] = minilm_curves(seed, device)
        for place, (small, large_at_one_rate, large_at_its_own) in curves.items():
            each = faster.setdefault(place, {"one rate for both": [], "each at its own rate": []})
            each["one rate for both"].append(speed(small, large_at_one_rate))
            each["each at its own rate"].append(speed(small, large_at_its_own))
    return {
        f"{place}, {rate}": Evidence.of(np.array(found) / math.log(GAIN))
        for place, by_rate in faster.items()
        for rate, found in by_rate.items()
    }


def speed(slow: Curve, fast: Curve) -> float:
    """ln of how many times sooner `fast` is where `slow` is half-way through its steps; at the
    least −ln 2, where it does not come so far."""
    half = (len(slow) - 1) // 2
    below = np.flatnonzero(fast <= slow[half])
    if not len(below):
        return -math.log(2)
    after = int(below[0])
    # Between two steps the loss is taken as a line.
    part = (fast[after - 1] - slow[half]) / (fast[after - 1] - fast[after])
    return math.log(half / (after - 1 + float(part)))


def toy_curves(optimiser: str, seed: int) -> tuple[Curve, Curve, Curve]:
    """At gain 1; at the larger one with the same rate; and with its own."""
    runs = gain_runs((1.0, GAIN), optimiser, seed=seed).set_index(["gain", "compensated"])
    curves = runs["loss"].sort_index(kind="stable")
    at = [(1.0, False), (GAIN, False), (GAIN, True)]
    first, second, third = (curves.loc[[key]].to_numpy() for key in at)
    return first, second, third


def minilm_curves(seed: int, device: str) -> tuple[Curve, Curve, Curve]:
    """The same: sixteen sentences, learnt by LoRA with A frozen in MiniLM's last layer."""
    network = pretrained(seed, device)
    (batch,) = batches(seed, 1, 16, device)

    def curve(gain: float, rate: float) -> Curve:
        model = attach(network, LoRA(8, alpha=8 * gain, freeze_a=True), LAST, seed=seed)
        trained = [one for one in model.parameters() if one.requires_grad]
        optimiser = Adam([one.unsqueeze(0) for one in trained], [rate])
        losses = []
        for _ in range(MINILM_STEPS + 1):
            loss = loss_on(model, batch)
            losses.append(float(loss.detach()))
            optimiser.step([one.unsqueeze(0) for one in torch.autograd.grad(loss, trained)])
        return np.array(losses)

    own = compensated_rate(MINILM_RATE, GAIN, "Adam")
    return curve(1.0, MINILM_RATE), curve(GAIN, MINILM_RATE), curve(GAIN, own)


# --- Variance ---------------------------------------------------------------------------------


def less_variance(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """ln of LoRA's E‖g_b − g‖² / ‖g‖² over MiSS's."""
    at_start, on_minilm = [], []
    for seed, base, _ in toy(seeds):
        x, y = sample(adapted_function, 40 * SIZE, NOISE, seed, "claims", "many points")
        parts = minibatches((x.float(), y.float()))
        starts = range(DRAWS * seed, DRAWS * (seed + 1))
        at_start.append(log_ratios(base, mse_on, parts, TOY, starts, "fc1"))
    for seed in seeds:
        network, sentences = pretrained(seed, device), batches(seed, 8, 8, device)
        on_minilm.append(log_ratios(network, loss_on, sentences, REAL[:3], [seed], LAST))
    trained, losses = after_training(TOY, seeds)
    return {
        "toy, at the start": compared(TOY, at_start),
        "toy, after 100 steps": compared(TOY, trained, training_loss=losses),
        "MiniLM, at the start": compared(REAL[:3], on_minilm),
    }


SIZE, DRAWS = 10, 4
"""Of the toy: points in a minibatch of its 50, and starts of each method for a network."""


def minibatches(points: Points) -> list[Points]:
    x, y = points
    return list(zip(x.split(SIZE), y.split(SIZE), strict=True))


def log_ratios(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    parts: Sequence[Any],
    methods: Sequence[Method],
    starts: Sequence[int],
    targets: Targets,
) -> Float[np.ndarray, " method"]:
    """Of all layers together, a mean over the methods' random starts."""
    table = gradient_variance(model, loss, parts, methods, starts, targets=targets)
    ratios = table[table["module"] == "*"].groupby("method", sort=False)["ratio"]
    found: np.ndarray = ratios.agg(lambda each: np.log(each).mean()).to_numpy()
    return found


@one_thread()
def after_training(
    methods: Sequence[Method], seeds: Sequence[int]
) -> tuple[Float[np.ndarray, "seed method"], dict[str, float]]:
    """Its logarithm after the published protocol's steps, on its training points; and the loss."""
    tasks = list(toy(seeds))
    protocol = PROTOCOLS["published"]
    found, losses = [], {}
    for method in methods:
        models = [
            attach(base, method, "fc1", seed=seed, trainable=("fc2",)) for seed, base, _ in tasks
        ]
        splits = stack_splits([{"train": points} for *_, points in tasks], torch.float32, CPU)
        ensemble = Ensemble(models)
        rates = list(protocol.learning_rates) * len(models)
        curves = train(ensemble, splits, rates, protocol.steps).losses["train"]
        losses[method.name] = round(float(curves[:, -1].mean()), 4)
        column = []
        for index, (*_, points) in enumerate(tasks):
            model = ensemble.member(index, models[index])
            each = torch.stack([flat_gradient(model, part) for part in minibatches(points)])
            mean = each.mean(dim=0)
            variance = (each - mean).square().sum(dim=1).mean()
            column.append(float(variance / mean.square().sum()))
        found.append(column)
    return np.log(found).T, losses


def flat_gradient(model: nn.Module, points: Points) -> Float[Tensor, " n"]:
    """Of all that the adapters train."""
    by_module = adapter_gradients(model, partial(mse_on, points=points))
    return torch.cat([one.flatten() for found in by_module.values() for one in found]).double()


def compared(
    methods: Sequence[Method],
    found: Sequence[Float[np.ndarray, " method"]] | Float[np.ndarray, "seed method"],
    **seen: Any,
) -> Evidence:
    """By place in TOY and REAL: MiSS comes first, LoRA third."""
    logs = np.asarray(found)
    means = {
        method.name: round(float(value), 4)
        for method, value in zip(methods, np.exp(logs.mean(axis=0)), strict=True)
    }
    return Evidence.of(logs[:, 2] - logs[:, 0], variance_over_squared_mean=means, **seen)


# --- Curvature --------------------------------------------------------------------------------

OCTAVES = tuple(2.0**octave for octave in range(-9, 4))
"""Rates of gradient descent that are tried, of 2/λ_max."""
ADAM_RATES = tuple(10 ** (half / 2) for half in range(-8, 3))
TARGET = "dense"
"""It favours no method."""


def curvature_sets_rate(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """Correlation over methods, seed by seed, of ln best rate with ln 1/λ_max."""
    methods = default_methods("teacher")
    bends = np.zeros((len(methods), len(seeds)))
    best = {"gradient descent": bends.copy(), "Adam": bends.copy()}
    for row, method in enumerate(methods):
        starts = start_points(method, seeds)
        for column, (model, points) in enumerate(starts):
            bends[row, column] = curvature(model, partial(mse_on, points=points))
        scales = 2 / bends[row]
        descents = [[factor * scale for factor in OCTAVES] for scale in scales]
        best["gradient descent"][row] = best_rates(starts, descents, descend)
        best["Adam"][row] = best_rates(starts, [list(ADAM_RATES)] * len(seeds), with_adam)
    scale = np.log(2 / bends)
    edges = {"gradient descent": (OCTAVES[0], OCTAVES[-1]), "Adam": (ADAM_RATES[0], ADAM_RATES[-1])}
    parts = {}
    for optimiser, rates in best.items():
        logs = np.log(rates)
        each = [float(np.corrcoef(logs[:, s], scale[:, s])[0, 1]) for s in range(len(seeds))]
        ratios = np.exp((logs - scale).mean(axis=1))
        parts[optimiser] = Evidence.of(
            each,
            best_rate_over_two_by_curvature={
                method.name: round(float(ratio), 4)
                for method, ratio in zip(methods, ratios, strict=True)
            },
            rates_differ=float(np.exp(np.ptp(logs.mean(axis=1)))),
            on_edge_of_grid=int(
                np.isclose(
                    (rates * bends / 2 if optimiser != "Adam" else rates)[..., None],
                    edges[optimiser],
                ).sum()
            ),
            ratios_differ=float(ratios.max() / ratios.min()),
        )
    return parts


Start = tuple[nn.Module, Points]


def start_points(method: Method, seeds: Sequence[int]) -> list[Start]:
    """The adapted network of each seed and what it is to learn, in float64."""
    protocol = PROTOCOLS["teacher"]
    starts: list[Start] = []
    for seed, base in zip(seeds, base_models(tuple(seeds), torch.float64, CPU), strict=True):
        points = make_task(protocol, TARGET, TARGETS[TARGET], base, seed)["train"]
        loss = calibration(method, base, points)
        starts.append((attach(base, method, "fc1", seed=seed, calibration=loss), points))
    return starts


Run = Callable[[Ensemble, Points, list[float], int], Float[np.ndarray, " member"]]


@one_thread()
def best_rates(starts: list[Start], rates: list[list[float]], run: Run) -> list[float]:
    """The rate with the least training loss at the end, by seed."""
    members = sorted(
        ((seed, rate) for seed, of_seed in enumerate(rates) for rate in of_seed),
        key=lambda member: member[1],
    )
    losses: dict[tuple[int, float], float] = {}
    for first in range(0, len(members), LARGEST):
        some = members[first : first + LARGEST]
        ensemble = Ensemble([starts[seed][0] for seed, _ in some])
        split = stack_splits([{"train": starts[seed][1]} for seed, _ in some], torch.float64, CPU)
        found = run(ensemble, split["train"], [r for _, r in some], PROTOCOLS["teacher"].steps)
        losses |= dict(zip(some, np.where(np.isfinite(found), found, np.inf), strict=True))
    return [min(of_seed, key=lambda rate: losses[seed, rate]) for seed, of_seed in enumerate(rates)]


def descend(
    ensemble: Ensemble, points: Points, rates: list[float], steps: int
) -> Float[np.ndarray, " member"]:
    """The last training loss of plain gradient descent."""
    x, y = points
    trained, each = ensemble.trained, torch.tensor(rates, dtype=torch.float64)
    with ensemble.remembering([x]):
        for _ in range(steps):
            losses = (ensemble(x) - y).square().mean(dim=(-2, -1))
            gradients = torch.autograd.grad(losses.sum(), trained)
            with torch.no_grad():
                for tensor, gradient in zip(trained, gradients, strict=True):
                    tensor -= each.view(-1, *[1] * (tensor.dim() - 1)) * gradient
        with torch.no_grad():
            return (ensemble(x) - y).square().mean(dim=(-2, -1)).numpy()


def with_adam(
    ensemble: Ensemble, points: Points, rates: list[float], steps: int
) -> Float[np.ndarray, " member"]:
    return train(ensemble, {"train": points}, rates, steps).losses["train"][:, -1]


CLAIMS = (
    Claim(
        id="larger-first-gradient",
        claim="MiSS's first gradient is larger than PiSSA's, and PiSSA's larger than LoRA's.",
        said="MiSS v12 Figure 1; DiSHA v6 §9.1",
        test="‖∂L/∂θ‖ over all that a method trains, before any step, with as many numbers: on the "
        "toy, and on query and value of MiniLM with 32 sentences of Rotten Tomatoes",
        unit="ln(norm / next norm)",
        rule=Order(0.1),
        because="a tenth; the figure can be read to about 3 %",
        seconds=25,
        measure=larger_first_gradient,
    ),
    Claim(
        id="larger-is-faster",
        claim="A larger first gradient means faster convergence.",
        said="MiSS v12 Figure 1; DiSHA v6 §9.1",
        test="one and the same frozen factor at gain 1 and 4, so that the first gradient is four "
        "times as large: at one rate for both, and at rate / c² (gradient descent) or rate / c "
        "(Adam); one layer for 60 steps, and the last layer of MiniLM for 16: how much sooner the "
        "loss is where gain 1 has it half-way",
        unit="ln(times faster) / ln(times larger)",
        rule=Larger(0.1),
        because="twice the gradient would save 7 % of the steps",
        seconds=60,
        measure=larger_is_faster,
    ),
    Claim(
        id="gradient-variance",
        claim="MiSS trains with less gradient variance than LoRA.",
        said="the authors' summary of MiSS",
        test="E‖g_b − g‖² / ‖g‖² of minibatches, with as many numbers: on the toy at the start and "
        "after 100 steps, and on the last query and value of MiniLM at the start",
        unit="ln(LoRA's / MiSS's)",
        rule=Larger(0.1),
        because="a tenth fewer points in a batch would make up for less",
        seconds=100,
        measure=less_variance,
        seeds=45,
    ),
    Claim(
        id="curvature-sets-rate",
        claim="The largest eigenvalue of the Hessian at the start explains a method's best rate.",
        said="arXiv 2602.04998",
        test="over the methods of the toy, on a dense teacher: best rate of gradient descent (in "
        "octaves) and of Adam (in half decades), by training loss after 200 steps, beside 2/λ_max",
        unit="correlation of the logarithms",
        rule=Larger(0.7),
        because="below it, less than half of the variance is explained",
        seconds=100,
        measure=curvature_sets_rate,
    ),
)
