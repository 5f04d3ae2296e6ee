"""Lesson 05: a task that a given method wins."""

from collections.abc import Callable, Mapping, Sequence
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
    shares = {m.name: reach(m, update) for m in (*rivals, BLOCK_MISS)}
    listed = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    closed_form = f"Largest share of M's energy in reach: {listed}."
    if all(word == "higher" for word in verdicts.values()):
        return Feedback(True, f"Block MiSS wins, beyond the interval. {closed_form}")
    better = [name for name, word in verdicts.items() if word == "lower"]
    if better:
        ends = "end" if len(better) > 1 else "ends"
        return Feedback(False, f"{' and '.join(better)} {ends} lower. {closed_form}", "rival wins")
    undecided = [name for name, word in verdicts.items() if word != "higher"]
    return Feedback(False, f"{_too_close(undecided, shares)} {closed_form}", "undecided")


def _too_close(undecided: list[str], shares: Mapping[str, float]) -> str:
    """What to say of rivals that cannot be told apart from block MiSS, by what they can reach."""
    own = shares[BLOCK_MISS.name]
    said = (
        f"Against {', '.join(undecided)} the difference is too small to call. That is undecided, "
        "not equal."
    )
    for rival in undecided:
        share = shares[rival]
        if share >= own:
            said += f" {rival} can reach as much of M, or more, and cannot be beaten clearly."
        else:
            said += (
                f" {rival} can reach less of M, {share:.1%} against {own:.1%}; that is too little "
                "to show in the loss. Make M more of block MiSS's kind."
            )
    return said
