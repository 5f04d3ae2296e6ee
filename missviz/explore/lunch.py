"""Who wins where: methods × target families, at three budgets; trained, and computed beforehand."""

import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.trial import on_layer
from missviz.analysis.reach import reaches
from missviz.displays.base import Display
from missviz.displays.targets import TargetsDisplay
from missviz.experiments.arguments import FIRST_SEED
from missviz.experiments.no_free_lunch import no_free_lunch
from missviz.experiments.tasks import TARGETS, WIDTH, TwoLayerNet, base_models
from missviz.explore import stored
from missviz.explore.methods import beside, code, within
from missviz.explore.panel import Panel
from missviz.explore.view import check_choices
from missviz.randomness import generator_for

OWN_SEEDS, OWN_TUNING_SEEDS = 3, 2
"""For a method of the reader's: about a second for each target."""

SHOWN = {
    "after training": ("share", "test loss / unadapted loss"),
    "closed form": ("missed", "1 − reach: share of ‖M‖² out of reach"),
}


def lunch(
    budget: int = 256,
    shown: str = "after training",
    method: Any = None,
    *,
    fresh: bool = False,
    reveal: bool = True,
) -> Panel:
    """LoRA, MiSS and plain columns of one budget on four kinds of target; controls: budget, shown.

    Second layer frozen, rates chosen on other seeds ("teacher" protocol). "closed form" shows what
    is out of reach whatever the training (`mv.reach`), and so who can win.

    Args:
        budget: trained numbers of each method: 128, 256 or 512.
        shown: "after training" or "closed form".
        method: your own below the three: a method object, or a list (`missviz.explore.methods` has
            the rule), at its largest size with at most `budget` numbers; one without a size as it
            is. Trained now, on three seeds where the stored runs have ten: so it gets no frame, and
            where it is lowest nobody does.
        fresh: train now (about a minute) instead of drawing the stored runs.
        reveal: False hides the cells until `panel.reveal()`.

    Raises TypeError or ValueError, naming the argument, also where a method of yours does not fit a
    layer of 64 × 64.
    """
    own = beside(stored.budget_methods(stored.BUDGETS[0]), method)
    choices: dict[str, list[Any]] = {"budget": list(stored.BUDGETS), "shown": list(SHOWN)}
    values = {"budget": budget, "shown": shown}
    # Before anything is trained.
    check_choices("lunch", choices, values)
    validation.boolean("reveal", reveal)
    validation.boolean("fresh", fresh)
    for one in own.values():
        for size in stored.BUDGETS:
            on_layer(within(one, size, WIDTH, WIDTH), _bases()[0].fc1)  # type: ignore[arg-type]
    table, note = stored.table_and_note("lunch", fresh, stored.lunch_table)
    made_now = f"{', '.join(own)}: made now, {OWN_SEEDS} seeds, no frame where lowest"
    note = "; ".join(filter(None, [note, made_now if own else ""]))

    def display(budget: int, shown: str) -> Display:
        column, title = SHOWN[shown]
        rows = table[table["budget"] == budget]
        added = [_own_rows(within(one, budget, WIDTH, WIDTH), shown) for one in own.values()]
        rows = pd.concat([rows, *added]) if added else rows
        shares = rows.pivot(index="method", columns="target", values=column)
        shares = shares.loc[rows["method"].unique(), rows["target"].unique()]
        best = (
            _winners(rows, shares)
            if column == "share"
            else {target: least(shares[target].to_dict()) for target in shares.columns}
        )
        winners = {str(target): best.get(target) for target in shares.columns}
        return TargetsDisplay(shares=shares, winners=winners, shown=title, note=note)

    def work() -> Iterator[str]:
        settings = [
            (within(one, size, WIDTH, WIDTH), target)
            for size in stored.BUDGETS
            for one in own.values()
            for target in TARGETS
        ]
        for done, (one, target) in enumerate(settings, 1):
            _trained(one, target)
            yield f"your method: {done} of {len(settings)} runs"

    fixed: dict[str, Any] = {"method": code(method)} if own else {}
    fixed |= {"fresh": True} if fresh else {}
    return Panel("lunch", display, choices, values, fixed=fixed, reveal=reveal, work=work())


def _winners(rows: pd.DataFrame, shares: pd.DataFrame) -> dict[str, str]:
    """Who wins each target; nobody where a method without a paired test has the lowest loss."""
    found = rows[rows["wins"]].set_index("target")["method"].to_dict()
    return {
        target: best
        for target, best in found.items()
        if shares[target][best] <= shares[target].min()
    }


def _own_rows(method: Method, shown: str) -> pd.DataFrame:
    """As `stored.lunch_table` has them, for a method of the reader's."""
    missed = _missed(method) if shown == "closed form" else None
    return pd.DataFrame(
        [
            {
                "target": target,
                "method": method.name,
                "share": _trained(method, target) if missed is None else math.nan,
                "wins": False,
                "missed": math.nan if missed is None else missed[target],
            }
            for target in TARGETS
        ]
    )


@functools.lru_cache(maxsize=256)
def _trained(method: Method, target: str) -> float:
    """Its test loss over the unadapted network's, by the stored runs' protocol on fewer seeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a best rate on the edge
        runs = no_free_lunch(
            [method], "teacher", OWN_SEEDS, targets=[target], tuning_seeds=OWN_TUNING_SEEDS
        )
    summary = runs.summary()
    tested = summary[summary["metric"] == "test"].set_index("method")["mean"]
    return float(tested[method.name] / tested["unadapted"])


@functools.lru_cache(maxsize=64)
def _missed(method: Method) -> dict[str, float]:
    """1 − reach on each target, mean over seeds."""
    missed = []
    for seed, base in zip(_seeds(), _bases(), strict=True):
        weight = base.state_dict()["fc1.weight"].double()
        wanted = [
            make(weight, generator_for(seed, "target", target)) for target, make in TARGETS.items()
        ]
        shares = reaches(method, torch.stack(wanted), weight, starts=2, steps=60)
        missed.append([1 - share for share in shares])
    means = torch.tensor(missed).mean(0).tolist()
    return dict(zip(TARGETS, means, strict=True))


def _seeds() -> tuple[int, ...]:
    return tuple(range(FIRST_SEED, FIRST_SEED + OWN_SEEDS))


def _bases() -> tuple[TwoLayerNet, ...]:
    return base_models(_seeds(), torch.float32, torch.device("cpu"))


def least(missed: dict[str, float], tie: float = 1e-9) -> str | None:
    """The method with the least out of reach; None where several have as little."""
    lowest = min(missed.values())
    best = [method for method, share in missed.items() if share <= lowest + tie]
    return best[0] if len(best) == 1 else None
