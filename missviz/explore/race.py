"""Who wins, and when: the race of lesson 05, at every rate."""

import functools
from typing import Any

import pandas as pd

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.displays.base import Display
from missviz.displays.race import RaceDisplay
from missviz.experiments.arguments import checked_methods, core_methods
from missviz.explore import stored
from missviz.explore.panel import Panel, check_choices

HIGHEST = 1.2
"""End of the loss axis; at the largest rates some validation curves leave it."""


def race(
    *methods: Method,
    learning_rate: float = 1e-3,
    split: str = "train",
    second_layer: str = "trained",
    fresh: bool = False,
    reveal: bool = True,
) -> Panel:
    """ "No free lunch" as a race: loss against step; controls: learning_rate, split, second_layer.

    All methods run at the rate that the slider shows. With the second layer trained, as in the
    published protocol, MiSS leads at small rates; with it frozen the order changes with the rate.

    Args:
        methods: who runs, on a 64 × 64 layer; none means full fine-tuning, LoRA, PiSSA,
            MiSS and MiSS's control.
            Stored runs are drawn where there are any, else they are made first (some seconds).
        learning_rate: 0.0003, 0.001, 0.003, 0.01 or 0.03.
        split: "train" or "valid".
        second_layer: "trained" or "frozen".
        fresh: train now, even where stored runs exist.
        reveal: False hides the curves until `panel.reveal()`.
    """
    choices: dict[str, list[Any]] = {
        "learning_rate": list(stored.RATES),
        "split": list(stored.SPLITS),
        "second_layer": list(stored.LAYER),
    }
    values = {"learning_rate": learning_rate, "split": split, "second_layer": second_layer}
    # Before anything is trained.
    check_choices("race", choices, values)
    validation.boolean("fresh", fresh)
    validation.boolean("reveal", reveal)
    chosen = checked_methods(methods or core_methods(), "published")
    table, note = _table(chosen, fresh)
    points = dict(iter(table.groupby(["learning_rate", "split", "second_layer"])))

    def display(learning_rate: float, split: str, second_layer: str) -> Display:
        curves = points[learning_rate, split, second_layer]
        return RaceDisplay(
            curves=curves,
            split=split,
            constant=float(curves["constant"].iloc[0]),
            seeds=stored.SEEDS,
            limit=HIGHEST,
            note=note,
        )

    fixed = {"fresh": True} if fresh else {}
    return Panel("race", display, choices, values, given=methods, fixed=fixed, reveal=reveal)


def _table(methods: tuple[Method, ...], fresh: bool) -> tuple[pd.DataFrame, str]:
    """Curves of these methods, and what the picture says of where they come from."""
    table, about = stored.load("race")
    if fresh or any(about["methods"].get(method.name) != repr(method) for method in methods):
        return _trained_now(methods), ""
    names = [method.name for method in methods]
    return table[table["method"].isin(names)], stored.label(about)


@functools.lru_cache(maxsize=4)
def _trained_now(methods: tuple[Method, ...]) -> pd.DataFrame:
    return stored.race_table(methods)
