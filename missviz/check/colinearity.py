"""Lesson 03: the mean cosine of Bat's shards, and Bat's update as a function of D."""

import functools
import math
from collections.abc import Callable
from types import EllipsisType

import torch
from torch import Tensor

from missviz.adapters.bat import Bat
from missviz.adapters.linear import linear_with
from missviz.adapters.trial import randomise
from missviz.analysis.shards import bat_cosine, shard_cosines
from missviz.analysis.shards import mean_cosine as mean_of_pairs
from missviz.check.feedback import Feedback, equal, raised, unanswered
from missviz.randomness import generator_for, normal

# --- The mean cosine --------------------------------------------------------------------------

ASKED = (0.25, 64)
"""σ and b for which an answer may be a number."""

COSINE_MISTAKES: dict[str, tuple[Callable[[float, int], float], str]] = {
    "σ²b²": (
        lambda sigma, b: 1 / (1 + sigma**2 * b**2),
        "b counts once. An entry of W_oi D is a sum of b products (columns of W_oi, rows of D), so "
        "its mean square is b times that of one product, σ²b times that of an entry of D.",
    ),
    "σb": (
        lambda sigma, b: 1 / (1 + sigma * b),
        "σ counts twice. b products of variance σ² (for D's entries of variance 1) add up to σ²b: "
        "in a cosine the squares of the lengths are added, and the square of σ is σ².",
    ),
    "σ√b": (
        lambda sigma, b: 1 / (1 + sigma * math.sqrt(b)),
        "σ√b is the ratio of the lengths of W_oi D and D. In a cosine the squares of the lengths "
        "are added, because the two are orthogonal on average: the ratio of the squares is σ²b.",
    ),
    "σ²b alone": (
        lambda sigma, b: sigma**2 * b,
        "σ²b is how much of a shard is its own, relative to what it shares; it grows with σ and "
        "passes 1. The cosine is the shared part of the whole: 1 of 1 + σ²b.",
    ),
    "the own part": (
        lambda sigma, b: 1 - bat_cosine(sigma, b),
        "σ²b/(1 + σ²b) is the part of a shard that is its own. The cosine is the part that two "
        "shards have in common: the rest.",
    ),
    "b forgotten": (
        lambda sigma, b: 1 / (1 + sigma**2),
        "That is right for b = 1. In W_oi D each entry is a sum of b products, each of variance "
        "σ² times that of D's entries.",
    ),
    "square root": (
        lambda sigma, b: 1 / math.sqrt(1 + sigma**2 * b),
        "A cosine divides by the lengths of both shards: √(1 + σ²b) twice.",
    ),
    "copies": (
        lambda sigma, b: 1.0,
        "1 is MiSS: every shard is the same D. In Bat each shard also has a W_oi D of its own.",
    ),
    "nothing in common": (
        lambda sigma, b: 0.0,
        "0 would need W_oi D alone. The + D is the same in all shards, however large W is.",
    ),
}


def mean_cosine(answer: Callable[[float, int], float] | float | EllipsisType | None) -> Feedback:
    """Exercise 03: the mean cosine of Bat's shards for W ~ N(0, σ²) and blocks b × b.

    `answer` is a function of sigma and b, or the number for σ = 0.25 and b = 64.
    """
    hint = Feedback(
        None,
        "Fill in `mean_cosine_of_bat` and run again. Shared by two shards: D. Own: W_oi D. How "
        "large is the square of the one beside that of the other?",
    )
    if unanswered(answer):
        return hint
    # A number is typed with two or three digits; a function is exact.
    points, accuracy = [ASKED, (0.02, 16), (1.3, 4)], 1e-6
    if not callable(answer):
        points, accuracy = [ASKED], 0.02
    try:
        got = [answer(*point) if callable(answer) else answer for point in points]
        if any(map(unanswered, got)):
            return hint
        values = [float(value) for value in got]  # type: ignore[arg-type]
    except Exception as error:
        return raised(error, "Your answer")

    def is_(formula: Callable[[float, int], float]) -> bool:
        return all(
            abs(value - formula(*point)) <= accuracy * abs(formula(*point)) + accuracy / 20
            for value, point in zip(values, points, strict=True)
        )

    compared = (
        f"At σ = {ASKED[0]}, b = {ASKED[1]} a random layer measures {_measured():.3f}; "
        f"yours: {values[0]:.3f}."
    )
    if is_(bat_cosine):
        return Feedback(True, f"{compared} The shared 1 of 1 + σ²b, whatever D is.")
    for key, (mistake, message) in COSINE_MISTAKES.items():
        if is_(mistake):
            return Feedback(False, f"{message} {compared}", key)
    if callable(answer) and len(set(values)) == 1:
        here = "Right there, and only there" if abs(values[0] - bat_cosine(*ASKED)) < 0.01 else "No"
        return Feedback(
            False,
            f"{compared} {here}: your function returns {values[0]:.3g} for every σ and b. It "
            "ignores what it is given; the cosine falls as σ or b grows.",
            "ignores σ and b",
        )
    return Feedback(False, f"{compared} Which part is shared, and which is each shard's own?")


