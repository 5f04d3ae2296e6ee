"""Claims on figures that others published: do they add up, and would they be found again?

PEFT's benchmark has one run per method, with one seed. What a repetition of such a run gives is
known from configurations that were run in January and in July 2026 with one script: their
differences, less what all have in common, are the noise here. Another seed, or other questions, are
not in it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from missviz.analysis.pareto import binomial_deviation, on_front
from missviz.claims.claim import Claim, Evidence, Exact, Larger, Probable
from missviz.published import table as published_table
from missviz.randomness import generator_for, normal

QUESTIONS = 1319
"""In GSM8K's test set."""
DRAWS = 1000
LORA, MISS, BAT = "lora-rank32", "miss-default", "miss-bat"
LORA_FA = "lora-rank32-lorafa"
LEAST = 0.3
"""Accuracy from which on a rerun counts for the noise: who answers nothing repeats that exactly."""
JANUARY, LATEST = "2026-01", "2026-07"
"""Two months in which most were run. The later is the benchmark as it stands, with August."""
SCRIPTS = {
    ("2025-06", JANUARY): "changed",
    ("2025-10", JANUARY): "changed",
    (JANUARY, LATEST): "the same",
}
"""Of the benchmark between two months: peft#2894 took a `gc.collect()` out of every step."""


# --- The benchmark's runs, and how they repeat ------------------------------------------------


def runs() -> pd.DataFrame:
    """All published runs, MiSS and Bat under one name: Bone is what MiSS was called before."""
    found = published_table("peft_history")
    names = found["experiment"].str.replace("bone-", "miss-")
    return found.assign(experiment=names, month=found["date"].str[:7])


def latest() -> pd.DataFrame:
    """The last run of each experiment since July 2026, by experiment."""
    now = runs().query("month >= @LATEST").sort_values("date", kind="stable")
    return now.drop_duplicates("experiment", keep="last").set_index("experiment")


def changes(column: str, before: str, after: str, *, share: bool) -> pd.Series:
    """What became of a figure between two months, by experiment that was run in both: the
    difference, or the logarithm of the ratio."""
    mean = runs().groupby(["month", "experiment"])[column].mean()
    pair = pd.concat([mean[before], mean[after]], axis=1, keys=["before", "after"]).dropna()
    if share:
        pair = np.log(pair)
    return pair["after"] - pair["before"]


def noise(column: str, *, share: bool) -> Float[np.ndarray, " pair"]:
    """Errors of a run, one per pair of reruns: a difference strays √2 times as far as one run.

    Left out are those that learnt too little to be noisy, and LoRA-FA's memory, which rose by a
    tenth for a reason (`lora-fa-memory`).
    """
    found = changes(column, JANUARY, LATEST, share=share)
    learnt = runs().groupby("experiment")["accuracy"].min() > LEAST
    found = found[learnt[found.index]].drop(LORA_FA if column == "memory_bytes" else [])
    values = found.to_numpy()
    return (values - values.mean()) * math.sqrt(len(values) / (len(values) - 1) / 2)


def published_difference(
    one: str, other: str, column: str = "accuracy", *, share: bool = False
) -> Evidence:
    """`one` − `other` over all periods in which both ran: accuracies in points, logarithms of
    ratios where `share`. The interval is from what the reruns of all methods scatter."""
    scatter = noise(column, share=share)
    unit = 1.0 if share else 100.0
    both = runs()[lambda table: table["experiment"].isin([one, other])]
    values = np.log(both[column]) if share else both[column]
    by_month = values.groupby([both["month"], both["experiment"]]).agg(["mean", "size"]).unstack()
    by_month = by_month.dropna()
    differences = unit * (by_month["mean", one] - by_month["mean", other])
    weights = 1 / (1 / by_month["size", one] + 1 / by_month["size", other])
    effect = float((weights * differences).sum() / weights.sum())
    deviation = unit * float(np.sqrt((scatter**2).mean()))
    half = student(len(scatter) - 1) * deviation / math.sqrt(weights.sum())
    return Evidence(
        effect,
        effect - half,
        effect + half,
        int(by_month["size"].to_numpy().sum()),
        {"by month": differences.round(3).to_dict(), "deviation of one run": deviation},
    )


def student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def bat_beats_miss_published() -> Evidence:
    """Points of accuracy by which Bat is ahead of MiSS in PEFT's benchmark, six runs each."""
    return published_difference(BAT, MISS)


# --- Do they add up, would they be found again ------------------------------------------------


def tables_add_up(seeds: Sequence[int], device: str) -> Evidence:
    columns = ["source", "model", "method", "group"]
    table = published_table("miss_tables").fillna({"group": ""})
    printed = table[table["task"] == "average"].set_index(columns)["value"]
    means = table[table["task"] != "average"].groupby(columns, sort=False)["value"].mean()
    apart = (means - printed).round(4)
    wrong = apart[apart.abs() > ROUNDING]
    examples = {
        " ".join(row[1:]).strip(): {
            "printed": float(printed[row]),
            "is": round(float(means[row]), 2),
        }
        for row in wrong.index
    }
    return Evidence.exact(float(apart.abs().max()), len(apart), do_not_add_up=examples)


