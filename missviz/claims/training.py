"""Claims on training the toy: Figure 2, and what it is said to show."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.analysis.reach import reach
from missviz.claims.claim import Claim, Evidence, Larger, Order, order_of
from missviz.claims.toy import BECAUSE, INTERESTING, Shares, means, shares, taught
from missviz.experiments.arguments import TUNING_SEED, default_methods
from missviz.experiments.ensemble import LARGEST, Ensemble, train
from missviz.experiments.no_free_lunch import make_task, no_free_lunch
from missviz.experiments.runs import Runs
from missviz.experiments.tasks import (
    PROTOCOLS,
    TARGETS,
    WIDTH,
    base_models,
    sample,
    stack_splits,
)
from missviz.machine import one_thread
from missviz.randomness import generator_for, normal

MISS, LORA, PISSA = MiSS(4), LoRA(2), PiSSA(2)
"""As many numbers in each, as in Table 12."""
CONTROL = FixedFactor(4, "orthogonal", gain=(WIDTH / 4) ** 0.5)
"""MiSS's rank and gain, in a factor that is drawn: its steps without its structure."""
CPU = torch.device("cpu")


# --- Figure 2 ---------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def published(seeds: tuple[int, ...], device: str) -> Runs:
    """The protocol of Figure 2, once for all claims on it."""
    return no_free_lunch(protocol="published", seeds=seeds, device=device)


def figure_2(metric: str, seeds: Sequence[int], device: str) -> dict[str, np.ndarray]:
    """method → its metric seed by seed, as a share of the loss before adapting."""
    (found,) = shares(published(tuple(seeds), device), metric).values()
    return found


