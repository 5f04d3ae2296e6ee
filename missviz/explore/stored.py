"""Runs that ship with missviz, so that a panel on training opens at once: tables, and where from.

`make stored` runs everything anew (a few minutes) and writes the tables and the gallery's
thumbnails; `make thumbnails` writes only those.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from missviz.adapters.base import Method
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.mos import MoS
from missviz.analysis.reach import reach
from missviz.analysis.sharing import curves_of, sharing_table
from missviz.experiments.arguments import FIRST_SEED, core_methods
from missviz.experiments.no_free_lunch import no_free_lunch
from missviz.experiments.races import LAYER, RATES, SEEDS, SPLITS, RaceRuns
from missviz.experiments.tasks import TARGETS, base_models
from missviz.machine import conditions
from missviz.randomness import generator_for

FOLDER = Path(__file__).parent / "stored"
BUDGETS = (128, 256, 512)
ALIKE = tuple(tenths / 10 for tenths in range(11))
SHARED_BUDGETS = (2, 3, 4)
WANTED = (2, 4, 8)


def load(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A stored table, and what it depends on: methods, seeds, commit, machine, versions."""
    return pd.read_csv(FOLDER / f"{name}.csv.gz"), about(name)


def about(name: str) -> dict[str, Any]:
    """What a stored table depends on."""
    told: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return told


def label(told: dict[str, Any]) -> str:
    """What a picture says of runs that were not made now."""
    return f"stored run: {told['seeds']} seeds, commit {told['commit']}, {told['machine']}"


def table_and_note(
    name: str, fresh: bool, compute: Callable[[], pd.DataFrame]
) -> tuple[pd.DataFrame, str]:
    """The stored table and its label; with `fresh` what `compute` gives, which needs none."""
    if fresh:
        return compute(), ""
    table, told = load(name)
    return table, label(told)


def race_table(methods: Sequence[Method], seeds: int = SEEDS) -> pd.DataFrame:
    """Losses of the race at shared rates: one row per second_layer, learning_rate, split, method
    and seed; also constant (the constant predictor's loss) and 0, 1, … (the loss after as many
    steps).

    All seeds, not their means: differences between methods are taken seed by seed.
    """
    runs = RaceRuns(methods, seeds=seeds, rates=RATES)
    rows = []
    for layer, rate, split in itertools.product(LAYER, RATES, SPLITS):
        for method, losses in runs.losses(rate, split, layer).items():
            rows += [
                {
                    "second_layer": layer,
                    "learning_rate": rate,
                    "split": split,
                    "method": method,
                    "seed": seed,
                    "constant": runs.constant(split),
                    **{str(step): loss for step, loss in enumerate(curve)},
                }
                for seed, curve in zip(runs.seeds, losses, strict=True)
            ]
    return pd.DataFrame(rows)


def budget_methods(budget: int) -> dict[str, Method]:
    """By family, the three methods whose shapes the targets have, with `budget` numbers each."""
    return {
        "LoRA": LoRA(budget // 128),
        "MiSS": MiSS(budget // 64),
        "columns": FixedFactor(budget // 64, "columns"),
    }


def lunch_table(seeds: int = SEEDS) -> pd.DataFrame:
    """Who wins where: one row per budget, target and method, with its test loss as a share of the
    unadapted network's, whether it wins, and the share of ‖M‖² that it cannot be, 1 − reach."""
    numbers = tuple(range(FIRST_SEED, FIRST_SEED + seeds))
    bases = base_models(numbers, torch.float32, torch.device("cpu"))
    weights = {n: base.state_dict()["fc1.weight"] for n, base in zip(numbers, bases, strict=True)}
    rows = []
    for budget in BUDGETS:
        methods = budget_methods(budget)
        runs = no_free_lunch(list(methods.values()), "teacher", seeds)
        tested = runs.summary()
        tested = tested[tested["metric"] == "test"].set_index(["target", "method"])["mean"]
        for target, make in TARGETS.items():
            best = runs.winner(target)
            wanted = [
                make(weight.double(), generator_for(seed, "target", target))
                for seed, weight in weights.items()
            ]
            for family, method in methods.items():
                missed = [1 - reach(method, update) for update in wanted]
                rows.append(
                    {
                        "budget": budget,
                        "target": target,
                        "family": family,
                        "method": method.name,
                        "share": tested[target, method.name] / tested[target, "unadapted"],
                        "wins": method.name == best,
                        "missed": sum(missed) / len(missed),
                    }
                )
    return pd.DataFrame(rows)


def sharing_methods(budget: int) -> dict[str, Method]:
    """By name, methods with `budget` pairs of vectors per layer; from the third on each differs
    from the one before in one switch of MoS. A layer's rank is then twice the budget."""
    rank = 2 * budget
    return {
        "LoRA": LoRA(budget),
        "pure sharing": MoS(None, budget, dissociate=False),
        "subset": MoS(rank, budget, dissociate=False),
        "+ pairs apart": MoS(rank, budget),
        "+ vectors cut": MoS(rank, budget, shards_per_vector=2),
        "full MoS": MoS(rank, budget, shards_per_vector=2, private=1),
    }


def sharing_curves(seeds: int = SEEDS) -> pd.DataFrame:
    """Shares in reach of what six layers want: one row per budget, wanted rank, method and c, with
    mean, low and high over seeds (95 %)."""
    drawn = range(FIRST_SEED, FIRST_SEED + seeds)
    tables = []
    for budget in SHARED_BUDGETS:
        for wanted in WANTED:
            table = sharing_table(sharing_methods(budget), ALIKE, rank=wanted, seeds=drawn)
            curves = curves_of(table).drop(columns="at_least")  # the methods tell
            tables.append(curves.assign(budget=budget, wanted=wanted))
    return pd.concat(tables, ignore_index=True)


# --- Writing them -----------------------------------------------------------------------------


def _about(methods: Sequence[Method]) -> dict[str, Any]:
    return {
        "seeds": SEEDS,
        "first_seed": FIRST_SEED,
        "methods": {method.name: repr(method) for method in methods},
        **conditions(),
    }


def _write(name: str, table: pd.DataFrame, methods: Sequence[Method]) -> None:
    FOLDER.mkdir(exist_ok=True)
    table.to_csv(
        FOLDER / f"{name}.csv.gz",
        index=False,
        float_format="%.6g",
        compression={"method": "gzip", "mtime": 0},  # the same table gives the same bytes
    )
    told = json.dumps(_about(methods), indent=2, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(told + "\n", encoding="utf-8")


def main() -> None:
    """Run everything and write the tables."""
    racers = core_methods()
    _write("race", race_table(racers), racers)
    budgets = [method for budget in BUDGETS for method in budget_methods(budget).values()]
    _write("lunch", lunch_table(), budgets)
    sharers = [method for budget in SHARED_BUDGETS for method in sharing_methods(budget).values()]
    _write("sharing", sharing_curves(), sharers)
    write_thumbnails()


def write_thumbnails() -> None:
    """The pictures of `missviz.gallery`."""
    from missviz.explore.gallery import THUMBNAILS, draw_thumbnails

    THUMBNAILS.mkdir(exist_ok=True)
    drawn = draw_thumbnails()
    for name, (_, picture) in drawn.items():
        (THUMBNAILS / f"{name}.png").write_bytes(picture)
    lines = {name: line for name, (line, _) in drawn.items()}
    written = json.dumps(lines, indent=2, ensure_ascii=False) + "\n"
    (THUMBNAILS / "lines.json").write_text(written, encoding="utf-8")
