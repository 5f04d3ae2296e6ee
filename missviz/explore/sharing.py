"""When layers should share: methods of one budget, on layers that want more or less the same."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.linear import linear_with
from missviz.adapters.mos import MoS
from missviz.adapters.trial import on_layer
from missviz.analysis.sharing import (
    curves_of,
    is_pure_sharing,
    layer_targets,
    on_layers,
    sharing_table,
)
from missviz.displays.base import Display
from missviz.displays.sharing import SharingDisplay
from missviz.experiments.arguments import FIRST_SEED
from missviz.explore import stored
from missviz.explore.methods import beside, code, within
from missviz.explore.panel import Panel
from missviz.explore.view import check_choices
from missviz.randomness import generator_for

SIZE = 24
"""Rows and columns of each layer."""
LAYERS = 6
OWN_SEEDS = 3
"""Problems on which a method of the reader's is tried: about a second for each setting."""
LIMIT = 0.12
"""Colours saturate beyond it; the entries' root mean square is 1/24."""


def sharing(
    alike: float = 0.5,
    budget: int = 2,
    wanted: int = 4,
    method: Any = None,
    *,
    fresh: bool = False,
    reveal: bool = True,
) -> Panel:
    """How much of what six layers want six methods can be; controls: alike, budget, wanted.

    Layer t (24 × 24) wants M_t = √c · common + √(1−c) · own_t. All methods train 6 · 48 · budget
    numbers: a LoRA of that rank on each layer, one ΔW for all layers, and MoS in four steps. The
    shares are the largest that least squares found; nothing is trained (`shared_reach` in
    `missviz.analysis.sharing`). On the left are the targets of the first of ten problems.

    Args:
        alike: c, 0 to 1 in steps of 0.1.
        budget: e, pairs of vectors per layer: 2, 3 or 4.
        wanted: rank of the common and of the own parts: 2, 4 or 8.
        method: your own beside the six, one for each layer or shared (`Method.shared`): a method
            object, or a list (`missviz.explore.methods` has the rule). It has the largest size with
            at most the numbers of the others, counted on all six layers at once; one without a
            size is as it is. Computed now, on
            three of the ten problems, and "at least" that where it is searched for.
        fresh: compute now (some minutes) instead of drawing the stored runs.
        reveal: False hides the shares until `panel.reveal()`.

    "At least" in the line below, and ≥ in the picture, are for what a search found.

    Raises TypeError or ValueError, naming the argument, also where a method of yours does not fit a
    layer of 24 × 24, starts from the gradient, or its ΔW depends on W₀: there is none here.
    """
    shown = stored.sharing_methods(2)
    own = beside(shown, method)
    for one in own.values():
        if one.needs_gradient:
            raise ValueError(
                f"method={one.name!r} starts from the gradient of a loss, and there is none here: "
                "nothing is trained"
            )
    choices: dict[str, list[Any]] = {
        "alike": list(stored.ALIKE),
        "budget": list(stored.SHARED_BUDGETS),
        "wanted": list(stored.WANTED),
    }
    values = {"alike": alike, "budget": budget, "wanted": wanted}
    # Before anything is computed.
    check_choices("sharing", choices, values)
    validation.boolean("reveal", reveal)
    validation.boolean("fresh", fresh)
    table, note = stored.table_and_note("sharing", fresh, stored.sharing_curves)
    searched = [
        name for name, one in shown.items() if isinstance(one, MoS) and not is_pure_sharing(one)
    ]
    table = table.assign(at_least=table["method"].isin(searched))
    points = dict(iter(table.groupby(["budget", "wanted"])))
    made_now = f"{', '.join(own)}: computed now, {OWN_SEEDS} problems, at most as many numbers"
    note = "; ".join(filter(None, [note, made_now if own else ""]))

    @functools.cache
    def curves(budget: int, wanted: int) -> pd.DataFrame:
        known = points[budget, wanted]
        return pd.concat([known, _own_curves(own, budget, wanted)]) if own else known

    def display(alike: float, budget: int, wanted: int) -> Display:
        # As `sharing_table` draws its first seed.
        generator = generator_for("layers", FIRST_SEED)
        targets = layer_targets(alike, rank=wanted, generator=generator)
        return SharingDisplay(
            targets=targets.numpy(),
            curves=curves(budget, wanted),
            alike=alike,
            limit=LIMIT,
            note=note,
        )

    def work() -> Iterator[str]:
        settings = list(points) if own else []
        for done, setting in enumerate(settings, 1):
            curves(*setting)
            yield f"your method: {done} of {len(settings)} settings"

    fixed: dict[str, Any] = {"method": code(method)} if own else {}
    fixed |= {"fresh": True} if fresh else {}
    return Panel("sharing", display, choices, values, fixed=fixed, reveal=reveal, work=work())


def _own_curves(own: Mapping[str, Method], budget: int, wanted: int) -> pd.DataFrame:
    """As `stored.sharing_curves`, for the reader's methods at one setting."""
    methods = {name: sized(one, budget) for name, one in own.items()}
    for one in methods.values():
        on_layer(one, linear_with(torch.ones(SIZE, SIZE)))
    seeds = range(FIRST_SEED, FIRST_SEED + OWN_SEEDS)
    table = sharing_table(
        methods, stored.ALIKE, rank=wanted, size=SIZE, seeds=seeds, starts=2, steps=60
    )
    return curves_of(table).assign(budget=budget, wanted=wanted)


def sized(method: Method, budget: int) -> Method:
    """At the largest size with at most the numbers of the others: those that six layers train
    together, which for what is shared are fewer than six times those of one."""
    return within(method, LAYERS * 2 * SIZE * budget, SIZE, SIZE, _trained_together)


def _trained_together(method: Method) -> int:
    adapters = torch.nn.ModuleList(on_layers(method, LAYERS, SIZE, SIZE))
    return sum(p.numel() for p in adapters.parameters() if p.requires_grad)
