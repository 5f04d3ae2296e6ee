"""Lesson 06: how many numbers a pool has, and from where on one update for all layers is enough."""

from collections.abc import Callable
from types import EllipsisType
from typing import Any

from missviz.check.feedback import Feedback, unanswered
from missviz.check.numbers import Mistakes, judge_numbers

POOL_CASES: list[tuple[Any, ...]] = [(2, 6, 4, 3, 24, 30), (3, 5, 8, 2, 16, 10)]
"""e, L, r, l (pieces), d, k: every two different, so that no wrong rule agrees by chance."""

POOL_MISTAKES: Mistakes = {
    "multiplied by r": (
        lambda e, L, r, pieces, d, k: e * L * r * (d + k),
        "r says how many vectors a layer takes out of the pool. Taking makes nothing new: two "
        "layers that take the same shard train the same numbers. r drops out.",
    ),
    "r for e": (
        lambda e, L, r, pieces, d, k: r * L * (d + k),
        "That is the size of all A and B as they are put together: LoRA of rank r. The pool holds "
        "e pairs per layer, and the layers take from it r > e times.",
    ),
    "L forgotten": (
        lambda e, L, r, pieces, d, k: e * (d + k),
        "That is one layer's part. The pool is that of all L layers: there are e·L pairs in it.",
    ),
    "indices counted": (
        lambda e, L, r, pieces, d, k: e * L * (d + k) + 2 * L * r * pieces,
        "The 2·L·r·l indices are drawn once and never trained. Nothing learns where to route.",
    ),
    "multiplied by l": (
        lambda e, L, r, pieces, d, k: e * L * pieces * (d + k),
        "There are l times as many shards, but each is l times shorter: d/l and k/l.",
    ),
    "divided by l": (
        lambda e, L, r, pieces, d, k: e * L * (d + k) / pieces,
        "A shard is l times shorter than a vector, and there are l times as many of them: e·L·l "
        "in each pool. l drops out.",
    ),
    "d·k instead of d+k": (
        lambda e, L, r, pieces, d, k: e * L * d * k,
        "The pool holds vectors, not matrices: a pair has d + k numbers. Their product is ΔW.",
    ),
    "one pool of two": (
        lambda e, L, r, pieces, d, k: e * L * k,
        "That is P_A alone. P_B has e·L vectors of length d.",
    ),
}

SHARE_CASES: list[tuple[Any, ...]] = [(0.5, 6), (0.8, 3)]

SHARE_MISTAKES: Mistakes = {
    "own parts vanish": (
        lambda share, L: share,
        "The mean of L own parts is small, but not zero: it keeps 1/L of their energy, so sharing "
        "reaches c + (1−c)/L.",
    ),
    "1/L at every c": (
        lambda share, L: share - 1 / L,
        "That solves c + 1/L = share. The own parts have energy 1−c, not 1: it is (1−c)/L.",
    ),
    "1/L² kept": (
        lambda share, L: (share * L**2 - 1) / (L**2 - 1),
        "The mean own part has energy (1−c)/L, not (1−c)/L². It is a sum of L matrices of energy "
        "(1−c)/L² each, about orthogonal: their energies add up.",
    ),
    "the other way round": (
        lambda share, L: share + (1 - share) / L,
        "That goes from c to the share that sharing reaches. Here the share is given, and c is "
        "asked: set c + (1−c)/L = share, and solve for c.",
    ),
    "1−c": (
        lambda share, L: 1 - (share * L - 1) / (L - 1),
        "That is 1−c: the share that is each layer's own.",
    ),
}


def pool_size(answer: Callable[..., float] | EllipsisType | None) -> Feedback:
    """Exercise 06: (e, L, r, pieces, d, k) → how many numbers MoS trains on all L layers."""
    return _checked(
        "pool_size(e, L, r, pieces, d, k)",
        answer,
        POOL_CASES,
        lambda e, L, r, pieces, d, k: e * L * (d + k),
        POOL_MISTAKES,
        hint="How many vectors are in P_A and in P_B, and how long are they?",
        praise="e·L (d + k), whatever r and l are: LoRA of rank e on every layer has as many.",
    )


def break_even(answer: Callable[[float, int], float] | EllipsisType | None) -> Feedback:
    """Exercise 06: (share, L) → the c from which on pure sharing reaches `share`, where its rank is
    no limit."""
    return _checked(
        "break_even(share, L)",
        answer,
        SHARE_CASES,
        lambda share, L: (share * L - 1) / (L - 1),
        SHARE_MISTAKES,
        hint="Set c + (1−c)/L equal to the share, and solve for c.",
        praise="c = (share · L − 1) / (L − 1): with more layers, they must be more alike.",
    )


def _checked(
    written: str,
    answer: object,
    cases: list[tuple[Any, ...]],
    right: Callable[..., float],
    mistakes: Mistakes,
    *,
    hint: str,
    praise: str,
) -> Feedback:
    if unanswered(answer):
        return Feedback(None, f"Fill in `{written}` and run again. {hint}")
    return judge_numbers(written, answer, cases, [right], [mistakes]) or Feedback(True, praise)
