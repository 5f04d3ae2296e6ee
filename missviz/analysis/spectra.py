"""Singular values of an update."""

import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Update


def spectrum(
    update: Update | Float[Tensor, "*batch out in_"],
) -> Float[Tensor, "*batch n"]:
    """Exact singular values of ΔW in float64, all min(out, in) of them, largest first.

    Args:
        update: an adapter (or any Update), whose factors are used where there are any, or ΔW
            itself, (..., out, in).

    Raises:
        TypeError: neither of them, or not of a floating-point dtype.
        ValueError: a tensor with fewer than two dimensions, or with NaN or infinite entries.
    """
    if isinstance(update, Update):
        return update.spectrum()
    if not isinstance(update, Tensor):
        raise TypeError(f"expected an adapter or a tensor, got {type(update).__name__}")
    if update.dim() < 2:
        raise ValueError(f"expected ΔW of shape (..., out, in), got {tuple(update.shape)}")
    if not update.is_floating_point():
        raise TypeError(f"ΔW of dtype {update.dtype} is not real floating point")
    validation.finite("ΔW", update)
    return torch.linalg.svdvals(update.detach().double())


def stable_rank(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Σσ² / σ₁² of singular values: between 1 and the rank; NaN for ΔW = 0."""
    return values.square().sum(-1) / values.amax(-1).square()


def effective_rank(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """exp of the entropy of σ / Σσ (Roy and Vetterli 2007), from 1 to the rank; NaN for ΔW = 0."""
    shares = values / values.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def energy(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """Share of Σσ² in the first 1, 2, … singular values; NaN for ΔW = 0."""
    squares = values.square()
    return squares.cumsum(-1) / squares.sum(-1, keepdim=True)
