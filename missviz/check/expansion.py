"""Lesson 01: MiSS without ΔW, and an input that it cannot see."""

from collections.abc import Callable
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._python_dispatch import TorchDispatchMode

from missviz.adapters.shards import shard_matrix, shard_sums
from missviz.check.feedback import Feedback, equal, unanswered
from missviz.randomness import generator_for, normal

IN_FEATURES, RANK = 10, 4
"""Of both exercises: the last shard is short."""

BLOCK = "block instead of tiled"
TAIL = "tail dropped"


def _padded(x: Tensor, rank: int) -> Tensor:
    return pad(x, (0, -x.shape[-1] % rank))


def _wrapped(x: Tensor, rank: int) -> Tensor:
    return torch.cat([x, x[..., : -x.shape[-1] % rank]], dim=-1)


def _in_front(x: Tensor, rank: int) -> Tensor:
    return pad(x, (-x.shape[-1] % rank, 0))


def _cut(x: Tensor, rank: int) -> Tensor:
    return x[..., : x.shape[-1] // rank * rank]


def _copies(x: Tensor, rank: int) -> Tensor:
    """How many places each column of D has."""
    return shard_matrix(x.shape[-1], rank, "tiled", x).sum(-1)


MISS_MISTAKES: dict[str, tuple[list[Callable[[Tensor, int], Tensor]], str]] = {
    BLOCK: (
        [
            lambda x, r: _padded(x, r).unflatten(-1, (r, -1)).sum(-1),
            lambda x, r: shard_sums(x, r, "block"),
        ],
        "That sums neighbours: S₀ = x₀ + x₁ + …, the block layout. A reshape to (r, g) does it. "
        "Tiled, places that lie r apart belong together: reshape to (g, r) and sum over the g.",
    ),
    TAIL: (
        [lambda x, r: shard_sums(_cut(x, r), r, "tiled")],
        "The last shard is missing. 10 = 2 · 4 + 2: x₈ and x₉ meet columns 0 and 1 of D a third "
        "time. Pad x with zeros up to a multiple of r.",
    ),
    "mean instead of sum": (
        [
            lambda x, r: shard_sums(_padded(x, r), r, "tiled") / -(-x.shape[-1] // r),
            lambda x, r: shard_sums(_padded(x, r), r, "tiled") / _copies(x, r),
            lambda x, r: shard_sums(_padded(x, r), r, "tiled") / (x.shape[-1] / r),
        ],
        "You took the mean over the shards. ΔW holds whole copies of D, so S is the sum.",
    ),
    "x wraps around": (
        [lambda x, r: shard_sums(_wrapped(x, r), r, "tiled")],
        "The short last shard was filled up with the beginning of x, as MoRA does. Here it is "
        "filled up with zeros: ΔW has only k columns.",
    ),
    "zeros in front": (
        [lambda x, r: shard_sums(_in_front(x, r), r, "tiled")],
        "The zeros stand in front, which moves every x to another column of D. They belong at the "
        "end: pad(x, (0, n)).",
    ),
}
"""By key: what such an answer takes for S, and what to say."""


class _LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that was made."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
        return made


def my_miss(answer: Callable[[Tensor, Tensor], Tensor] | EllipsisType | None) -> Feedback:
    """Exercise 01: `answer(x, D)` is tiled MiSS's ΔW x, of shape (..., out), for x (..., k) and
    D (out, r), for any k and r; without a tensor of ΔW's size."""
    hint = Feedback(
        None,
        "Fill in `my_miss` and run again. First S: which places of x meet column 0 of D? With "
        f"k = {IN_FEATURES} and r = {RANK} there are three of them.",
    )
    if unanswered(answer):
        return hint
    if not callable(answer):
        return Feedback(False, "`my_miss` must be a function of x and D.")
    # First a square D, so that a transposed one runs too and is recognised; then other shapes.
    cases = [
        ((IN_FEATURES,), RANK, RANK),
        ((IN_FEATURES,), RANK, 5),
        ((2, 3, IN_FEATURES), RANK, 5),
        ((3, 12), 3, 2),
        ((7,), 7, 3),
        ((9,), 1, 3),
    ]
    for shape, rank, out_features in cases:
        generator = generator_for("check.my_miss", shape, rank, out_features)
        x, D = normal(shape, 1.0, generator), normal((out_features, rank), 1.0, generator)
        try:
            got = answer(x.clone(), D.clone())
            if unanswered(got):
                return hint
            got = torch.as_tensor(got, dtype=torch.float64)
        except Exception as error:
            return _raised(answer, error, x, D)
        if not equal(got, shard_sums(x, rank, "tiled") @ D.mT):
            return _wrong(got, x, D)
    return _built(answer) or Feedback(
        True, "y = D S. k numbers were summed to r, and no ΔW was built."
    )


def _raised(
    answer: Callable[[Tensor, Tensor], Tensor], error: Exception, x: Tensor, D: Tensor
) -> Feedback:
    """What an exception says; where r divides k the answer may run, and be right or recognised."""
    easy = normal((2 * D.shape[1],), 1.0, generator_for("check.my_miss", "easy"))
    try:
        got = torch.as_tensor(answer(easy.clone(), D.clone()), dtype=torch.float64)
    except Exception:
        got = torch.empty(0)
    if not equal(got, shard_sums(easy, D.shape[1], "tiled") @ D.mT):
        recognised = _wrong(got, easy, D)
        if recognised.misconception:
            return recognised
    elif x.dim() == 1 and x.shape[-1] % D.shape[1]:
        return Feedback(
            False,
            f"Right where r divides k, but {x.shape[-1]} is no multiple of {D.shape[1]}. Pad x "
            "with zeros up to the next one.",
            "only where r divides k",
        )
    where = f"for x {tuple(x.shape)} and D {tuple(D.shape)}"
    return Feedback(False, f"Your function raised {type(error).__name__} {where}: {error}")


def _wrong(got: Tensor, x: Tensor, D: Tensor) -> Feedback:
    right = shard_sums(x, D.shape[1], "tiled")
    if got.shape == right.shape and D.shape[0] == D.shape[1] and equal(got, right @ D):
        return Feedback(
            False,
            "D is transposed: it is out × r, so y = D S is S @ D.T for S in rows.",
            "D transposed",
        )
    if equal(got, right):
        return Feedback(False, "That is S. What is missing is D: y = D S.", "S returned")
    for key, (mistakes, message) in MISS_MISTAKES.items():
        if any(equal(got, mistake(x, D.shape[1]) @ D.mT) for mistake in mistakes):
            return Feedback(False, message, key)
    wanted = (*x.shape[:-1], D.shape[0])
    where = f"for x {tuple(x.shape)} and D {tuple(D.shape)}"
    if got.shape != wanted:
        return Feedback(
            False, f"y has the shape {tuple(got.shape)} {where}; it should be {wanted}."
        )
    return Feedback(False, f"The shape is right, the values are not D S {where}.")


def _built(answer: Callable[[Tensor, Tensor], Tensor]) -> Feedback | None:
    """What to say where a tensor of ΔW's size was made on the way."""
    out_features, in_features, rank = 50, 400, 4
    x = torch.ones(in_features, dtype=torch.float64)
    D = torch.ones(out_features, rank, dtype=torch.float64)
    try:
        with _LargestTensor() as seen:
            answer(x, D)
    except Exception as error:
        return _raised(answer, error, x, D)
    if seen.largest < out_features * in_features:
        return None
    return Feedback(
        False,
        f"The numbers are right, but for ΔW of {out_features} × {in_features} a tensor of "
        f"{seen.largest} numbers was made on the way. Sum x first; D need not be copied.",
        "ΔW built",
    )


def invisible_input(answer: Any) -> Feedback:
    """Exercise 01: `answer`, ten numbers, not all 0, with ΔW x = 0 for tiled MiSS with r = 4,
    whatever D."""
    hint = Feedback(
        None,
        f"Fill in `invisible` with {IN_FEATURES} numbers and run again. Which sums does MiSS with "
        f"r = {RANK} make of them?",
    )
    if unanswered(answer):
        return hint
    try:
        x = torch.as_tensor(answer, dtype=torch.float64).detach()
    except Exception as error:
        return Feedback(False, f"That is no list of numbers: {type(error).__name__}: {error}")
    if x.shape != (IN_FEATURES,):
        return Feedback(False, f"x has {IN_FEATURES} numbers; yours has shape {tuple(x.shape)}.")
    if not x.isfinite().all():
        return Feedback(False, "x holds numbers that are not finite.")
    if not x.any():
        return Feedback(
            False, "x = 0 is invisible to every matrix. Find one that is not zero.", "x = 0"
        )
    nothing = 1e-6 * float(x.abs().max())
    sums = shard_sums(x, RANK, "tiled")
    if bool((sums.abs() <= nothing).all()):
        return Feedback(
            True,
            f"All {RANK} sums are 0, so ΔW x = D S = 0 for every D. Such x fill "
            f"{IN_FEATURES - RANK} of {IN_FEATURES} dimensions: no training lets ΔW see them.",
        )
    shown = ", ".join(f"S[{i}] = {value:g}" for i, value in enumerate(sums.tolist()))
    for key, (mistakes, message) in INPUT_MISTAKES.items():
        if any(bool((mistake(x).abs() <= nothing).all()) for mistake in mistakes):
            return Feedback(False, f"{message} Tiled, {shown}.", key)
    return Feedback(False, f"ΔW x = D S, and S is not 0: {shown}.")


INPUT_MISTAKES: dict[str, tuple[list[Callable[[Tensor], Tensor]], str]] = {
    BLOCK: (
        [
            lambda x: shard_sums(x, RANK, "block"),
            lambda x: _padded(x, RANK).unflatten(-1, (RANK, -1)).sum(-1),
        ],
        "This x is invisible in the block layout, where neighbours are summed.",
    ),
    "sum within a shard": (
        [lambda x: _padded(x, RANK).unflatten(-1, (-1, RANK)).sum(-1)],
        "Each slice of 4 sums to 0. But the sums go across the slices: the first place of each, "
        "the second of each, and so on.",
    ),
    "tail forgotten": (
        [lambda x: shard_sums(_cut(x, RANK), RANK, "tiled")],
        "The first eight places cancel, but x₈ and x₉ meet columns 0 and 1 of D too.",
    ),
    "sums to 0 only overall": (
        [lambda x: x.sum()],
        "All of x sums to 0, which is enough for r = 1. Here each of the 4 sums must be 0.",
    ),
}
"""By key: what such an x makes 0, and what to say; the more special first."""
