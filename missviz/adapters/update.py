"""What can be said of an update ΔW without a live layer, and of products of thin factors."""

import abc
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.machine import one_thread


class Update(abc.ABC):
    """What can be said of ΔW without a live layer."""

    @abc.abstractmethod
    def delta(self) -> Float[Tensor, "*member out in_"]:
        """ΔW = effective weight minus the original W₀, in full, from the paper's definition."""

    def factors(
        self,
    ) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]] | None:
        """(left, right) with ΔW = left @ right, or None where ΔW is no product of thin factors."""
        return None

    def spectrum(self) -> Float[Tensor, "*member n"]:
        """Singular values of ΔW in float64, all min(out, in) of them, largest first.

        Exact: from the factors where there are any (`product_spectrum`), or of ΔW itself.
        """
        thin = finite_factors(self)
        if thin is None:
            delta = self.delta().detach()
            validation.finite("ΔW", delta)
            return torch.linalg.svdvals(delta.double())
        return product_spectrum(*thin)


FACTORS = "it must return two tensors, (out, r) and (r, in), or None"


def two_factors(thin: Any) -> tuple[Tensor, Tensor]:
    """`thin`, as `factors()` returned it, if it is two tensors whose product there is; else
    ValueError."""
    if not isinstance(thin, tuple | list) or not all(isinstance(one, Tensor) for one in thin):
        raise ValueError(f"factors() returned a {type(thin).__name__}; {FACTORS}")
    if len(thin) != 2:
        raise ValueError(f"factors() returned {len(thin)} tensors; {FACTORS}")
    left, right = thin
    if min(left.dim(), right.dim()) < 2 or left.shape[-1] != right.shape[-2]:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise ValueError(f"factors() are {shapes}, which do not multiply; {FACTORS}")
    return left, right


@torch.no_grad()
@one_thread()
def finite_factors(
    update: Update,
) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]] | None:
    """The update's factors, detached; ValueError where one of them holds NaN or infinity."""
    thin = update.factors()
    if thin is None:
        return None
    left, right = (factor.detach() for factor in two_factors(thin))
    validation.finite("ΔW's left factor", left)
    validation.finite("ΔW's right factor", right)
    return left, right


@one_thread()
def product_spectrum(
    left: Float[Tensor, "*member out r"], right: Float[Tensor, "*member r in_"]
) -> Float[Tensor, "*member n"]:
    """Singular values of left @ right in float64, min(out, in) of them, largest first.

    Exact: from the R of both factors' QR and an SVD of the small core between them, which costs
    (out + in) r² instead of out · in · min(out, in).
    """
    upper, lower = (torch.linalg.qr(factor.double(), mode="r").R for factor in (left, right.mT))
    values = torch.linalg.svdvals(upper @ lower.mT)
    missing = min(left.shape[-2], right.shape[-1]) - values.shape[-1]
    return nn.functional.pad(values, (0, missing))
