"""Answers that are functions with one number, or two, as a result."""

import math
from collections.abc import Callable
from typing import Any

from missviz.check.feedback import Feedback, raised, unanswered

Mistakes = dict[str, tuple[Callable[..., float], str]]
"""Misconception → (what it computes, what to say of it)."""
TWO_RATES = "It must return two rates, the one with SGD and the one with Adam: (…, …)."


def judge_numbers(
    written: str,
    answer: object,
    cases: list[tuple[Any, ...]],
    right: list[Callable[..., float]],
    mistakes: list[Mistakes],
) -> Feedback | None:
    """What is to be said of a function that returns one number, or two; None if it is right."""
    name = written.partition("(")[0]
    optimisers = ("",) if len(right) == 1 else ("SGD: ", "Adam: ")
    if not callable(answer):
        return Feedback(False, f"`{name}` must be a function: {written}.")
    found: list[list[float]] = []
    for case in cases:
        try:
            got = answer(*case)
            if len(right) > 1 and (isinstance(got, int) or getattr(got, "ndim", None) == 0):
                got = float(got)
            if len(right) > 1 and isinstance(got, float):
                return Feedback(False, f"`{name}` returned one number, {got:.4g}. {TWO_RATES}")
            values = [got] if len(right) == 1 or unanswered(got) else list(got)
            if any(map(unanswered, values)):
                return Feedback(None, f"Fill in `{name}`, and run again.")
            found.append([float(value) for value in values])
        except Exception as error:
            return raised(error, f"`{name}`")
        if len(values) != len(right):
            return Feedback(False, f"`{name}` returned {len(values)} numbers. {TWO_RATES}")
    for place, wanted in enumerate(right):
        given = [values[place] for values in found]

        def agrees(rule: Callable[..., float], given: list[float] = given) -> bool:
            return all(
                math.isclose(value, rule(*case), rel_tol=1e-6)
                for value, case in zip(given, cases, strict=True)
            )

        if agrees(wanted):
            continue
        for key, (rule, message) in mistakes[place].items():
            if agrees(rule):
                return Feedback(False, optimisers[place] + message, key)
        shown = f"{written} at {cases[0]} is {given[0]:.4g}"
        return Feedback(False, f"{optimisers[place]}not this; {shown}.")
    return None
