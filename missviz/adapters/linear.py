"""Linear layers, with or without a leading member dimension: y = W x + b."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


def rows_of(x: Tensor, in_features: int, *members: int) -> Float[Tensor, "*member n in_"]:
    """x (..., in) in rows; with `members`, those of all of them one after the other, shared out.

    Raises ValueError where x ends in another number, or does not divide among the members.
    """
    if x.shape[-1] != in_features:
        raise ValueError(f"x of shape {tuple(x.shape)} does not end in in_features={in_features}")
    if members:
        check_divides(x, math.prod(x.shape[:-1]), members[0])
    return x.reshape(*members, -1, in_features)


def check_divides(x: Tensor, rows: int, members: int) -> None:
    """ValueError where the rows of x cannot be shared out to members."""
    if rows % members:
        raise ValueError(
            f"x of shape {tuple(x.shape)} does not divide among {members} members; a stack takes "
            "the inputs of all of them, one after the other"
        )


def as_given(
    y: Float[Tensor, "*member n out"], x: Float[Tensor, "*batch in_"], features_first: bool
) -> Float[Tensor, "*batch out"]:
    """y with the leading dimensions of x again and, unless features may come first, in memory as
    nn.Linear's would be: networks call `view` on it."""
    y = y.reshape(*x.shape[:-1], y.shape[-1])
    return y if features_first else y.contiguous()


def apply_linear(
    x: Float[Tensor, "*batch in_"],
    weight: Float[Tensor, "*member out in_"],
    bias: Float[Tensor, "... out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """y = W x + b; with a leading member dimension on W and b, member e maps x[e] of shape (n, in).

    The member dimension is how an ensemble of adapters runs as one (`missviz.experiments`).
    """
    if weight.dim() == 2:
        return nn.functional.linear(x, weight, bias)
    # As W xᵀ, so that features come first in memory: batched BLAS takes up to eight times as long
    # for the thin products that x Wᵀ has in its backward pass, and leaves ∂L/∂W transposed.
    if bias is None:
        return torch.bmm(weight, x.mT).mT
    return torch.baddbmm(bias.unsqueeze(-1), weight, x.mT).mT


@dataclass(frozen=True)
class Product:
    """left z, not multiplied yet: it is added to y as it is made. `2 * product` is 2 left z."""

    left: Float[Tensor, "*member out r"]
    z: Float[Tensor, "*member n r"]

    def __rmul__(self, factor: float) -> "Product":
        return Product(factor * self.left, self.z)


def add_linear(
    y: Float[Tensor, "*batch out"],
    x: Float[Tensor, "*batch in_"],
    weight: Float[Tensor, "*member out in_"],
    *,
    in_place: bool = False,
) -> Float[Tensor, "*batch out"]:
    """y + W x as one product, which needs no room for W x; `in_place` changes y, of shape (n, out),
    where there are no members. Where an autocast context gave y another dtype, it keeps that."""
    x, weight = x.to(y.dtype), weight.to(y.dtype)
    if weight.dim() > 2:
        # In the layout that y has; the layer after it may ask for that.
        if y.is_contiguous():
            return torch.baddbmm(y, x, weight.mT)
        return torch.baddbmm(y.mT, weight, x.mT).mT
    # vmap has no rule for addmm_, and would go through its members one by one.
    if in_place and weight.dim() == y.dim() == 2 and not _is_batched(weight):
        return y.addmm_(x, weight.mT)
    return y + nn.functional.linear(x, weight)


def add_to(
    y: Float[Tensor, "*batch out"],
    change: Float[Tensor, "*batch out"] | Product,
    *,
    in_place: bool = False,
) -> Float[Tensor, "*batch out"]:
    """y + `change`, in the dtype of y. With `in_place` y may be changed, which saves a table of its
    size."""
    if isinstance(change, Product):
        return add_linear(y, change.z, change.left, in_place=in_place)
    # Under vmap y may be one for all members, with no room for a change of each.
    if in_place and (_is_batched(y) or not _is_batched(change)):
        return y.add_(change)
    return y + change.to(y.dtype)


def _is_batched(tensor: Tensor) -> bool:
    """Whether vmap hides a member dimension of it."""
    return bool(torch._C._functorch.is_batchedtensor(tensor))


def linear_with(
    weight: Float[Tensor, "out in_"], bias: Float[Tensor, " out"] | None = None
) -> nn.Linear:
    """An nn.Linear around these tensors; nothing is copied.

    nn.Linear itself would first draw a start from the global RNG, and `nn.utils.skip_init`, which
    does not, loads the compiler.
    """
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return linear
