"""Lesson 04: a gain that gives LoRA full fine-tuning's first gradient, and the rates against it."""

import math
from collections.abc import Callable
from types import EllipsisType

from missviz.check.feedback import Feedback, unanswered
from missviz.check.numbers import Mistakes, judge_numbers

GAIN_MISTAKES: Mistakes = {
    "c inverted": (
        lambda r, k: math.sqrt(r / (3 * k)),
        "That is LoRA's first gradient at s = 1, over full fine-tuning's. c has to undo it.",
    ),
    "3 forgotten": (
        lambda r, k: math.sqrt(k / r),
        "√(k/r) would be right if A's entries had variance 1/k. They are uniform in ±1/√k, and "
        "the variance of that is 1/(3k).",
    ),
    "r forgotten": (
        lambda r, k: math.sqrt(3 * k),
        "√(3k) is right for r = 1. B's gradient G Aᵀ has a column for each of A's r rows, so its "
        "norm grows with √r, and c needs to make up for less.",
    ),
    "not the root": (
        lambda r, k: 3 * k / r,
        "The norm follows √r, so c is a root too: c √(r/3k) = 1.",
    ),
}
SGD_MISTAKES: Mistakes = {
    "rate/c for SGD": (
        lambda c, rate: rate / c,
        "c counts twice under SGD: the gradient of B is c times as large, and ΔW = c B A makes "
        "c times as much of B's step. rate/c cancels one of the two.",
    ),
    "c inverted": (
        lambda c, rate: rate * c,
        "A gain c > 1 makes steps longer, so the rate that cancels it is smaller.",
    ),
    "c² inverted": (
        lambda c, rate: rate * c**2,
        "The power is right and the direction is not: c > 1 makes steps longer.",
    ),
    "rate left alone": (
        lambda c, rate: rate,
        "At the same rate SGD's step of ΔW is c² times as long. Look at the panel's thick line.",
    ),
}
ADAM_MISTAKES: Mistakes = {
    "rate/c² for Adam": (
        lambda c, rate: rate / c**2,
        "c counts once under Adam: it divides each gradient by its own size, so that B moves as "
        "it did at c = 1, and only ΔW = c B A is c times as large.",
    ),
    "c inverted": SGD_MISTAKES["c inverted"],
    "c² inverted": SGD_MISTAKES["c² inverted"],
    "Adam undoes the gain": (
        lambda c, rate: rate,
        "Adam makes B's step independent of the gradient's size, but ΔW = c B A is still c times "
        "as large. Adam undoes one c, not both.",
    ),
}
EXACT_FOR = ("A frozen", "A trained", "both")
A_TRAINED = (
    "A moves too, at the same rate. With B = B₁/c its gradient c·BᵀG is what it was at c = 1, so "
    "A's rate should stay as it is, and B's should not: two rates would cancel c, one cannot, "
    "neither with SGD nor with Adam. The lesson's table shows by how much."
)


def gain_and_rate(
    gain: Callable[[int, int], float] | EllipsisType | None,
    rates: Callable[[float, float], tuple[float, float]] | EllipsisType | None = None,
    exact_for: str | EllipsisType | None = None,
) -> Feedback:
    """Exercise 04, in three parts; the first that is missing or wrong is what it speaks of.

    Args:
        gain: (r, k) → c, the scaling s with which LoRA's first gradient is as large as full
            fine-tuning's, for a G whose columns are not alike.
        rates: (c, rate) → the rate with SGD, and the one with Adam, that train at gain c as `rate`
            does at gain 1.
        exact_for: "A frozen", "A trained" or "both": where those rates cancel c exactly.
    """
    if unanswered(gain):
        return Feedback(None, "Fill in `my_gain`: which c makes c √(r/3k) equal to 1?")
    checked = judge_numbers(
        "my_gain(r, k)",
        gain,
        [(4, 64), (9, 50)],
        [lambda r, k: math.sqrt(3 * k / r)],
        [GAIN_MISTAKES],
    )
    if checked is not None:
        return checked
    if unanswered(rates):
        return Feedback(None, "c is right. Now `my_rates`: how often does c count in one step?")
    checked = judge_numbers(
        "my_rates(c, rate)",
        rates,
        [(4.0, 0.1), (0.7, 0.3)],
        [lambda c, rate: rate / c**2, lambda c, rate: rate / c],
        [SGD_MISTAKES, ADAM_MISTAKES],
    )
    if checked is not None:
        return checked
    if unanswered(exact_for):
        choices = ", ".join(map(repr, EXACT_FOR))
        return Feedback(None, f"Both rates are right. Where are they exact? One of {choices}.")
    if not isinstance(exact_for, str) or exact_for not in EXACT_FOR:
        return Feedback(False, f"`exact_for` must be one of {', '.join(map(repr, EXACT_FOR))}.")
    if exact_for != "A frozen":
        return Feedback(False, A_TRAINED, "A trained")
    return Feedback(
        True,
        "c = √(3k/r) gives LoRA full fine-tuning's first gradient, and rate/c² (SGD) or rate/c "
        "(Adam) takes all of its effect away again. The size was a unit.",
    )
