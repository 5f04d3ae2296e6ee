"""Claims on layers that share numbers (MoS): what they can be, and what it costs to serve them.

Quality is the share in reach of what layers want, as in lesson 06: layer t wants
√c · common + √(1−c) · own_t, so c says how alike they are. Nothing is trained. For LoRA and pure
sharing the share is exact; for the others it is what a search finds, so it may be larger.
"""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.attach import attach, merge
from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.mos import MoS
from missviz.adapters.stacking import stack
from missviz.adapters.vera import VeRA
from missviz.analysis.sharing import sharing_table
from missviz.bench.clock import in_turns, one_core_clock, own_garbage, timed
from missviz.claims.claim import Claim, Evidence, Larger, Order
from missviz.claims.cost import milliseconds, step_seconds, where
from missviz.machine import one_thread
from missviz.networks import minilm
from missviz.randomness import generator_for, normal

LORA, PURE = LoRA(2), MoS(None, 2, dissociate=False)
FULL = MoS(4, 2, shards_per_vector=2, private=1)
WITHOUT = {
    "pairs apart": MoS(4, 2, shards_per_vector=2, private=1, dissociate=False),
    "private shards": MoS(4, 2, shards_per_vector=2),
    "cutting vectors": MoS(4, 2, private=1),
}
"""MoS without one of its differentiations; all of these train as many numbers as LORA."""
ALIKE = (0.0, 0.5, 1.0)


# --- What pools can be ------------------------------------------------------------------------


def shares(
    methods: Mapping[str, Method], alikes: Sequence[float], seeds: Sequence[int], **problem: Any
) -> dict[float, dict[str, Float[np.ndarray, " seed"]]]:
    """Shares in reach, by c and method, one entry per seed."""
    table = sharing_table(methods, alikes, seeds=seeds, starts=2, **problem)
    return {
        float(alike): {name: each["share"].to_numpy() for name, each in part.groupby("method")}
        for alike, part in table.groupby("alike")
    }


def gain(
    one: Method, other: Method, seeds: Sequence[int], alikes: Sequence[float] = ALIKE
) -> dict[str, Evidence]:
    """By how much the share of `one` is larger than that of `other`, for each c."""
    found = shares({"one": one, "other": other}, alikes, seeds)
    return {
        f"c = {alike:g}": Evidence.of(
            each["one"] - each["other"],
            shares={
                method.name: float(each[name].mean())
                for name, method in (("one", one), ("other", other))
            },
        )
        for alike, each in found.items()
    }