def rivals(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameter-efficient methods of §3.1 but MiSS."""
    in_figure = [method.name for method in default_methods()[1:] if method not in (MISS, CONTROL)]
    return {name: found[name] for name in in_figure}


def figure_2_train(seeds: Sequence[int], device: str) -> Evidence:
    """How much more the best of the others leaves of the training loss, seed by seed."""
    found = figure_2("final train", seeds, device)
    best = np.min(list(rivals(found).values()), axis=0)
    return Evidence.of(best - found[MISS.name], left_on_train=means(found))


def figure_2_adapts(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """How much more others leave of the validation loss at its least: the best method, and what
    answers with one number per output, whatever the input."""
    found = figure_2("min valid", seeds, device)
    others = {"methods": np.min(list(rivals(found).values()), axis=0)}
    others["a constant"] = found["constant"]
    return {
        f"against {name}": Evidence.of(left - found[MISS.name], left_on_validation=means(found))
        for name, left in others.items()
    }


def head_start(seeds: Sequence[int], device: str) -> Evidence:
    """How much more the control leaves of the training loss than MiSS; and LoRA, for the size of
    the lead."""
    found = figure_2("final train", seeds, device)
    whole = figure_2("mean train", seeds, device)
    lead = Evidence.of(found[LORA.name] - found[MISS.name])
    return Evidence.of(
        found[CONTROL.name] - found[MISS.name],
        lead_over_lora=[lead.low, lead.high],
        whole_curve_apart=float((whole[CONTROL.name] - whole[MISS.name]).mean()),
        left_on_train={name: means(found)[name] for name in (MISS.name, CONTROL.name, LORA.name)},
    )


def pissa_faster(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """What LoRA leaves more than PiSSA of the training loss, a mean over all steps."""
    found: Shares = {"published rate": figure_2("mean train", seeds, device)}
    tuned = taught((LORA, PISSA), seeds, device, ("low rank", "dense"), "mean train", "train")
    found |= {f"tuned, {target}": left for target, left in tuned.items()}
    return {
        place: Evidence.of(
            left[LORA.name] - left[PISSA.name],
            left_over_all_steps={name: means(left)[name] for name in (LORA.name, PISSA.name)},
        )
        for place, left in found.items()
    }


# --- Other targets ----------------------------------------------------------------------------


def no_method_wins(seeds: Sequence[int], device: str) -> Evidence:
    """Of each method the target on which it is farthest behind the best of the others; of these
    distances the smallest, which is that of the method nearest to winning everywhere."""
    contest = (MISS, LORA, PISSA, Bat(4), CONTROL, FixedFactor(4, "columns"))
    found = taught(contest, seeds, device)
    worst = {}
    for method in contest:
        behind = {}
        for target, left in found.items():
            others = {m.name: left[m.name] for m in contest if m is not method}
            best = min(others.values(), key=np.mean)
            behind[target] = left[method.name] - best
        target = max(behind, key=lambda name: float(behind[name].mean()))
        worst[method.name] = (target, behind[target])
    nearest = min(worst, key=lambda name: float(worst[name][1].mean()))
    winners = {}
    for target, left in found.items():
        winners[target] = min((m.name for m in contest), key=lambda name: left[name].mean())
    return Evidence.of(
        worst[nearest][1],
        nearest_to_winning_all=nearest,
        behind_most={name: [on, float(gap.mean())] for name, (on, gap) in worst.items()},
        winners=winners,
        left_on_test={target: means(left) for target, left in found.items()},
    )


DOUBLED, ONE_MORE = (16, 8, 4, 2), (6, 5, 4, 3)


def rank_helps(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """What MiSS learns of a target, in the order of its ranks."""
    kinds = ("periodic", "dense")
    ranks = sorted({*DOUBLED, *ONE_MORE})
    found = taught([MiSS(rank) for rank in ranks], seeds, device, kinds)
    parts = {}
    for kind in kinds:
        learnt = {rank: 1 - found[kind][MiSS(rank).name] for rank in ranks}
        reached = {rank: mean_reach(MiSS(rank), kind, seeds) for rank in ranks}
        for name, order in {"doubled": DOUBLED, "one more": ONE_MORE}.items():
            evidence = order_of({f"r={rank}": learnt[rank] for rank in order})
            seen = {**evidence.seen, "reach": {f"r={rank}": reached[rank] for rank in order}}
            parts[f"{kind}, {name}"] = replace(evidence, seen=seen)
    return parts


def mean_reach(method: Method, kind: str, seeds: Sequence[int]) -> float:
    """Of the target's update itself."""
    weight = torch.eye(WIDTH, dtype=torch.float64)
    wanted = [TARGETS[kind](weight, generator_for(seed, "claims", kind)) for seed in seeds]
    return round(float(np.mean([reach(method, M) for M in wanted])), 4)


# --- One matrix or two ------------------------------------------------------------------------

LEFT = 0.01
"""Of the first training loss: there a run has arrived."""
MOST_STEPS = 400
RATES = tuple(10 ** (half / 2) for half in range(-7, 1))
TUNING = range(TUNING_SEED, TUNING_SEED + 3)
Start = tuple[nn.Module, tuple[Tensor, Tensor]]


def one_matrix_simpler(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """ln of the steps that LoRA needs over those that MiSS needs, each for a target that it can
    express to the last digit, at the rate that is best for it on other seeds."""
    parts = {}
    for place in ("one layer", "through a network"):
        lora, miss = (
            steps_needed(method, kind, place, seeds)
            for method, kind in ((LORA, "low rank"), (MISS, "periodic"))
        )
        steps = {"LoRA": float(np.median(lora)), "MiSS": float(np.median(miss))}
        late = {"LoRA": int((lora > MOST_STEPS).sum()), "MiSS": int((miss > MOST_STEPS).sum())}
        parts[place] = Evidence.of(np.log(lora / miss), median_steps=steps, never_arrived=late)
    return parts


def steps_needed(
    method: Method, kind: str, place: str, seeds: Sequence[int]
) -> Float[np.ndarray, " seeds"]:
    tried = [[(seed, rate) for seed in TUNING] for rate in RATES]
    scores = [np.log(arrivals(method, kind, place, members)).mean() for members in tried]
    rate = RATES[int(np.argmin(scores))]
    return arrivals(method, kind, place, [(seed, rate) for seed in seeds])


@one_thread()
def arrivals(
    method: Method, kind: str, place: str, members: Sequence[tuple[int, float]]
) -> Float[np.ndarray, " member"]:
    """Steps of full-batch Adam until LEFT of the loss is left; one more than there are if never."""
    found: list[float] = []
    for first in range(0, len(members), LARGEST):
        some = members[first : first + LARGEST]
        starts = [started(method, kind, place, seed) for seed, _ in some]
        splits = stack_splits([{"train": points} for _, points in starts], torch.float64, CPU)
        ensemble = Ensemble([model for model, _ in starts])
        curves = train(ensemble, splits, [rate for _, rate in some], MOST_STEPS).losses["train"]
        for curve in curves:
            there = np.flatnonzero(curve <= LEFT * curve[0])
            found.append(float(there[0]) if len(there) else MOST_STEPS + 1.0)
    return np.array(found)


def started(method: Method, kind: str, place: str, seed: int) -> Start:
    """The adapted model and what it is to learn: the layer alone, or in the toy's network."""
    if place != "one layer":
        (base,) = base_models((seed,), torch.float64, CPU)
        points = make_task(PROTOCOLS["teacher"], kind, TARGETS[kind], base, seed)["train"]
        return attach(base, method, "fc1", seed=seed), points
    weight = normal((WIDTH, WIDTH), WIDTH**-0.5, generator_for(seed, "claims", "layer"))
    wanted = weight + TARGETS[kind](weight, generator_for(seed, "claims", kind))
    points = sample(lambda x: x @ wanted.mT, 128, 0.0, seed, "claims", "inputs")
    return attach(linear_with(weight).requires_grad_(False), method, seed=seed), points


CLAIMS = (
    Claim(
        id="one-matrix-simpler",
        claim="One trained matrix is easier to optimise than LoRA's two.",
        said="MiSS v12 §3",
        test="MiSS on a periodic target, LoRA on one of rank 2, which they express exactly with as "
        "many numbers: steps of Adam until 1 % of the training loss is left, at the rate that "
        "is best on other seeds; one linear layer, and the first layer of the toy",
        unit="ln(LoRA's steps / MiSS's)",
        rule=Larger(0.22),
        because="a quarter more steps",
        seconds=10,
        measure=one_matrix_simpler,
    ),
    Claim(
        id="figure-2-train",
        claim="On the toy MiSS ends with the lowest training loss of all efficient methods.",
        said="MiSS v12 §3.1, Figure 2",
        test="the published protocol; the best of the eight others, seed by seed",
        unit="share of the unadapted loss that it leaves more",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=6,
        measure=figure_2_train,
        seeds=20,
    ),
    Claim(
        id="figure-2-adapts",
        claim="So MiSS adapts better to the toy's new task.",
        said="MiSS v12 §3.1",
        test="the published protocol: least validation loss, beside the best of the other methods, "
        "and beside the mean of each output over the training points",
        unit="share of the unadapted loss that it leaves more",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=6,
        measure=figure_2_adapts,
        seeds=20,
    ),
    Claim(
        id="head-start",
        claim="MiSS's lead on the toy comes from its structure, not from the size of its steps.",
        said="MiSS v12 §3.1",
        test="the published protocol; in its place a frozen orthogonal factor of equal rank and "
        "gain",
        unit="share of the unadapted loss that the control leaves more",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=6,
        measure=head_start,
        seeds=20,
    ),
    Claim(
        id="no-free-lunch",
        claim="There is no free lunch: no method wins on all targets.",
        said="MiSS v12, title of §3.1",
        test="six methods with as many numbers on four kinds of teacher, each at its best rate on "
        "other seeds; test loss at the step of least validation loss; how far the method that is "
        "nearest to winning everywhere is behind where it is worst",
        unit="share of the unadapted loss",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=35,
        measure=no_method_wins,
    ),
    Claim(
        id="pissa-faster",
        claim="PiSSA converges faster than LoRA.",
        said="PiSSA §1; MiSS v12 §3.1",
        test="training loss, averaged over all steps: the published protocol, and two teachers, "
        "each method at its best rate on other seeds",
        unit="share of the unadapted loss that LoRA leaves more",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=8,
        measure=pissa_faster,
    ),
    Claim(
        id="rank-helps",
        claim="More rank gives MiSS a better result, or at least no worse one.",
        said="MiSS v12 Table 7",
        test="ranks 2, 4, 8, 16, and 3, 4, 5, 6, on a periodic (period 4) and a dense teacher, "
        "each at its best rate on other seeds; test loss at the step of least validation loss",
        unit="share of the unadapted loss that the next rank learns more",
        rule=Order(-INTERESTING),
        because=BECAUSE,
        seconds=18,
        measure=rank_helps,
    ),
)