ROUNDING = 0.01
AXES = {
    "memory": "memory_bytes",
    "training time": "train_seconds",
    "file size": "file_bytes",
    "trained numbers": "num_parameters",
}


def on_the_front(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """The interval is from bootstrap samples of the reruns, ten per seed: the noise itself is
    known from so many pairs."""
    table = published_table("peft_benchmark")
    place = int(table.index[table["experiment"] == MISS][0])
    images = published_table("peft_image_gen")
    there = int(images.index[images["experiment"] == MISS][0])
    found = {}
    for name, column in AXES.items():
        costs = table[column].to_numpy(dtype=float)
        errors = noise("accuracy", share=False), np.zeros(1)
        if column in ("memory_bytes", "train_seconds"):
            errors = errors[0], noise(column, share=True)
        published = on_front(costs, table["accuracy"].to_numpy())
        chances = [_chance(table["accuracy"].to_numpy(), costs, errors, place, None)]
        chances += [
            _chance(table["accuracy"].to_numpy(), costs, errors, place, (seed, n))
            for seed in seeds
            for n in range(10)
        ]
        low, high = np.quantile(chances, (0.025, 0.975))
        seen: dict[str, Any] = {"as published": bool(published[place])}
        if column in images:
            fronts = on_front(images[column].to_numpy(float), images["similarity"].to_numpy())
            seen["on the front of image generation, as published"] = bool(fronts[there])
        found[name] = Evidence(chances[0], float(low), float(high), len(errors[0]), seen)
    return found


def _chance(
    accuracies: Float[np.ndarray, " method"],
    costs: Float[np.ndarray, " method"],
    errors: tuple[Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]],
    place: int,
    sample: tuple[int, int] | None,
) -> float:
    """How often the method at `place` is on the front, if all are run again."""
    spreads = []
    for part in errors:
        if sample is not None:
            part = resampled(part, *sample, "reruns")
        spreads.append(float(np.sqrt((part**2).mean())))
    shape = (2, DRAWS, len(costs))
    accuracy, cost = normal(shape, 1.0, generator_for("front")).numpy()
    again = accuracies + spreads[0] * accuracy
    dearer = costs * np.exp(spreads[1] * cost)
    cheaper = dearer <= dearer[:, [place]]
    better = (again > again[:, [place]]) & cheaper
    return float(1 - better.any(axis=1).mean())


def more_accurate_than_lora(seeds: Sequence[int], device: str) -> Evidence:
    found = published_difference(MISS, LORA)
    share = float(latest().loc[LORA, "accuracy"])
    deviation = 100 * math.sqrt(2) * float(binomial_deviation(np.array([share]), QUESTIONS)[0])
    more = {"deviation if other questions were asked, at most": round(deviation, 2)}
    return Evidence(found.effect, found.low, found.high, found.n, {**found.seen, **more})


def carries_over(seeds: Sequence[int], device: str) -> Evidence:
    """Spearman's ρ between the two benchmarks, over families, the best configuration of each; the
    interval from bootstrap samples of families, one per seed."""
    pairs = {
        "quality": ("accuracy", "similarity"),
        "forgetting and drift": ("forgetting", "drift"),
        "memory": ("memory_bytes", "memory_bytes"),
        "time": ("train_seconds", "train_seconds"),
    }
    here, there = latest(), published_table("peft_image_gen")
    best_here, best_there = (
        table.sort_values(quality).drop_duplicates("family", keep="last").set_index("family")
        for table, quality in ((here, "accuracy"), (there, "similarity"))
    )
    found = {}
    for name, (first, second) in pairs.items():
        both = pd.concat([best_here[first], best_there[second]], axis=1).dropna()
        values = both.to_numpy()
        samples = [
            spearman(resampled(values, seed, n, "families")) for seed in seeds for n in range(100)
        ]
        low, high = np.quantile(samples, (0.025, 0.975))
        found[name] = Evidence(spearman(values), float(low), float(high), len(values))
    quality = found.pop("quality")
    others = {name: [one.effect, one.low, one.high] for name, one in found.items()}
    return Evidence(quality.effect, quality.low, quality.high, quality.n, others)


def resampled(values: np.ndarray, *key: object) -> np.ndarray:
    """A bootstrap sample: as many, drawn with repetition."""
    chosen = torch.randint(len(values), (len(values),), generator=generator_for(*key))
    return values[chosen.numpy()]


def spearman(values: Float[np.ndarray, "family 2"]) -> float:
    ranks = pd.DataFrame(values).rank().to_numpy()
    return float(np.corrcoef(ranks.T)[0, 1])