def eight_times(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """The best of four MoS with an eighth of LoRA's numbers, for what LoRA reaches."""
    layers, size, rank = 16, 24, 8
    eighth = {
        "pure sharing": MoS(None, 1, dissociate=False),
        "subset": MoS(rank, 1, dissociate=False),
        "pairs apart": MoS(rank, 1),
        "vectors cut": MoS(rank, 1, shards_per_vector=2),
    }
    methods = {"LoRA": LoRA(rank), **eighth}
    found = shares(methods, (0.0, 0.5, 0.9, 1.0), seeds, layers=layers, size=size, rank=rank)
    numbers = {name: layers * one.num_parameters(size, size) for name, one in methods.items()}
    evidence = {}
    for alike, each in found.items():
        means = {name: float(values.mean()) for name, values in each.items()}
        best = max(eighth, key=means.__getitem__)
        seen = {"best": best, "shares": means, "numbers": numbers}
        evidence[f"c = {alike:g}"] = Evidence.of(each[best] - each["LoRA"], **seen)
    return evidence


def pure_sharing_hurts(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    return gain(LORA, PURE, seeds)


def differentiation_helps(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    return gain(FULL, PURE, seeds)


def which_differentiation(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """What is lost without each of the two, and how much more than without cutting vectors."""
    found = shares({"full": FULL, **WITHOUT}, ALIKE, seeds)
    evidence = {}
    for alike, each in found.items():
        lost = {name: each["full"] - each[name] for name in WITHOUT}
        neighbours = {}
        for name in ("pairs apart", "private shards"):
            beside = {f"{name} − nothing": lost[name]}
            beside[f"{name} − cutting vectors"] = lost[name] - lost["cutting vectors"]
            for pair, more in beside.items():
                one = Evidence.of(more)
                neighbours[pair] = one.effect, one.low, one.high
        least = min(neighbours.values())
        seen = {
            "neighbours": neighbours,
            "lost without": {name: float(values.mean()) for name, values in lost.items()},
        }
        evidence[f"c = {alike:g}"] = Evidence(*least, len(seeds), seen)
    return evidence


# --- Many tenants -----------------------------------------------------------------------------


class FirstOf(nn.Module):
    """The first of layers that share, with one frozen weight in all of them: a 7B model's shape
    without its bytes."""

    def __init__(self, layers: int, size: int) -> None:
        super().__init__()
        weight = normal((size, size), size**-0.5, generator_for("claims", "7B")).float()
        self.layers = nn.ModuleList(linear_with(weight) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers[0](x)
        return y


TENANTS = (1, 10, 50)
SIZE, SHARING = 4096, 16
"""A 7B model's hidden size, and so many of its layers share a pool here; the model has 32."""
MERGED = 2**30
"""Bytes of merged weights beyond which merging is not run."""


@dataclass(frozen=True)
class Place:
    """Where tenants are served."""

    model: Callable[[Method], nn.Module]
    """The frozen base for a method."""
    targets: str | Sequence[str]
    run: Callable[[nn.Module, slice], Tensor]
    """A model on these rows of a batch; row n is tenant n's."""
    tokens: int
    """In a row."""
    methods: Mapping[str, Method]


def on_minilm() -> Place:
    """Query and value of all layers; LoRA's rank and MiSS's as in P12's table of such a network."""
    network = minilm()
    words = torch.randint(1000, 20000, (max(TENANTS), 32), generator=generator_for("words"))

    def run(model: nn.Module, rows: slice) -> Tensor:
        ids = words[rows]
        y: Tensor = model(ids, torch.ones_like(ids))
        return y

    return Place(
        model=lambda method: network,
        targets=["query", "value"],
        run=run,
        tokens=words.shape[1],
        methods={
            "LoRA": LoRA(8),
            "MiSS": MiSS(16),
            "VeRA": VeRA(256),
            "MoS": MoS(16, 8, shards_per_vector=2, private=1),
            "MoS, a quarter": MoS(8, 2, shards_per_vector=2, private=1),
            "MoS, an eighth": MoS(8, 1, shards_per_vector=2),
        },
    )


def on_a_7b_layer() -> Place:
    """One decoding step: a token per tenant."""
    x = normal((max(TENANTS), 1, SIZE), 1.0, generator_for("claims", "tokens")).float()
    many, single = FirstOf(SHARING, SIZE), FirstOf(1, SIZE)

    def run(model: nn.Module, rows: slice) -> Tensor:
        y: Tensor = model(x[rows])
        return y

    return Place(
        model=lambda method: many if isinstance(method, MoS) else single,
        targets="*",
        run=run,
        tokens=1,
        methods={
            "LoRA": LoRA(64),
            "MiSS": MiSS(64),
            "VeRA": VeRA(256),
            "MoS, a quarter": MoS(64, 16, shards_per_vector=4, private=1),
            "MoS, an eighth": MoS(64, 8, shards_per_vector=4, private=1),
        },
    )


PLACES: dict[str, Callable[[], Place]] = {
    "MiniLM": on_minilm,
    "a layer of a 7B model": on_a_7b_layer,
}


def tenants_of(place: Place, method: Method, count: int) -> list[nn.Module]:
    """So many customised models on one base, with numbers of their own."""
    models = []
    for tenant in range(count):
        # VeRA's frozen A and B are the same for all.
        seed = 0 if isinstance(method, VeRA) else tenant
        model = attach(place.model(method), method, place.targets, seed=seed)
        generator = generator_for("tenant", tenant)
        with torch.no_grad():
            for part in model.parameters():
                if part.requires_grad:
                    part.copy_(normal(tuple(part.shape), 0.02, generator))
        models.append(model.eval())
    return models


def own_bytes(model: nn.Module) -> float:
    """What a tenant adds: trained numbers, and which shards each layer takes. Per layer where one
    layer stands for several."""
    adapters = [part for part in model.modules() if isinstance(part, Adapter)]
    tensors: dict[int, Tensor] = {id(p): p for p in model.parameters() if p.requires_grad}
    for adapter in adapters:
        own = (tensor for name, tensor in adapter.named_buffers(recurse=False))
        tensors |= {id(tensor): tensor for tensor in own}
    whole = sum(tensor.nbytes for tensor in tensors.values())
    return whole / (len(adapters) if isinstance(model, FirstOf) else 1)


@own_garbage()
@one_thread()
@torch.no_grad()
def serve(
    place: Place,
    count: int,
    rounds: int,
    methods: Mapping[str, Method],
    *,
    beside: bool = False,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(seconds by side, bytes by side) of one batch with a tenant per row, stacked, in turns;
    `beside` it the base alone, and LoRA's tenants merged, or one after the other."""
    _, clock = one_core_clock()
    run, rows = place.run, [slice(n, n + 1) for n in range(count)]
    every = slice(0, count)
    sides: dict[str, Callable[[], object]] = {}
    held: dict[str, float] = {}

    def one_by_one(models: Sequence[nn.Module]) -> Callable[[], object]:
        return lambda: [run(model, row) for model, row in zip(models, rows, strict=True)]

    for name, method in methods.items():
        models = tenants_of(place, method, count)
        held[name] = count * own_bytes(models[0])
        sides[name] = functools.partial(run, stack(models), every)
        if beside and name == "LoRA":
            sides["base alone"] = functools.partial(run, place.model(method), every)
            sides["LoRA, in a loop"] = one_by_one(models)
            adapted = [part for part in models[0].modules() if isinstance(part, Adapter)]
            held["merged"] = count * sum(float(part.base.weight.nbytes) for part in adapted)
            if held["merged"] < MERGED:
                sides["merged"] = one_by_one([merge(model) for model in models])
    return in_turns(sides, torch.device("cpu"), rounds, warm_ups=1, clock=clock), held


def many_tenants(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """LoRA's bytes, and LoRA's seconds for a batch, over those of MoS with an eighth of its
    numbers, for 50 tenants. A seed is a round in turns."""
    found = {}
    for name, made in PLACES.items():
        place = made()
        seen: dict[str, Any] = {}
        for count in TENANTS:
            times, held = serve(place, count, len(seeds), place.methods, beside=True)
            seen[f"{count} tenants"] = {
                side: _row(times.get(side), held.get(side), count * place.tokens)
                for side in sorted({*times, *held})
            }
        found[f"bytes, {name}"] = Evidence.exact(held["LoRA"] / held["MoS, an eighth"], 1)
        ratios = np.array(times["LoRA"]) / np.array(times["MoS, an eighth"])
        seen["device"] = "cpu"
        seen["VeRA"] = "stacking gives each tenant a copy of its A and B, which costs time"
        found[f"time, {name}"] = Evidence.of(ratios, **seen)
    return found


def _row(seconds: Sequence[float] | None, held: float | None, tokens: int) -> dict[str, float]:
    row = {} if held is None else {"MB": round(held / 1e6, 3)}
    if seconds is not None:
        middle = statistics.median(seconds)
        row |= {"ms": round(1000 * middle, 2), "tokens per second": round(tokens / middle)}
    return row


def routing_overhead(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """LoRA's seconds over those of a MoS of the same rank, less 1; and what gathering A and B from
    the pools takes of it."""
    lora, mos = LoRA(64), MoS(64, 8, shards_per_vector=4, private=1)
    times = step_seconds({"LoRA": lora, "MoS": lambda base: _one_of_many(base, mos)}, seeds, device)
    found = {
        "a training step": Evidence.of(
            times["LoRA"] / times["MoS"] - 1,
            milliseconds={
                **milliseconds(times),
                "gathering, on a CPU": _gathering(
                    _one_of_many(linear_with(torch.ones(2048, 2048)), mos)
                ),
            },
            **where(device),
        )
    }
    for name, made in PLACES.items():
        place = made()
        pair = {side: place.methods[side] for side in ("LoRA", "MoS, an eighth")}
        seconds, _ = serve(place, max(TENANTS), len(seeds), pair)
        stacked = stack(tenants_of(place, pair["MoS, an eighth"], max(TENANTS)))
        taken = {side: np.array(each) for side, each in seconds.items()}
        found[f"serving {max(TENANTS)} tenants, {name}"] = Evidence.of(
            taken["LoRA"] / taken["MoS, an eighth"] - 1,
            milliseconds={**milliseconds(taken), "gathering, on a CPU": _gathering(stacked)},
        )
    return found


def _one_of_many(base: nn.Linear, method: Method) -> nn.Module:
    layers = nn.ModuleList(linear_with(base.weight.detach()) for _ in range(SHARING))
    first: nn.Module = attach(layers, method)[0]
    return first


@one_thread()
@torch.no_grad()
def _gathering(model: nn.Module) -> float:
    """Milliseconds to make A and B of all layers that run."""
    adapters = [part for part in model.modules() if isinstance(part, Adapter)]
    adapters = adapters[:1] if isinstance(model, FirstOf) else adapters
    _, clock = one_core_clock()
    taken = [
        timed(lambda: [adapter.factors() for adapter in adapters], torch.device("cpu"), clock=clock)
        for _ in range(5)
    ]
    return round(1000 * statistics.median(seconds for _, seconds in taken), 3)


FIVE_POINTS = "five points of the share; ten problems know it to about two"
CLAIMS = (
    Claim(
        id="eight-times",
        claim="MoS needs an eighth of LoRA's numbers for equal quality.",
        said="MoS, abstract",
        test="share in reach of 16 layers, the best of four MoS with e = 1 minus LoRA r = 8",
        unit="share of what is wanted",
        rule=Larger(-0.05),
        because="equal: at most five points of the share are lost",
        seconds=15,
        measure=eight_times,
    ),
    Claim(
        id="pure-sharing-hurts",
        claim="Pure sharing, one update for all layers, is worse than LoRA with as many numbers.",
        said="MoS §3, mechanism 1",
        test="share in reach of six layers, LoRA minus pure sharing, e = 2",
        unit="share of what is wanted",
        rule=Larger(0.05),
        because=FIVE_POINTS,
        seconds=1,
        measure=pure_sharing_hurts,
    ),
    Claim(
        id="differentiation-helps",
        claim="Differentiation between layers makes up for what pure sharing loses.",
        said="MoS §3",
        test="share in reach of six layers, MoS with all four differentiations minus pure sharing",
        unit="share of what is wanted",
        rule=Larger(0.05),
        because=FIVE_POINTS,
        seconds=2,
        measure=differentiation_helps,
    ),
    Claim(
        id="which-differentiation",
        claim="Of the differentiations, pair dissociation and private shards help most.",
        said="MoS §3.6",
        test="what is lost without each, also beyond what is lost without cutting vectors",
        unit="share of what is wanted",
        rule=Order(0.01),
        because="a point of the share",
        seconds=10,
        measure=which_differentiation,
        seeds=60,
    ),
    Claim(
        id="many-tenants",
        claim="Shared shards make it cheap to serve many customised models on one base.",
        said="MoS §1",
        test="50 tenants stacked on one base, one per row, MoS at 1/8 beside LoRA: MiniLM, and a "
        "decoding step of 4096 × 4096 whose pool is for 16 layers",
        unit="LoRA's over MoS's",
        rule=Larger(1.25),
        because="a quarter cheaper",
        seconds=100,
        measure=many_tenants,
        seeds=5,
    ),
    Claim(
        id="routing-overhead",
        claim="The machinery of shards is nearly free.",
        said="MoS §3",
        test="LoRA's time over that of MoS of the same rank, less 1, in training and in serving",
        unit="share of MoS's time",
        rule=Larger(-0.05),
        because="nearly free: at most a twentieth is lost",
        seconds=60,
        measure=routing_overhead,
        seeds=5,
    ),
)
