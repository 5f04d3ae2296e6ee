"""Claims on Bat, and on the colinear shards that it was made to be rid of."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters.base import Method
from missviz.adapters.bat import Bat, BatAdapter
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.miss import MiSS
from missviz.analysis.network_laws import bat_cosines
from missviz.analysis.products import numerical_rank
from missviz.analysis.reach import reach
from missviz.analysis.shards import mean_shard_cosine
from missviz.claims.algebra import SHAPES, delta, drawn, relative, trained
from missviz.claims.claim import Claim, Evidence, Larger
from missviz.claims.toy import BECAUSE, INTERESTING, means, taught
from missviz.experiments.snapshots import adapter_snapshots
from missviz.experiments.tasks import TARGETS, WIDTH, base_models
from missviz.networks.sentence_network import minilm
from missviz.randomness import generator_for

RANK = 4
"""r of MiSS and b of Bat: as many numbers in both."""
BATS = (Bat(RANK), Bat(RANK, index="input"), Bat(RANK, side="left"))
COPIES = MiSS(16)
CONTROL = FixedFactor(16, "orthogonal", gain=(WIDTH / 16) ** 0.5)
"""Its gain and rank, in a frozen factor that is drawn, so that no shard is a copy. Both can learn a
quarter of a target without structure: enough to see a difference."""
SQUARE = (WIDTH, WIDTH)
DRAWS = 4
"""Targets per seed and kind, where nothing is trained."""


def bat_nonlinear(seeds: Sequence[int], device: str) -> Evidence:
    """‖ΔW(2A − 3B) − 2 ΔW(A) + 3 ΔW(B)‖ / ‖ΔW(2A − 3B)‖, the largest of the three Bats."""
    off = []
    for seed in seeds:
        each = []
        for method in BATS:
            adapter = trained(method, SHAPES[1], seed)
            assert isinstance(adapter, BatAdapter)
            A, B = (drawn(tuple(adapter.D.shape), seed, name) for name in "AB")
            updates = []
            for D in (A, B, 2 * A - 3 * B):
                with torch.no_grad():
                    adapter.D.copy_(D)
                updates.append(delta(adapter).clone())
            of_a, of_b, of_both = updates
            each.append(relative(2 * of_a - 3 * of_b, of_both))
        off.append(max(each))
    return Evidence.of(off, bats=[method.name for method in BATS])


def bat_separates(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """1 − the mean cosine of two shards: of ΔW as trained on the toy, and of ΔW with random D on
    MiniLM's query weights."""
    toy = [
        mean_shard_cosine(delta(adapter_snapshots(Bat(RANK), (100,), seed=seed)[100]), RANK)
        for seed in seeds
    ]
    table = bat_cosines(minilm(), Bat(16), seeds, targets="*attention.self.query")
    layers = table.groupby("module")[["omega", "cosine", "law"]].mean()
    by_seed = table.groupby("seed")["cosine"].mean().to_numpy()
    omegas = [float(weight.square().mean().sqrt()) for weight in first_layers(seeds)]
    return {
        "toy": Evidence.of(
            1 - np.array(toy), mean_cosine=float(np.mean(toy)), omega=float(np.mean(omegas))
        ),
        "MiniLM": Evidence.of(
            1 - by_seed,
            mean_cosine=float(by_seed.mean()),
            by_the_law=float(layers["law"].mean()),
            layers=[round(value, 3) for value in layers["cosine"]],
            omegas=[round(value, 3) for value in layers["omega"]],
        ),
    }


def first_layers(seeds: Sequence[int]) -> list[Tensor]:
    """W₀ of the toy, 64 × 64, before it is adapted."""
    bases = base_models(tuple(seeds), torch.float32, torch.device("cpu"))
    return [base.fc1.get_parameter("weight").detach().double() for base in bases]


