"""Self-checks for the exercises: a hint while unanswered, and the misconception behind a wrong one.

No check raises: an untouched lesson runs through. Each returns Feedback, which a notebook shows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from missviz.adapters.base import Method
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.analysis.reach import reach
from missviz.experiments.no_free_lunch import no_free_lunch
from missviz.experiments.tasks import WIDTH
from missviz.randomness import generator_for, normal


@dataclass(frozen=True)
class Feedback:
    """What a check has to say."""

    right: bool | None
    """True, False, or None while unanswered."""
    message: str
    misconception: str | None = None
    """A short key of the wrong idea that was recognised."""

    def __repr__(self) -> str:
        return {True: "Right. ", False: "Not yet. ", None: ""}[self.right] + self.message


def unanswered(answer: object) -> bool:
    return answer is None or isinstance(answer, EllipsisType)


# --- 00_start_here ----------------------------------------------------------------------------

_LORA_MISTAKES: dict[str, tuple[Callable[[Tensor, Tensor, float, int], Tensor], str]] = {
    "A @ B": (
        lambda A, B, alpha, r: A @ B,
        "A @ B is r × r: it maps nothing of the layer. ΔW takes k inputs to d outputs, so x meets "
        "A first: ΔW x = B (A x).",
    ),
    "α/r forgotten": (
        lambda A, B, alpha, r: B @ A,
        "The product is right and the scaling is missing: ΔW = (α/r) B A. Adapters loaded "
        "without it are α/r times too weak or too strong.",
    ),
    "not divided by r": (
        lambda A, B, alpha, r: alpha * B @ A,
        "α is divided by the rank: s = α/r. Otherwise a larger rank would also mean larger steps.",
    ),
    "r/α": (
        lambda A, B, alpha, r: r / alpha * B @ A,
        "The scaling is upside down: s = α/r, not r/α.",
    ),
    "α/√r": (
        lambda A, B, alpha, r: alpha / math.sqrt(r) * B @ A,
        "α/√r is rsLoRA's scaling; LoRA divides by r.",
    ),
    "α/k or α/d": (
        lambda A, B, alpha, r: alpha / A.shape[-1] * B @ A,
        "α is divided by the rank r, the small dimension that A and B share.",
    ),
    "transposed": (
        lambda A, B, alpha, r: alpha / r * (B @ A).mT,
        "That is ΔWᵀ, in × out. A weight here is out × in, as in nn.Linear.",
    ),
}


def lora_delta(answer: Callable[[Tensor, Tensor, float], Tensor] | EllipsisType | None) -> Feedback:
    """Exercise 00: `answer(A, B, alpha)` is LoRA's ΔW, for A (r, k) and B (d, r)."""
    hint = Feedback(
        None, "Fill in `lora_delta` and run again. Shapes help: A is r × k, B is d × r."
    )
    if unanswered(answer):
        return hint
    if not callable(answer):
        return Feedback(False, "`lora_delta` must be a function of A, B and alpha.")
    alpha, rank = 7.5, 3
    # A square layer lets every order of A and B run, so that each can be recognised.
    for out_features, in_features in ((7, 7), (5, 7)):
        generator = generator_for("check", out_features)
        A = normal((rank, in_features), 1.0, generator)
        B = normal((out_features, rank), 1.0, generator)
        try:
            got = answer(A.clone(), B.clone(), alpha)
            if unanswered(got):
                return hint
            got = torch.as_tensor(got, dtype=torch.float64)
        except Exception as error:
            return Feedback(False, f"Your function raised {type(error).__name__}: {error}")
        if _equal(got, alpha / rank * (B @ A)):
            continue
        for key, (mistake, message) in _LORA_MISTAKES.items():
            wrong = mistake(A, B, alpha, rank)
            if _equal(got, wrong) or (key == "A @ B" and got.shape == wrong.shape):
                return Feedback(False, message, key)
        if got.shape == (out_features, in_features):
            return Feedback(
                False,
                "The shape is right, the values are not (α/r) B A. Is a scale written as a number?",
            )
        shape = f"{tuple(got.shape)} for A {tuple(A.shape)} and B {tuple(B.shape)}"
        return Feedback(False, f"ΔW is d × k; yours is {shape}.")
    return Feedback(True, "ΔW = (α/r) B A, one line, and every figure of LoRA follows from it.")


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-6, atol=1e-9)


# --- 05_no_free_lunch -------------------------------------------------------------------------

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
        return Feedback(False, f"Your function raised {type(error).__name__}: {error}")
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
