"""ΔW without a layer, and of many: a product of two factors, singular vectors, updates by name."""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter
from missviz.adapters.training import adapters_in
from missviz.adapters.update import Update, two_factors
from missviz.machine import one_thread

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest count as zero: float32, in which adapters are
trained and kept, cannot tell them from rounding."""
ROUNDING = 1e-10
"""A product this small relative to its factors is a sum that cancels: zero, but for rounding."""

Updates = Mapping[str, Update] | nn.Module
"""Updates by module name, or an attached model."""


class Product(Update):
    """ΔW = left @ right, and nothing else is known of it.

    Args:
        left: (out, r).
        right: (r, in).
        method: what it is called in tables.

    Raises ValueError where the shapes do not go together.
    """

    def __init__(
        self, left: Float[Tensor, "out r"], right: Float[Tensor, "r in_"], method: str = "product"
    ) -> None:
        if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[0]:
            raise ValueError(
                f"left of shape {tuple(left.shape)} and right of shape {tuple(right.shape)}; "
                "they must be (out, r) and (r, in)"
            )
        self.left, self.right, self.method = left, right, method
        self.shape = left.shape[0], right.shape[1]
        self.rank = left.shape[1]
        self.num_parameters = left.numel() + right.numel()

    def factors(self) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]]:
        return self.left, self.right

    def delta(self) -> Float[Tensor, "out in_"]:
        return self.left @ self.right


@torch.no_grad()
def shortened(
    update: Update, basis: bool = True
) -> tuple[Float[Tensor, "out n"] | None, Float[Tensor, "n in_"]]:
    """(Q, short) in float64 with ΔW = Q @ short, where Q has orthonormal columns; None is identity.

    `short` has the norm, the singular values and the products between columns that ΔW has, and as
    few rows as its factors have rank. An update that has no factors is its own `short`. Without
    `basis` Q is not computed, and comes as out × 0.

    Raises ValueError where ΔW is not 2-D, or holds NaN or infinity.
    """
    with one_thread():
        thin = update.factors()
    if thin is not None:
        thin = two_factors(thin)
    else:
        if isinstance(update, Adapter):
            # In float64 from the start: rounding of W₀ + ΔW would show as ΔW.
            update = copy.deepcopy(update).cpu().double()
        delta = _checked("ΔW", update.delta())
        return None, delta
    with one_thread():
        left = _checked("ΔW's left factor", thin[0])
        Q, R = torch.linalg.qr(left, mode="reduced" if basis else "r")
        if not basis:
            Q = left[:, :0].clone()
        del left  # so that it is not in memory beside the right one
        right = _checked("ΔW's right factor", thin[1])
        short = R @ right
        terms = torch.linalg.norm(R) * torch.linalg.norm(right)
        cancels = torch.linalg.norm(short) <= ROUNDING * terms
    return Q, short.zero_() if cancels else short


def _checked(name: str, values: Tensor) -> Tensor:
    if values.dim() != 2:
        raise ValueError(f"{name} of shape {tuple(values.shape)} is not that of one layer")
    validation.finite(name, values)
    return values.detach().cpu().double()


class Decomposition(NamedTuple):
    """ΔW = U diag(S) Vᵀ in float64, largest first, only where S is above zero."""

    U: Float[Tensor, "out n"]
    S: Float[Tensor, " n"]
    V: Float[Tensor, "in_ n"]


def decompose(update: Update) -> Decomposition:
    """Singular vectors and values of ΔW (out, in); raises as `shortened`."""
    Q, short = shortened(update)
    U, S, Vh = torch.linalg.svd(short, full_matrices=False)
    rank = numerical_rank(S)
    U, S, V = U[:, :rank], S[:rank], Vh[:rank].mT
    return Decomposition(U if Q is None else Q @ U, S, V)


def numerical_rank(values: Float[Tensor, " n"]) -> int:
    """How many of these singular values, largest first, are more than rounding."""
    return int((values > NEGLIGIBLE * values[:1]).sum())


def named_updates(argument: str, updates: Updates) -> Mapping[str, Update]:
    """The updates by module name; TypeError or ValueError that names the argument, if none."""
    if isinstance(updates, nn.Module):
        return adapters_in(updates)
    if not isinstance(updates, Mapping):
        raise TypeError(
            f"{argument} of type {type(updates).__name__}; give updates by module name, such as "
            "missviz.read_peft(folder), or an attached model"
        )
    if not updates:
        raise ValueError(f"{argument} is empty: there is no update in it")
    for module, update in updates.items():
        if not isinstance(update, Update):
            raise TypeError(f"{argument}: {module} is no update, but {type(update).__name__}")
    return updates
