"""Who wins, and when: the race of lesson 05, at every rate."""

import functools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.trial import on_layer, random_linear
from missviz.displays.base import Display
from missviz.displays.race import RaceDisplay
from missviz.experiments.arguments import checked_methods, core_methods
from missviz.experiments.data import checked_data
from missviz.experiments.races import LAYER, RATES, SPLITS, RaceRuns
from missviz.experiments.runs import chosen_reference
from missviz.experiments.tasks import WIDTH
from missviz.explore import stored
from missviz.explore.panel import Panel
from missviz.explore.view import check_choices
from missviz.explore.weights import Name

Losses = dict[str, Float[np.ndarray, "seeds steps1"]]


def race(
    *methods: Any,
    learning_rate: float = 1e-3,
    split: str = "train",
    second_layer: str = "trained",
    data: Any = None,
    reference: str | None = None,
    fresh: bool = False,
    reveal: bool = True,
) -> Panel:
    """ "No free lunch" as a race: loss against step, and seed by seed what each method has more or
    less than one of them; controls: learning_rate, split, second_layer.

    All methods run at the rate that the slider shows. With the second layer trained, as in the
    published protocol, MiSS leads at small rates; with it frozen the order changes with the rate.
    Limits are those of what is shown: watch the numbers on the axes when the rate changes.

    Stored runs are drawn where there are any. Else the point that is shown is trained first, and
    the others when they are asked for, or while nobody waits.

    Args:
        methods: who runs, on a 64 × 64 layer, one by one or as a list; none means full fine-tuning,
            LoRA, PiSSA, MiSS and MiSS's control.
        learning_rate: 0.0003, 0.001, 0.003, 0.01 or 0.03.
        split: "train" or "valid".
        second_layer: "trained" or "frozen".
        data: your own points, as in `missviz.experiments.no_free_lunch`: (x, y), of which each seed
            takes a half to train on and a quarter for validation, or {"train": (x, y), "valid": …}.
            The layer is then 64 × inputs. There are no stored runs of them.
        reference: name of the method that is subtracted; None means LoRA where there is one, else
            the first.
        fresh: train now, even where stored runs exist.
        reveal: False hides the curves until `panel.reveal()`.
    """
    choices: dict[str, list[Any]] = {
        "learning_rate": list(RATES),
        "split": list(SPLITS),
        "second_layer": list(LAYER),
    }
    values = {"learning_rate": learning_rate, "split": split, "second_layer": second_layer}
    # Before anything is trained.
    values = check_choices("race", choices, values)
    validation.boolean("fresh", fresh)
    validation.boolean("reveal", reveal)
    own = None if data is None else checked_data(data)
    if len(methods) == 1 and isinstance(methods[0], list | tuple):
        methods = tuple(methods[0])
    racers = methods or (core_methods() if own is None else None)
    chosen = checked_methods(racers, "published", own)
    against = chosen_reference(reference, [method.name for method in chosen])
    linear = random_linear(WIDTH, WIDTH if own is None else own.in_features, torch.float32)
    for method in chosen:
        on_layer(method, linear)
    runs: RaceRuns | _Stored
    if own is not None:
        runs = RaceRuns(chosen, own)
    elif fresh or not _Stored.has(chosen):
        runs = _trained_now(chosen, tuple(method.name for method in chosen))
    else:
        runs = _Stored(chosen)

    def display(learning_rate: float, split: str, second_layer: str) -> Display:
        return RaceDisplay(
            losses=runs.losses(learning_rate, split, second_layer),
            split=split,
            constant=runs.constant(split),
            reference=against,
            note=runs.note if isinstance(runs, _Stored) else "",
        )

    fixed: dict[str, Any] = {} if own is None else {"data": Name("data")}
    fixed |= {} if reference is None else {"reference": reference}
    fixed |= {"fresh": True} if fresh else {}
    return Panel(
        "race",
        display,
        choices,
        values,
        given=methods,
        fixed=fixed,
        reveal=reveal,
        work=None if isinstance(runs, _Stored) else runs.work(learning_rate, second_layer),
    )


class _Stored:
    """Stored losses, asked for as those of `RaceRuns`."""

    def __init__(self, methods: tuple[Method, ...]) -> None:
        table, told = stored.load("race")
        self.note = stored.label(told)
        self._names = [method.name for method in methods]
        points = ["learning_rate", "split", "second_layer", "method"]
        self._rows = table.groupby(points).indices
        self._curves = table[[name for name in table if name.isdecimal()]].to_numpy()
        self._constants = table.groupby("split")["constant"].first()

    @staticmethod
    def has(methods: tuple[Method, ...]) -> bool:
        """Whether runs of all of them are stored."""
        known = stored.about("race")["methods"]
        return all(known.get(method.name) == repr(method) for method in methods)

    def losses(self, learning_rate: float, split: str, second_layer: str) -> Losses:
        point = learning_rate, split, second_layer
        return {name: self._curves[self._rows[*point, name]] for name in self._names}

    def constant(self, split: str) -> float:
        return float(self._constants[split])


@functools.lru_cache(maxsize=4)
def _trained_now(methods: tuple[Method, ...], names: tuple[str, ...]) -> RaceRuns:
    # Names, too: methods of a class that forgot its @dataclass are all equal.
    return RaceRuns(methods)
