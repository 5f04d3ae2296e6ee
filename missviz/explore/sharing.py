"""When layers should share: methods of one budget, on layers that want more or less the same."""

from typing import Any

from missviz.adapters import validation
from missviz.analysis.sharing import layer_targets
from missviz.displays.base import Display
from missviz.displays.sharing import SharingDisplay
from missviz.experiments.arguments import FIRST_SEED
from missviz.explore import stored
from missviz.explore.panel import Panel, check_choices
from missviz.randomness import generator_for

LIMIT = 0.12
"""Colours saturate beyond it; the entries' root mean square is 1/24."""


def sharing(
    alike: float = 0.5,
    budget: int = 2,
    wanted: int = 4,
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
        fresh: compute now (some minutes) instead of drawing the stored runs.
        reveal: False hides the shares until `panel.reveal()`.
    """
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
    points = dict(iter(table.groupby(["budget", "wanted"])))

    def display(alike: float, budget: int, wanted: int) -> Display:
        # As `sharing_table` draws its first seed.
        generator = generator_for("layers", FIRST_SEED)
        targets = layer_targets(alike, rank=wanted, generator=generator)
        return SharingDisplay(
            targets=targets.numpy(),
            curves=points[budget, wanted],
            alike=alike,
            limit=LIMIT,
            note=note,
        )

    fixed = {"fresh": True} if fresh else {}
    return Panel("sharing", display, choices, values, fixed=fixed, reveal=reveal)
