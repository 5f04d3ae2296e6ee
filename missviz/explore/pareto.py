"""Is "on the front" praise? PEFT's published benchmark, and how sure it is who is on its fronts."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from missviz import published
from missviz.analysis.pareto import (
    FrontUnderNoise,
    RerunNoise,
    binomial_deviation,
    front_under_noise,
    rerun_noise,
)
from missviz.displays.pareto import ParetoDisplay
from missviz.explore.panel import Panel

QUESTIONS = 1319
"""In GSM8K's test set, on which the accuracies were measured."""
LEAST = 0.3
"""Accuracy from which on a configuration counts for the rerun noise: one that learnt nothing
repeats its zero exactly."""
NAMED = (
    "MiSS r=64",
    "MiSS mini 64×64",
    "Bat b=64",
    "LoRA r=32",
    "rsLoRA r=64",
    "DoRA r=32",
    "VeRA r=256",
    "full fine-tuning",
    "C3A",
    "TinyLoRA",
)
EXPERIMENTS = {"c3a-default": "C3A", "tinylora-weight-tying": "TinyLoRA"}
"""Names of two of the benchmark's methods that missviz does not have."""


@dataclass(frozen=True)
class Cost:
    """One column of the benchmark, and how it is drawn."""

    column: str
    label: str
    limits: tuple[float, float]
    ticks: dict[float, str]
    cut: tuple[float, float] | None = None
    """Where the axis is cut: between these only nothing lies."""


GB = 1e9
COSTS = {
    "trained numbers": Cost(
        "num_parameters",
        "trained numbers",
        (20, 2e10),
        {1e2: "100", 1e4: "10⁴", 1e6: "10⁶", 1e8: "10⁸", 1e10: "10¹⁰"},
    ),
    "file size": Cost(
        "file_bytes",
        "size of the saved file",
        (4e2, 2e10),
        {1e3: "1 kB", 1e5: "100 kB", 1e7: "10 MB", 1e9: "1 GB"},
    ),
    "memory": Cost(
        "memory_bytes",
        "most memory used in training",
        (19.3 * GB, 41 * GB),
        {gb * GB: f"{gb} GB" for gb in (20, 23, 26, 40)},
        (27 * GB, 37 * GB),
    ),
    "train time": Cost(
        "train_seconds",
        "time in training",
        (650, 8000),
        {minutes * 60: f"{minutes} min" for minutes in (15, 30, 60, 120)},
    ),
    "total time": Cost(
        "total_seconds",
        "time with evaluation",
        (800, 11000),
        {minutes * 60: f"{minutes} min" for minutes in (20, 40, 80, 160)},
    ),
    "forgetting": Cost(
        "forgetting",
        "forgetting: rise of loss on other text (noise not known)",
        (1e-4, 3),
        {1e-3: "0.001", 1e-2: "0.01", 0.1: "0.1", 1: "1"},
    ),
}
NOISES = {
    "none": "each run taken as exact",
    "reruns": "if all were trained again",
    "questions": "if other questions were asked",
    "both": "new runs and new questions",
}


def pareto(cost: str = "memory", noise: str = "reruns", *, reveal: bool = True) -> Panel:
    """Cost against accuracy of 63 published configurations, and P(on the front) of each.

    The figures are PEFT's MetaMathQA benchmark (Llama-3.2-3B, one run each). A method is on the
    front if no other is as cheap and as accurate, and better in one of the two. P is the share of
    4000 repetitions in which it is, if the published accuracies were the true ones:

        none        nothing is repeated; P is 0 or 1
        reruns      training is, and so are the answers to the same questions: 0.53 of the binomial
                    deviation, from repeated runs (`rerun_spread`)
        questions   other questions are drawn: binomial, each method on its own. All methods
                    answered the same ones, so for a difference this is too much
        both        the two added; reruns are partly in the binomial, so this is too much as well

    Costs are taken as exact, forgetting too: how much it varies between runs is not known.

    Args:
        cost: "trained numbers", "file size", "memory", "train time", "total time" or "forgetting".
        noise: "none", "reruns", "questions" or "both".
        reveal: False hides band, halos and P until `panel.reveal()`.
    """
    choices = {"cost": list(COSTS), "noise": list(NOISES)}
    for column in COSTS:
        for kind in NOISES:
            _front(column, kind)
    return Panel("pareto", _display, choices, {"cost": cost, "noise": noise}, reveal=reveal)


def rerun_spread() -> RerunNoise:
    """How much accuracies vary when a configuration is trained again, from all dated runs of
    configurations that reached an accuracy of 0.3 (`missviz.published`)."""
    now = published.table("peft_benchmark").assign(period="2026-07")
    before = published.table("peft_reruns").dropna(subset="period")
    runs = pd.concat([before, now[now["experiment"].isin(before["experiment"])]])
    runs = runs[runs.groupby("experiment")["accuracy"].transform("min") > LEAST]
    return rerun_noise(runs["experiment"], runs["period"], runs["accuracy"], QUESTIONS)


@lru_cache
def _benchmark() -> tuple[pd.DataFrame, float]:
    """The table with the named methods first, "" for the names of all others; the rerun ratio."""
    table = published.table("peft_benchmark")
    names = table["method"].fillna(table["experiment"].map(EXPERIMENTS))
    table["name"] = names.where(names.isin(NAMED), "")
    order = table["name"].map((*NAMED, "").index).sort_values(kind="stable").index
    return table.loc[order], rerun_spread().ratio


@lru_cache
def _front(cost: str, noise: str) -> FrontUnderNoise:
    table, ratio = _benchmark()
    accuracies = table["accuracy"].to_numpy()
    share = {"none": 0.0, "reruns": ratio, "questions": 1.0, "both": float(np.hypot(ratio, 1))}
    deviations = share[noise] * binomial_deviation(accuracies, QUESTIONS)
    return front_under_noise(table[COSTS[cost].column].to_numpy(), accuracies, deviations)


def _display(cost: str, noise: str) -> ParetoDisplay:
    table, _ = _benchmark()
    shown = COSTS[cost]
    return ParetoDisplay(
        costs=table[shown.column].to_numpy(dtype=float),
        accuracies=table["accuracy"].to_numpy(),
        names=table["name"].tolist(),
        front=_front(cost, noise),
        cost=shown.label,
        limits=shown.limits,
        ticks=shown.ticks,
        cut=shown.cut,
        noise=NOISES[noise],
        note="published: PEFT benchmark, July and August 2026, one run each",
    )
