"""Lesson 02: a target of rank 1 that MiSS cannot touch."""

from typing import Any

import torch
from torch import Tensor

from missviz.adapters.miss import MiSS
from missviz.analysis.reach import reach
from missviz.analysis.spectra import spectrum
from missviz.check.feedback import Feedback, unanswered

SHAPE = (64, 64)
"""What the lesson asks for."""
COPIES = 4
"""The r of the MiSS that must not see the target."""
NOTHING = 1e-6
"""Shares of energy below it are rounding, in float32 too."""
SMALLEST, LARGEST = 2 * COPIES, 512
"""in_features and out_features: at least two columns for each of D's, and quick to decompose."""


def target_miss_cannot_touch(target: Any) -> Feedback:
    """Exercise 02: `target` M (out, in), a tensor or array, has rank 1, and `MiSS(4)` can be none
    of it: every update of it is orthogonal to M.
    """
    if unanswered(target):
        return Feedback(
            None,
            "Fill in `M` and run again. Write M = u vᵀ with `torch.outer(u, v)`. MiSS sees v only "
            "through sums of the entries that share a column of D.",
        )
    if isinstance(target, str) or callable(target):
        return Feedback(False, "`M` must be a matrix: a tensor or an array of numbers.")
    try:
        tensor = torch.as_tensor(target).detach().cpu()
        if tensor.is_complex():
            raise TypeError("complex")
        matrix = tensor.to_dense().double()
    except Exception as error:
        return Feedback(False, f"`M` is no matrix of real numbers ({error}).")
    return _shape_problem(matrix) or _judge(matrix)


def _shape_problem(matrix: Tensor) -> Feedback | None:
    shape = tuple(matrix.shape)
    if matrix.dim() != 2:
        return Feedback(False, f"M must be out × in; yours has shape {shape}.")
    if not (SMALLEST <= shape[1] <= LARGEST and 1 <= shape[0] <= LARGEST):
        return Feedback(
            False,
            f"M is {shape[0]} × {shape[1]}. Give it {SMALLEST} to {LARGEST} columns, so that each "
            f"column of D has at least two copies, and at most {LARGEST} rows.",
        )
    if not torch.isfinite(matrix).all():
        return Feedback(False, "M has entries that are NaN or infinite.")
    if not matrix.any():
        return Feedback(
            False,
            "M = 0 asks for nothing: every method is there already, and there is no energy to "
            "take a share of.",
            "zero matrix",
        )
    return None


def _judge(matrix: Tensor) -> Feedback:
    matrix = matrix / matrix.abs().max()  # 1e-200 is a number, its square is none
    values = spectrum(matrix)
    rank = int((values > 1e-5 * values[0]).sum())
    share = reach(MiSS(COPIES), matrix)
    if rank > 1:
        invisible = " MiSS touches none of it, so you are close." if share < NOTHING else ""
        return Feedback(
            False,
            f"M has rank {rank}; the point is that even rank 1 can be out of reach.{invisible} "
            "Take one column times one row.",
            "higher rank",
        )
    if share < NOTHING and tuple(matrix.shape) != SHAPE:
        rows, columns = matrix.shape
        return Feedback(
            False,
            f"The idea is right: MiSS r={COPIES} touches none of it. But M is to be "
            f"{SHAPE[0]} × {SHAPE[1]}, and yours is {rows} × {columns}.",
            "another size",
        )
    if share < NOTHING:
        return Feedback(
            True,
            f"Rank 1, and MiSS r={COPIES} reaches {share:.0e} of it: within each group of columns "
            "that share, M sums to zero. Rank is not reach.",
        )
    mistake = _recognised(matrix, share)
    if mistake is None:
        return Feedback(
            False, f"MiSS r={COPIES} reaches {share:.1%} of M. Which sums are not zero?"
        )
    key, message = mistake
    return Feedback(False, f"MiSS r={COPIES} reaches {share:.1%} of M. {message}", key)


def _recognised(matrix: Tensor, share: float) -> tuple[str, str] | None:
    """The wrong idea behind a rank-1 matrix that MiSS does see, and what to say of it."""
    if reach(MiSS(COPIES, layout="block"), matrix) < NOTHING:
        return (
            "wrong layout",
            "It is the block layout that cannot touch it. In tiled MiSS, the default, the columns "
            f"j, j + {COPIES}, j + {2 * COPIES}, … share, not neighbours.",
        )
    turned = matrix.mT
    if turned.shape[1] >= SMALLEST and reach(MiSS(COPIES), turned) < NOTHING:
        return (
            "rows instead of columns",
            "Its transpose would do: your sums are zero down the columns. MiSS copies columns, so "
            "it is v in u vᵀ that must sum to zero in each group.",
        )
    if reach(MiSS(1), matrix) < NOTHING:
        return (
            "one sum instead of four",
            "Each row sums to zero over all columns. That hides it from MiSS r=1; at "
            f"r={COPIES} there are {COPIES} groups, and each needs a sum of zero.",
        )
    if share > 1 - NOTHING:
        return (
            "periodic",
            "That is the opposite: M repeats with MiSS's period, so it is an update of MiSS.",
        )
    filled = matrix.any(dim=0).nonzero().flatten().tolist()
    if len(filled) == 1:
        (column,) = filled
        return (
            "one column",
            f"Only column {column} of it is not zero, and alone it cannot cancel: it shares a "
            f"column of D with those that lie {COPIES}, {2 * COPIES}, … away. Put its negative "
            "into one of these.",
        )
    by_chance = COPIES / matrix.shape[1]
    if by_chance / 20 < share < 6 * by_chance:
        return (
            "random",
            f"A random row does not escape: on average {COPIES}/{matrix.shape[1]} = "
            f"{by_chance:.1%} of it lies in MiSS's reach. Take that part away, or build a row "
            "without it.",
        )
    return None
