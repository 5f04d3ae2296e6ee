"""Claims on fine-tuning, tried on MiniLM: every method at its best rate (`missviz.real_network`).

The runs take hours, so that what is judged are those that ship; with seeds of your own they are
made anew. Differences are paired: a seed has the same head, batches and splits in every method.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from missviz.claims.claim import Claim, Evidence, Larger, Measured, Same
from missviz.experiments.runs import Runs
from missviz.networks.tasks import TRANSFER
from missviz.real_network.parts import PARTS, Part
from missviz.real_network.storage import stored, stored_parts

LORA, PISSA, MISS, BAT, FULL = "LoRA r=8", "PiSSA r=8", "MiSS r=16", "Bat b=16", "full fine-tuning"
CONTESTS = {"sentiment": "sentiment", "swapped words": "swapped-words"}
"""Tasks on which every method ran, and the parts that they are."""
HALF_STEP = 0.25
"""Half of the distance between two rates of the grid, in decades: a best rate is known to that."""


def figures(runs: Runs, method: str, split: str) -> Float[np.ndarray, " seeds"]:
    """One accuracy per seed, at the step where a run stopped."""
    rows = runs.losses
    rows = rows[(rows["method"] == method) & (rows["split"] == split)]
    accuracy: np.ndarray = rows.sort_values("seed")["accuracy"].to_numpy()
    return accuracy


def points(runs: Runs, method: str, other: str, split: str = "test") -> Evidence:
    """By how many percentage points a method is more accurate than another."""
    gap = 100 * (figures(runs, method, split) - figures(runs, other, split))
    means = {name: float(figures(runs, name, split).mean()) for name in (method, other)}
    return Evidence.of(gap, accuracy=means)


Read = Callable[[Mapping[str, Runs]], Measured]
"""What runs say, by part."""


def measured_on(parts: Sequence[str], read: Read) -> dict[str, Any]:
    """`measure`, `stored` and `code` of a claim that is read off the runs of these parts."""

    def measure(seeds: Sequence[int], device: str) -> Measured:
        cache = Path.home() / ".cache" / "missviz" / "real-network"
        runs = {
            part: PARTS[part].run(seeds=seeds, device=device, cache=cache, progress=True)
            for part in parts
        }
        return read(runs)

    def from_store() -> tuple[Measured, dict[str, Any]] | None:
        there = [part for part in parts if part in stored_parts()]
        if not there:
            return None
        runs = {part: stored(part) for part in there}
        made = [run.settings["made"] for run in runs.values()]
        return read(runs), {
            **made[0],
            "seeds": runs[there[0]].settings["seeds"],
            "seconds": sum(one["seconds"] + one["tuning_seconds"] for one in made),
        }

    return {"measure": measure, "stored": from_store, "code": Part.run}


def contest(read: Callable[[Runs], Evidence | dict[str, Evidence]]) -> dict[str, Any]:
    """The same question to every task on which all methods ran."""

    def on_all(runs: Mapping[str, Runs]) -> Measured:
        found: dict[str, Evidence] = {}
        for task, part in CONTESTS.items():
            if part in runs:
                said = read(runs[part])
                each = {"": said} if isinstance(said, Evidence) else said
                found |= {f"{task}{', ' * bool(name)}{name}": one for name, one in each.items()}
        return found

    return measured_on(tuple(CONTESTS.values()), on_all)


def glue_like(runs: Runs) -> dict[str, Evidence]:
    return {f"against {other}": points(runs, MISS, other) for other in (LORA, PISSA)}


def tuned_are_equal(runs: Runs) -> Evidence:
    """From the best to the worst adapter, in points. Both are picked after the fact, so that the
    range of equal methods would not be 0 either: that makes the claim harder, not easier."""
    names = [name for name in runs.settings["methods"] if name != FULL]
    accuracy = 100 * np.array([figures(runs, name, "test") for name in names])
    order = accuracy.mean(axis=1).argsort()
    best, worst = names[order[-1]], names[order[0]]
    means = dict(zip(names, accuracy.mean(axis=1).round(2).tolist(), strict=True))
    found = points(runs, best, worst)
    return Evidence(found.effect, found.low, found.high, found.n, {"accuracy": means})


def transfers(runs: Mapping[str, Runs]) -> Measured:
    (sentiment,) = runs.values()
    return {name: points(sentiment, MISS, LORA, name) for name in TRANSFER}


def forgets_more(runs: Mapping[str, Runs]) -> Measured:
    (sentiment,) = runs.values()
    found = points(sentiment, LORA, MISS, "topics")
    before = sentiment.baselines
    before = before[(before["split"] == "topics") & (before["baseline"] == "unadapted")]
    seen = {**found.seen, "before": float(before["accuracy"].mean())}
    return Evidence(found.effect, found.low, found.high, found.n, seen)


def rate_ratio(runs: Runs) -> Evidence:
    """Decades by which LoRA's best rate lies above full fine-tuning's, less one."""
    assert runs.tuning is not None
    chosen = runs.tuning[runs.tuning["chosen"]].set_index("method")["learning_rate"]
    decades = float(np.log10(chosen[LORA] / chosen[FULL]))
    rates = {name: float(chosen[name]) for name in (LORA, FULL)}
    return Evidence(decades - 1, decades - 1 - HALF_STEP, decades - 1 + HALF_STEP, 1, rates)


def faster(runs: Runs) -> Evidence:
    """How much lower PiSSA's validation loss is than LoRA's on the way, as a share of it."""
    losses = runs.losses[runs.losses["split"] == "valid"]
    on_the_way = losses[(losses["step"] > 0) & (losses["step"] < losses["step"].max())]
    wide = on_the_way.pivot_table(index="seed", columns="method", values="loss")
    return Evidence.of(((wide[LORA] - wide[PISSA]) / wide[LORA]).to_numpy())


def rank_helps(runs: Mapping[str, Runs]) -> Measured:
    (ranks,) = runs.values()
    names = list(ranks.settings["methods"])
    found = {}
    for family in ("LoRA", "MiSS"):
        own = [name for name in names if name.startswith(f"{family} ")]
        gain = points(ranks, own[-1], own[0])
        means = {name: float(figures(ranks, name, "test").mean()) for name in own}
        found[family] = Evidence(gain.effect, gain.low, gain.high, gain.n, {"accuracy": means})
    return found


def mlp_beats_attention(runs: Mapping[str, Runs]) -> Measured:
    if len(runs) < 2:
        return {}
    attention, mlp = runs["attention"], runs["mlp"]
    found = {}
    for there, here in zip(attention.settings["methods"], mlp.settings["methods"], strict=True):
        gap = figures(mlp, here, "test") - figures(attention, there, "test")
        found[here.split(" ")[0]] = Evidence.of(100 * gap)
    return found


HOURS = 7200.0
IN_POINTS: dict[str, Any] = {
    "unit": "percentage points",
    "rule": Larger(1.0),
    "because": "a point of accuracy is what papers print tables for; 1000 sentences give ±1.2",
    "seconds": HOURS,
}
"""A claim that some accuracy is higher."""
CLAIMS = (
    Claim(
        id="glue-like",
        claim="MiSS is more accurate than LoRA and PiSSA on sentence classification.",
        said="MiSS v12 Table 4",
        test="MiniLM, rates tuned, equal trained numbers, test accuracy seed by seed",
        **IN_POINTS,
        **contest(glue_like),
    ),
    Claim(
        id="tuned-are-equal",
        claim="Once each has its best rate, adapters end within two points of each other.",
        said="arXiv 2602.04998 (nine variants of LoRA)",
        test="MiniLM, the best and the worst of eight adapters with equal numbers",
        unit="percentage points",
        rule=Same(2.0),
        because="the paper says 1-2 %",
        seconds=HOURS,
        **contest(tuned_are_equal),
    ),
    Claim(
        id="transfers",
        claim="Sharing shards helps to carry over what was learnt.",
        said="an open question of MiSS's readers: does it help, or harm?",
        test="trained on Rotten Tomatoes, tested elsewhere; MiSS minus LoRA, seed by seed",
        **IN_POINTS,
        **measured_on(("sentiment",), transfers),
    ),
    Claim(
        id="forgets-more-minilm",
        claim="MiSS forgets more than LoRA on a real network.",
        said="PEFT's MetaMathQA benchmark: four times the drift on other text",
        test="MiniLM after sentiment: probe on BBC topics, LoRA's accuracy minus MiSS's",
        **IN_POINTS,
        **measured_on(("sentiment",), forgets_more),
    ),
    Claim(
        id="attention-or-mlp",
        claim="At equal numbers it is better to adapt the MLP than attention.",
        said="LoRA Without Regret; peft#2845",
        test="MiniLM, all of either in three layers, equal numbers, rates tuned",
        **IN_POINTS,
        seeds=5,
        **measured_on(("attention", "mlp"), mlp_beats_attention),
    ),
    Claim(
        id="same-rate-ten-times",
        claim="LoRA's best rate is about ten times that of full fine-tuning.",
        said="LoRA Without Regret",
        test="MiniLM, the rates that validation chose, from half decades",
        unit="decades beyond one",
        rule=Same(0.75),
        because="between 1.8 and 56 times one would still say: about ten, and not the same",
        seconds=HOURS,
        **contest(rate_ratio),
    ),
    Claim(
        id="pissa-faster-minilm",
        claim="PiSSA converges faster than LoRA, each at its best rate, on a real network.",
        said="PiSSA §5; MiSS v12 §1",
        test="MiniLM, validation loss between the first look and the last, as a share of LoRA's",
        unit="share of LoRA's loss",
        rule=Larger(0.01),
        because="1 % of the loss is what the toy's rows ask for too",
        seconds=HOURS,
        **contest(faster),
    ),
    Claim(
        id="bat-beats-miss-minilm",
        claim="Bat performs better than MiSS on a real network.",
        said="README of PEFT's MiSS; DiSHA v6 Table 4",
        test="MiniLM, rates tuned, equal trained numbers, test accuracy seed by seed",
        **IN_POINTS,
        **contest(lambda runs: points(runs, BAT, MISS)),
    ),
    Claim(
        id="rank-helps-minilm",
        claim="More rank gives a better result on a real network.",
        said="MiSS v12 Table 7",
        test="MiniLM on sentiment, LoRA r = 64 against r = 2, MiSS with as many numbers",
        **IN_POINTS,
        seeds=5,
        **measured_on(("ranks",), rank_helps),
    ),
)