def forgets_more(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """How many times as much MiSS forgets as LoRA in PEFT's benchmark, by both its measures.

    The measure was changed between January and July 2026. By the older one MiSS and Bat were run
    twice, as Bone too: what such pairs differ by is all that is known of its noise.
    """
    table = runs().dropna(subset="forgetting").query("month in (@JANUARY, @LATEST)")
    logs = np.log(table["forgetting"].where(table["forgetting"] > 0))
    groups = logs.groupby([table["month"], table["experiment"]])
    twice = groups.agg(["var", "size"])[groups.size() == 2]
    deviation, freedom = math.sqrt(float(twice["var"].mean())), len(twice)
    means, sizes = groups.mean(), groups.size()
    found = {}
    for name, month in (("published, January 2026", JANUARY), ("published, July 2026", LATEST)):
        effect = means[month, MISS] - means[month, LORA]
        half = (
            student(freedom)
            * deviation
            * math.sqrt(1 / sizes[month, MISS] + 1 / sizes[month, LORA])
        )
        ratio, low, high = (math.exp(effect + part) for part in (0, -half, half))
        shown = ("lora-rank64-rslora", "full-finetuning-lr_0.00001", MISS, LORA)
        seen = {one: round(math.exp(means[month, one]), 3) for one in shown}
        found[name] = Evidence(ratio, low, high, int(sizes[month, MISS] + sizes[month, LORA]), seen)
    return found


def benchmark_got_faster(seeds: Sequence[int], device: str) -> Evidence:
    """Only where the script stayed the same does a ratio of times say something of the software."""
    seen = {}
    software = runs().groupby("month")["torch"].first().str.split("+").str[0]
    for (before, after), script in SCRIPTS.items():
        ratios = np.exp(changes("train_seconds", before, after, share=True))
        seen[f"{before} to {after}, torch {software[before]} to {software[after]}"] = {
            "median ratio of times": round(float(np.median(ratios)), 3),
            "n": len(ratios),
            "script": script,
        }
    same_script = changes("train_seconds", JANUARY, LATEST, share=True)
    return Evidence.of(1 - np.exp(same_script), **seen)


CLAIMS = (
    Claim(
        id="tables-add-up",
        claim="The averages that the MiSS paper prints are those of their rows.",
        said="MiSS v12 Tables 4-6",
        test="each printed average beside the mean of its row",
        unit="points",
        rule=Exact(ROUNDING),
        because="cells and averages are rounded to 0.01, each by at most half of that",
        seconds=1,
        measure=tables_add_up,
        seeds=1,
    ),
    Claim(
        id="on-the-front",
        claim="MiSS is on the front of accuracy against cost.",
        said="MiSS v12 §4 and Table 8; PEFT's benchmark of July 2026, MiSS r=64",
        test="on how many repetitions nobody is as cheap and more accurate, by how reruns scatter",
        unit="probability",
        rule=Probable(0.9),
        because="nine times in ten",
        seconds=5,
        measure=on_the_front,
    ),
    Claim(
        id="more-accurate-than-lora",
        claim="MiSS r=64 is more accurate than LoRA r=32 on MetaMathQA.",
        said="MiSS v12 Table 8: 50.8 against 48.2 %",
        test="all published runs of both, paired by month; noise from the reruns of all methods",
        unit="points of accuracy",
        rule=Larger(1.0),
        because="a point is 13 of 1319 questions, and less than half of what was claimed",
        seconds=1,
        measure=more_accurate_than_lora,
        seeds=1,
    ),
    Claim(
        id="forgets-more-published",
        claim="MiSS forgets more than LoRA.",
        said="PEFT's benchmark of July 2026: 0.20 against 0.05 nats on other text",
        test="rise of the loss on other text, MiSS r=64 over LoRA r=32, by both published measures",
        unit="times as much",
        rule=Larger(1.25),
        because="a quarter more; two runs of one configuration differ by up to a tenth",
        seconds=1,
        measure=forgets_more,
        seeds=1,
    ),
    Claim(
        id="carries-over",
        claim="The order of methods on one task carries over to another.",
        said="implied wherever one benchmark ranks methods; PEFT has two",
        test="ranks of families on MetaMathQA against image generation, best of each",
        unit="Spearman's ρ",
        rule=Larger(0.5),
        because="at 0.5 who is better on one task is better on the other two times in three",
        seconds=10,
        measure=carries_over,
    ),
    Claim(
        id="benchmark-got-faster",
        claim="Newer software made PEFT's benchmark faster: it took 0.6 of the time.",
        said="lesson 08, before November 2026",
        test="times of January against July 2026, same script, newer torch and transformers",
        unit="share of the time that is saved",
        rule=Larger(0.1),
        because="a quarter of what was said; times repeat to about 3 %",
        seconds=1,
        measure=benchmark_got_faster,
        seeds=1,
    ),
)
