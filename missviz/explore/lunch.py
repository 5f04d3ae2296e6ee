"""Who wins where: methods × target families, at three budgets; trained, and computed beforehand."""

from typing import Any

from missviz.adapters import validation
from missviz.displays.base import Display
from missviz.displays.targets import TargetsDisplay
from missviz.explore import stored
from missviz.explore.panel import Panel, check_choices

SHOWN = {
    "after training": ("share", "test loss / unadapted loss"),
    "closed form": ("missed", "1 − reach: share of ‖M‖² out of reach"),
}


def lunch(
    budget: int = 256,
    shown: str = "after training",
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
        fresh: train now (about a minute) instead of drawing the stored runs.
        reveal: False hides the cells until `panel.reveal()`.
    """
    choices: dict[str, list[Any]] = {"budget": list(stored.BUDGETS), "shown": list(SHOWN)}
    values = {"budget": budget, "shown": shown}
    # Before anything is trained.
    check_choices("lunch", choices, values)
    validation.boolean("reveal", reveal)
    validation.boolean("fresh", fresh)
    table, note = stored.table_and_note("lunch", fresh, stored.lunch_table)

    def display(budget: int, shown: str) -> Display:
        column, title = SHOWN[shown]
        rows = table[table["budget"] == budget]
        shares = rows.pivot(index="method", columns="target", values=column)
        shares = shares.loc[rows["method"].unique(), rows["target"].unique()]
        best = (
            rows[rows["wins"]].set_index("target")["method"].to_dict()
            if column == "share"
            else {target: least(shares[target].to_dict()) for target in shares.columns}
        )
        winners = {str(target): best.get(target) for target in shares.columns}
        return TargetsDisplay(shares=shares, winners=winners, shown=title, note=note)

    fixed = {"fresh": True} if fresh else {}
    return Panel("lunch", display, choices, values, fixed=fixed, reveal=reveal)


def least(missed: dict[str, float], tie: float = 1e-9) -> str | None:
    """The method with the least out of reach; None where several have as little."""
    lowest = min(missed.values())
    best = [method for method, share in missed.items() if share <= lowest + tie]
    return best[0] if len(best) == 1 else None
