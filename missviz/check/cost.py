"""Lesson 08: which sentences survive the noise, and from how many tokens on to build ΔW."""

import math
from collections.abc import Callable, Iterable, Mapping
from types import EllipsisType
from typing import Any

import numpy as np

from missviz.check.feedback import Feedback, unanswered
from missviz.check.numbers import Mistakes, judge_numbers

SENTENCES: dict[str, tuple[bool, str, str]] = {
    "A": (
        False,
        "a difference inside the noise",
        "One question of 1319 lies between the two: 643 right answers against 642. Trained again, "
        "either may be ahead; repeated runs of one configuration differ by ten questions and more.",
    ),
    "B": (
        False,
        "fewer parameters is less memory",
        "VeRA trains fewer numbers, and used more memory. What is kept for the backward pass grows "
        "with the tokens, and does not ask how many numbers are trained.",
    ),
    "C": (
        False,
        "on the front is accurate",
        "It is on that front for sure, at an accuracy of 0.38: nobody as cheap does better. The "
        "cheapest method of all is on it too, with next to no right answer.",
    ),
    "D": (
        False,
        "membership as fact",
        "So says the table, where C3A's file is smaller and C3A answered one question more. Train "
        "all again, and MiSS is on that front about every second time.",
    ),
    "E": (
        True,
        "all is noise",
        "Noise moves accuracies by 0.01 or 0.02. Of those that need less memory, none is within "
        "0.1 of MiSS: it is on that front in every repetition.",
    ),
}
"""The sentences of the lesson: whether each survives, the misconception of who judges otherwise,
and what to say then."""

TOKEN_CASES: list[tuple[Any, ...]] = [(24, 40, 3), (96, 64, 8), (30, 50, 4)]
"""d, k, r; of the right answers one is whole, and one is rounded down, one up."""

ROUNDED = (
    "Right, but for the rounding to whole tokens. Return the point itself, where both ways cost "
    "the same."
)

TOKEN_MISTAKES: Mistakes = {
    "rounded": (lambda d, k, r: round(d * k / (d + k)), ROUNDED),
    "rounded down": (lambda d, k, r: math.floor(d * k / (d + k)), ROUNDED),
    "rounded up": (lambda d, k, r: math.ceil(d * k / (d + k)), ROUNDED),
    "the next whole token": (lambda d, k, r: math.floor(d * k / (d + k)) + 1, ROUNDED),
    "square layers only": (
        lambda d, k, r: k / 2,
        "k/2 is right where d = k. The inputs count k times and the outputs d times: keep both.",
    ),
    "square layers only, by d": (
        lambda d, k, r: d / 2,
        "d/2 is right where d = k. The inputs count k times and the outputs d times: keep both.",
    ),
    "the rank that is possible": (
        lambda d, k, r: min(d, k),
        "min(d, k) is the largest rank that ΔW can have. What is asked is where two costs meet: "
        "r·d·k once, and r(d + k) for each token.",
    ),
    "'efficient' is always cheaper": (
        lambda d, k, r: math.inf,
        "The efficient form pays r(d + k) for every token; building pays r·d·k once. With enough "
        "tokens once is less.",
    ),
    "building is free of r": (
        lambda d, k, r: d * k / (r * (d + k)),
        "That takes d·k for building: one operation per cell. Each cell of B A is a sum over r.",
    ),
    "the efficient form is free of r": (
        lambda d, k, r: r * d * k / (d + k),
        "A x is r sums over k, and B (A x) is d sums over r: r(d + k) for each token.",
    ),
    "the additions counted": (
        lambda d, k, r: (r + 1) * d * k / (r * (d + k)),
        "That counts the d·k additions of W₀ + B A as well; here they are left out.",
    ),
    "MiSS for LoRA": (
        lambda d, k, r: d * k / (k + d * r),
        "That is MiSS's: copying D costs d·k, its sums and products k + d·r. LoRA builds by a "
        "product, B A.",
    ),
    "W₀ x counted on one side": (
        lambda d, k, r: r * d * k / (r * (d + k) - d * k),
        "Both ways make one product of a d × k matrix with each token: W₀ x, or (W₀ + ΔW) x. It "
        "cancels; only what comes on top counts.",
    ),
}


def survives_the_noise(
    answer: Mapping[str, bool | EllipsisType] | Iterable[str] | EllipsisType | None,
) -> Feedback:
    """Exercise 08: {"A": False, …}, or the letters of the sentences that survive."""
    if unanswered(answer):
        return _ask(SENTENCES)
    if isinstance(answer, Mapping):
        given = dict(answer)
        strange = [letter for letter in given if letter not in SENTENCES]
        left = [letter for letter in SENTENCES if unanswered(given.get(letter))]
        no_verdict = [
            letter
            for letter, verdict in given.items()
            if letter not in left and not isinstance(verdict, bool | np.bool_)
        ]
        if no_verdict:
            return Feedback(False, f"Each verdict is True or False; see {no_verdict[0]!r}.")
    else:
        try:
            letters = [str(letter) for letter in answer]  # type: ignore[union-attr]
        except TypeError:
            return Feedback(
                False, f"Give a verdict, True or False, for each of {', '.join('ABCDE')}."
            )
        strange, left = [letter for letter in letters if letter not in SENTENCES], []
        given = {letter: letter in letters for letter in SENTENCES}
    if strange:
        return Feedback(False, f"There is no sentence {strange[0]!r}; they are A to E.")
    if left:
        return _ask(left)
    wrong = [letter for letter, (right, _, _) in SENTENCES.items() if bool(given[letter]) != right]
    if not wrong:
        return Feedback(
            True,
            "E alone. A is inside the noise, D is a coin toss, and B and C do not follow: a front "
            "says nothing about another cost, nor about who is accurate.",
        )
    first = wrong[0]
    _, misconception, message = SENTENCES[first]
    more = f" ({len(wrong) - 1} more of your verdicts to think over.)" if len(wrong) > 1 else ""
    return Feedback(False, f"{first}: {message}{more}", misconception)


def crossover(answer: Callable[[int, int, int], float] | EllipsisType | None) -> Feedback:
    """Exercise 08: (d, k, r) → the number of tokens from which on building LoRA's ΔW takes fewer
    multiply-adds than its efficient form."""
    written = "crossover(d, k, r)"
    if unanswered(answer):
        return Feedback(
            None,
            f"Fill in `{written}` and run again. What does B A cost, once? What do A x and then "
            "B (A x) cost, for each token?",
        )
    judged = judge_numbers(
        written, answer, TOKEN_CASES, [lambda d, k, r: d * k / (d + k)], [TOKEN_MISTAKES]
    )
    return judged or Feedback(
        True,
        "d·k/(d + k): the rank drops out. On a square layer that is half its width; for the "
        "lesson's, 512. Compare the two columns of LoRA in the table.",
    )


def _ask(letters: Iterable[str]) -> Feedback:
    return Feedback(
        None,
        f"Give a verdict, True or False, for {', '.join(letters)}. Move `cost` and `noise` in the "
        "panel: would the sentence be true again, if all were trained again?",
    )
