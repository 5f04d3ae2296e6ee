"""Lesson 05: a task that a given method wins."""

from collections.abc import Callable, Sequence
from types import EllipsisType

import torch
from torch import Tensor

from missviz.adapters.base import Method
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.analysis.reach import reach
from missviz.check.feedback import Feedback, raised, unanswered
from missviz.experiments.no_free_lunch import no_free_lunch
from missviz.experiments.tasks import WIDTH
from missviz.randomness import generator_for

BLOCK_MISS = MiSS(4, layout="block")


def task_won_by_block_miss(
    target: Callable[[Tensor, torch.Generator], Tensor] | EllipsisType | None,
    learning_rates: Sequence[float] | None = None,
    seeds: int = 10,
) -> Feedback:
    """Exercise 05: a target M that MiSS in its block layout wins against tiled MiSS and LoRA of
    the same 256 parameters. `target(W0, generator)` returns M (64, 64); about 10 s when answered.
    """
    hint = Feedback(
        None,
        "Fill in `my_target` and run again. Ask what ΔW of `MiSS(4, layout='block')` can look "
        "like, and make M of that kind, and nothing that the rivals can make.",
    )
    if unanswered(target):
        return hint
    if not callable(target):
        return Feedback(False, "`my_target` must be a function of W0 and generator.")
    try:
        update = target(torch.eye(WIDTH, dtype=torch.float64), generator_for("check target"))
    except Exception as error:
        return raised(error)
    if unanswered(update):
        return hint
    if not isinstance(update, Tensor) or update.shape != (WIDTH, WIDTH):
        return Feedback(False, f"M must be a tensor of shape ({WIDTH}, {WIDTH}).")
    if not update.any():
        return Feedback(False, "M = 0 leaves nothing to learn, so nobody can win.", "M = 0")
    try:
        return _judge(target, update.double(), learning_rates, seeds)
    except (TypeError, ValueError) as error:
        return Feedback(False, str(error))


def _judge(
    target: Callable[[Tensor, torch.Generator], Tensor],
    update: Tensor,
    learning_rates: Sequence[float] | None,
    seeds: int,
) -> Feedback:
    import warnings

    rivals: list[Method] = [LoRA(2), MiSS(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an edge is reported below, in words
        runs = no_free_lunch(
            [*rivals, BLOCK_MISS], "teacher", seeds, learning_rates, targets={"mine": target}
        )
    assert runs.tuning is not None
    edged = list(runs.tuning[runs.tuning["on_edge"]]["method"])
    if edged:
        return Feedback(
            False,
            f"The best rate of {', '.join(edged)} is on the edge of the grid: a rate beyond it may "
            "be better, so this comparison shows the grid, not the methods. Give more rates.",
            "rate on the grid's edge",
        )
    summary = runs.summary(reference=BLOCK_MISS.name)
    tested = summary[summary["metric"] == "test"].set_index("method")
    verdicts = {rival.name: tested.loc[rival.name, "verdict"] for rival in rivals}
    shares = ", ".join(f"{m} {reach(m, update):.0%}" for m in (*rivals, BLOCK_MISS))
    closed_form = f"Largest share of M's energy in reach: {shares}."
    if all(word == "higher" for word in verdicts.values()):
        return Feedback(True, f"Block MiSS wins, beyond the interval. {closed_form}")
    better = [name for name, word in verdicts.items() if word == "lower"]
    if better:
        ends = "end" if len(better) > 1 else "ends"
        return Feedback(False, f"{' and '.join(better)} {ends} lower. {closed_form}", "rival wins")
    return Feedback(
        False,
        f"Against {', '.join(n for n, word in verdicts.items() if word != 'higher')} the "
        "difference is too small to call. That is undecided, not equal. A rival that can reach as "
        f"much of M cannot be beaten clearly. {closed_form}",
        "undecided",
    )