@functools.lru_cache(maxsize=1)
def _measured() -> float:
    """The mean cosine of a 512 × 512 layer at ASKED, nothing assumed."""
    sigma, b = ASKED
    linear = linear_with(normal((512, 512), sigma, generator_for("check.mean_cosine")))
    adapter = Bat(b).on(linear)
    randomise(adapter)
    return mean_of_pairs(shard_cosines(adapter.delta(), b))


# --- Linear in D ------------------------------------------------------------------------------

BLOCK_MISTAKES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "W₀ included": (
        lambda W, D: W + W @ D + D,
        "That is W₀ + ΔW, the weight and not the update. It is affine in D, not linear: f(0) is "
        "W_oi, and f(2A − 3B) differs from 2f(A) − 3f(B) by 2 W_oi. ΔW is what is added to W₀.",
    ),
    "+ D forgotten": (
        lambda W, D: W @ D,
        "Linear in D, but the + D is missing: it is what all shards share.",
    ),
    "MiSS": (
        lambda W, D: D.clone(),
        "Linear in D, but that is MiSS: every block is a copy. Bat adds W_oi D.",
    ),
    "left": (
        lambda W, D: D @ W + D,
        "Linear in D, but D multiplies from the left: that is another of the three Bats "
        '(mv.Bat(b, side="left")). PEFT\'s multiplies from the right.',
    ),
    "transposed": (
        lambda W, D: W @ D.mT + D.mT,
        "Linear in D, but D is transposed.",
    ),
}


def bat_is_linear(answer: Callable[[Tensor, Tensor], Tensor] | EllipsisType | None) -> Feedback:
    """Exercise 03: `answer(W_oi, D_o)` is a block of Bat's ΔW; is it linear in D?

    The check compares f(2A − 3B) with 2f(A) − 3f(B) for f(D) = answer(W_oi, D).
    """
    hint = Feedback(None, "Fill in `bat_block` and run again. Both arguments and ΔW_oi are b × b.")
    if unanswered(answer):
        return hint
    if not callable(answer):
        return Feedback(False, "`bat_block` must be a function of W_oi and D_o.")
    generator = generator_for("check.bat_is_linear")
    W, A, B = (normal((3, 3), 1.0, generator) for _ in range(3))

    block: Callable[[Tensor, Tensor], Tensor] = answer

    def f(D: Tensor) -> Tensor:
        return torch.as_tensor(block(W.clone(), D.clone()), dtype=torch.float64)

    try:
        if unanswered(block(W.clone(), A.clone())):
            return hint
        got, left, right = f(A), f(2 * A - 3 * B), 2 * f(A) - 3 * f(B)
        at_zero = f(torch.zeros_like(A))
    except Exception as error:
        return raised(error)
    if got.shape != W.shape:
        return Feedback(False, f"A block is b × b, here 3 × 3; yours is {tuple(got.shape)}.")
    difference = float((left - right).abs().max())
    if equal(got, W @ A + A) and equal(left, right):
        return Feedback(
            True,
            f"f(2A − 3B) and 2f(A) − 3f(B) differ by {difference:.0e}, which is rounding: Bat is "
            "linear in D. What it is not is independent of W₀.",
        )
    for key, (mistake, message) in BLOCK_MISTAKES.items():
        if equal(got, mistake(W, A)):
            return Feedback(False, message, key)
    if not equal(at_zero, torch.zeros_like(at_zero)):
        return Feedback(
            False,
            "f(0) is not 0: with D = 0, before training, ΔW must be 0. So f is affine at best, and "
            f"f(2A − 3B) differs from 2f(A) − 3f(B) by up to {difference:.1f}.",
            "f(0) ≠ 0",
        )
    if not equal(left, right):
        return Feedback(
            False,
            f"Your f is not linear: f(2A − 3B) differs from 2f(A) − 3f(B) by up to "
            f"{difference:.1f}. In Bat D occurs once in each term.",
            "not linear",
        )
    return Feedback(False, "Your f is linear in D, but it is not W_oi D_o + D_o.")