def colinear_limits(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """What an orthogonal factor of equal rank and gain learns more than MiSS of a target without
    structure, which favours neither."""
    more = reached(CONTROL, "dense", seeds) - reached(COPIES, "dense", seeds)
    left = taught((COPIES, CONTROL), seeds, device, ["dense"])["dense"]
    cosines = {
        method.name: mean_shard_cosine(delta(trained(method, SQUARE, seeds[0])), method.rank)
        for method in (COPIES, CONTROL)
    }
    return {
        "reach": Evidence.of(more, mean_shard_cosine=cosines),
        "training": Evidence.of(left[COPIES.name] - left[CONTROL.name], left_on_test=means(left)),
    }


def reached(method: Method, kind: str, seeds: Sequence[int]) -> Float[np.ndarray, " seeds"]:
    """Reach of targets of a kind on the toy's first layer, a mean over draws."""
    found = []
    for seed, weight in zip(seeds, first_layers(seeds), strict=True):
        keys = [(seed, "claims", kind, draw) for draw in range(DRAWS)]
        wanted = [TARGETS[kind](weight, generator_for(*key)) for key in keys]
        each = [
            reach(method, M, weight, generator=generator_for(*key, "factor"))
            for key, M in zip(keys, wanted, strict=True)
        ]
        found.append(np.mean(each))
    return np.array(found)


def bat_full_rank_rich(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """What Bat reaches more than MiSS with as many numbers, of each kind of target."""
    pair = (Bat(RANK), MiSS(RANK))
    ranks = {
        method.name: numerical_rank(torch.linalg.svdvals(delta(trained(method, SQUARE, seeds[0]))))
        for method in pair
    }
    parts = {}
    for kind in TARGETS:
        bat, miss = (reached(method, kind, seeds) for method in pair)
        both = {"Bat": float(bat.mean()), "MiSS": float(miss.mean())}
        parts[kind] = Evidence.of(bat - miss, reach=both, ranks=ranks)
    return parts


def bat_beats_miss(seeds: Sequence[int], device: str) -> Mapping[str, Evidence]:
    """What Bat leaves less than MiSS of the test loss, each at its own best rate, by target."""
    found = taught((Bat(RANK), MiSS(RANK)), seeds, device)
    return {
        f"toy, {target}": Evidence.of(
            left[MiSS(RANK).name] - left[Bat(RANK).name], left_on_test=means(left)
        )
        for target, left in found.items()
    }


CLAIMS = (
    Claim(
        id="bat-nonlinear",
        claim="Bat's update is a nonlinear function of what it trains.",
        said="DiSHA v6 §3.4; README of MiSS",
        test="ΔW(2A − 3B) beside 2 ΔW(A) − 3 ΔW(B), for the three Bats that there are",
        unit="‖difference‖ / ‖ΔW‖",
        rule=Larger(0.01),
        because="a nonlinear part of 1 % of ΔW would show in training",
        seconds=1,
        measure=bat_nonlinear,
    ),
    Claim(
        id="bat-separates",
        claim="Bat removes the colinearity of MiSS's shards.",
        said="DiSHA v6 §3.4",
        test="mean cosine of two shards: ΔW as trained on the toy (b = 4), and ΔW with random D on "
        "the query weights of MiniLM (b = 16); MiSS's is 1",
        unit="1 − mean cosine",
        rule=Larger(0.5),
        because="less than half of it removed leaves shards that are more alike than not",
        seconds=8,
        measure=bat_separates,
    ),
    Claim(
        id="colinear-limits",
        claim="Colinear shards limit what MiSS can learn.",
        said="DiSHA v6 §3.4",
        test="a frozen orthogonal factor of equal rank and gain, whose shards are not colinear, on "
        "a dense target, which favours neither (r = 16 of 64): reach, and the test loss at "
        "tuned rates",
        unit="share of ‖M‖², or of the unadapted loss, that the control learns more",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=15,
        measure=colinear_limits,
        seeds=100,
    ),
    Claim(
        id="bat-full-rank-rich",
        claim="Its full rank lets Bat express more than MiSS with as many numbers.",
        said="DiSHA v6 §3.4",
        test="reach of both on four kinds of target, on the toy's first layer",
        unit="share of ‖M‖² that Bat reaches more",
        rule=Larger(1 / WIDTH),
        because="one more rank of 64 would reach 1/64 more of a dense target",
        seconds=3,
        measure=bat_full_rank_rich,
    ),
    Claim(
        id="bat-beats-miss",
        claim="Bat performs better than MiSS.",
        said="README of MiSS; DiSHA v6 Table 4",
        test="both with as many numbers, each at its best rate on other seeds, on four kinds of "
        "teacher; test loss at the step of least validation loss",
        unit="share of the unadapted loss that Bat leaves less",
        rule=Larger(INTERESTING),
        because=BECAUSE,
        seconds=40,
        measure=bat_beats_miss,
        seeds=60,
    ),
)
