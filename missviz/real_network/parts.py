"""The questions that are put to MiniLM, each one call of `fine_tune`.

What is the same in all: adapters in the upper three of six layers (what is below is then run once);
AdamW, 200 steps of 16 sentences; each method's rate chosen on other seeds by validation loss, from
half decades, more of them while the best is on the edge; a look at validation every 25 steps, test
and transfer at the best of these. All sizes were set before any result was seen, by what hours on
two cores allow.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from missviz import networks
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.dora import DoRA
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.experiments.fine_tuning.experiment import fine_tune
from missviz.experiments.runs import Runs
from missviz.experiments.tasks_on_networks import Task

WIDTH = 384
"""MiniLM's hidden features: each of its query and value layers is 384 × 384."""
UPPER = "*layer.[345]"
QUERY_AND_VALUE = (f"{UPPER}.attention.self.query", f"{UPPER}.attention.self.value")
ATTENTION = (*QUERY_AND_VALUE, f"{UPPER}.attention.self.key", f"{UPPER}.attention.output.dense")
MLP = (f"{UPPER}.intermediate.dense", f"{UPPER}.output.dense")
RANKS = (2, 4, 8, 16, 32, 64)


def contestants(rank: int = 8) -> tuple[Method, ...]:
    """LoRA of this rank on a square layer, and what trains as many numbers (DoRA 6 % more at 8);
    and all of the layers.

    MiSS's control is an orthogonal factor of its own gain √g, g = 384 / (2 rank), that is drawn
    and frozen.
    """
    thick = 2 * rank
    return (
        LoRA(rank),
        LoRA(thick, freeze_a=True),
        LoRA(rank, rslora=True),
        PiSSA(rank),
        DoRA(rank),
        MiSS(thick),
        Bat(thick),
        FixedFactor(thick, "orthogonal", gain=math.sqrt(WIDTH / thick)),
        FullFineTuning(),
    )


def pairs(ranks: Sequence[int]) -> tuple[Method, ...]:
    """LoRA of these ranks, and MiSS with as many numbers on square layers."""
    return tuple(method for rank in ranks for method in (LoRA(rank), MiSS(2 * rank)))


def sentiment() -> Task:
    return networks.sentiment(valid=400, test=1000, transfer=300)


def topics() -> Task:
    return networks.topics(train=200, valid=100, test=200, tokens=48)


@dataclass(frozen=True)
class Part:
    """One question, and the runs that answer it."""

    question: str
    task: Callable[[], Task]
    methods: tuple[Method, ...]
    targets: tuple[str, ...] = QUERY_AND_VALUE
    remembered: tuple[Callable[[], Task], ...] = ()
    seeds: int = 10
    tune_seeds: int = 3
    steps: int = 200
    batch_size: int = 16
    evaluate_every: int = 25

    def run(
        self,
        *,
        seeds: int | Iterable[int] | None = None,
        steps: int | None = None,
        device: str | None = None,
        cache: str | Path | None = None,
        executor: Executor | None = None,
        progress: bool = False,
    ) -> Runs:
        """Train everything; what None leaves open is the part's own. See `fine_tune`.

        Raises ModuleNotFoundError, which says what to install, where a package is absent.
        """
        settings: dict[str, Any] = {"device": device, "cache": cache, "executor": executor}
        return fine_tune(
            networks.minilm(),
            self.task(),
            self.methods,
            self.seeds if seeds is None else seeds,
            targets=self.targets,
            tune_seeds=self.tune_seeds,
            steps=self.steps if steps is None else steps,
            batch_size=self.batch_size,
            evaluate_every=self.evaluate_every,
            remembered=[task() for task in self.remembered],
            progress=progress,
            **settings,
        )


PARTS: Mapping[str, Part] = {
    "sentiment": Part(
        "Which method learns sentiment best, carries it over, and forgets least?",
        sentiment,
        contestants(),
        remembered=(topics,),
    ),
    "swapped-words": Part(
        "And where the frozen features know next to nothing: are the words in order?",
        networks.swapped_words,
        contestants(),
    ),
    "ranks": Part("Does more rank help?", sentiment, pairs(RANKS), seeds=5, tune_seeds=2),
    "attention": Part(
        "All of attention, with as many numbers as the part `mlp`",
        sentiment,
        (LoRA(10), MiSS(20)),
        ATTENTION,
        seeds=5,
    ),
    "mlp": Part(
        "The MLP, with as many numbers as the part `attention`",
        sentiment,
        (LoRA(8), MiSS(16)),
        MLP,
        seeds=5,
    ),
}
"""By name, the most valuable first."""
