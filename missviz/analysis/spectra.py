"""Singular values of an update, and of all updates of a model at once."""

from collections import defaultdict
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.update import Update, finite_factors, product_spectrum
from missviz.analysis.products import Updates, named_updates
from missviz.machine import one_thread

TOGETHER = 2**20
"""Bytes of float64 factors that one batch may have. Beyond it a batch is no faster on a CPU: the
time is then all in LAPACK, which takes one matrix after the other."""


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
    delta = update.detach().double()
    # LAPACK takes a tall matrix in half the time of its transpose.
    return torch.linalg.svdvals(delta.mT if delta.shape[-2] < delta.shape[-1] else delta)


class Spectrum(NamedTuple):
    """Singular values of ΔW and what they say of its rank, in float64; NaN where ΔW = 0 has none.

    Attributes:
        values: all min(out, in) singular values, largest first.
        stable_rank, effective_rank, energy: as the functions of these names.
    """

    values: Float[Tensor, "*member n"]
    stable_rank: Float[Tensor, "*member"]
    effective_rank: Float[Tensor, "*member"]
    energy: Float[Tensor, "*member n"]


@torch.no_grad()
def spectra(updates: Updates) -> dict[str, Spectrum]:
    """The spectrum of every update of a model, exact in float64, in one call.

    From factors where there are any, those of small modules of equal shape as one batch; no ΔW is
    built then, and one large module is in float64 at a time. An update without factors (Bat, DoRA)
    costs an SVD of its full size.

    Args:
        updates: updates by module name, such as `missviz.read_peft(folder)`, or an attached model.

    Returns one `Spectrum` per module, in the given order, on the device of its factors.

    Raises:
        TypeError: `updates` is neither a mapping of updates nor a model.
        ValueError: there is no update, or one holds NaN or infinity; the sentence names its module.
    """
    named = named_updates("updates", updates)
    found: dict[str, Spectrum] = {}
    waiting: dict[object, dict[str, tuple[Tensor, Tensor]]] = defaultdict(dict)
    for module, update in named.items():
        try:
            thin = finite_factors(update)
            if thin is None or thin[0].dim() != thin[1].dim():
                found[module] = _measured(update.spectrum())
                continue
        except ValueError as error:
            raise ValueError(f"{module}: {error}") from None
        left, right = thin
        alike = left.shape, right.shape, left.device
        waiting[alike][module] = thin
        size = 8 * (left.numel() + right.numel())
        if (len(waiting[alike]) + 1) * size > TOGETHER:
            found |= _together(waiting.pop(alike))
    for batch in waiting.values():
        found |= _together(batch)
    return {module: found[module] for module in named}


@one_thread()
def _together(batch: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Spectrum]:
    """The spectra of products whose factors have equal shapes."""
    left, right = (
        torch.stack(factors) if len(factors) > 1 else factors[0].unsqueeze(0)
        for factors in zip(*batch.values(), strict=True)
    )
    columns = _measured(product_spectrum(left, right))
    return dict(zip(batch, map(Spectrum._make, zip(*columns, strict=True)), strict=True))


def _measured(values: Float[Tensor, "*member n"]) -> Spectrum:
    return Spectrum(values, stable_rank(values), effective_rank(values), energy(values))


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
