"""Shards: which entry of a small D stands at each place of a large dimension, and its two uses.

A dimension of `size` places is served by `count` entries. Two layouts say which entry serves which
place (0-based):

    tiled   0 1 2 0 1 2 0 1     place j holds entry j mod count            (MiSS Eq. 4, PEFT)
    block   0 0 0 1 1 1 2 2     contiguous blocks, sizes as in array_split (MiSS Eq. 2-3)

Both are `shard_owner`. With the 0/1 matrix S[e, j] = 1 iff owner(j) = e, `shard_sums` is x Sᵀ and
`spread` is z S; neither builds S. The two layouts differ by a fixed permutation of the places.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Layout = Literal["tiled", "block"]
LAYOUTS: tuple[str, ...] = ("tiled", "block")


def shard_owner(size: int, count: int, layout: str, device: torch.device) -> Int[Tensor, " size"]:
    """The entry, 0 … count − 1, that serves each of `size` places."""
    places = torch.arange(size, device=device)
    if layout == "tiled":
        return places % count
    longer, floor = size % count, size // count
    split = longer * (floor + 1)
    return torch.where(places < split, places // (floor + 1), longer + (places - split) // floor)


def shard_matrix(size: int, count: int, layout: str, like: Tensor) -> Float[Tensor, "count size"]:
    """S with S[e, j] = 1 iff entry e serves place j; S Sᵀ = diag(places that each entry serves)."""
    owner = shard_owner(size, count, layout, like.device)
    return (owner == torch.arange(count, device=like.device).unsqueeze(-1)).to(like.dtype)


def copies_of(
    D: Float[Tensor, "*member rows columns"], out_features: int, in_features: int, layout: str
) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
    """(left, right) with left @ right = D copied over both dimensions, r = min(rows, columns).

    The longer side of D is copied, and stands beside the 0/1 matrix of the other: the matrix of a
    side that is not shared would be an identity as large as ΔW.
    """
    rows, columns = D.shape[-2:]
    members = D.shape[:-2]
    if rows < columns:
        left = shard_matrix(out_features, rows, layout, D).mT
        right = D if columns == in_features else spread(D, in_features, layout)
    else:
        left = D if rows == out_features else spread(D.mT, out_features, layout).mT
        right = shard_matrix(in_features, columns, layout, D)
    return left.expand(*members, -1, -1), right.expand(*members, -1, -1)


def shard_sums(
    x: Float[Tensor, "*batch size"], count: int, layout: str
) -> Float[Tensor, "*batch count"]:
    """Sum of the places that each entry serves: x Sᵀ, without a copy of x (MiSS Eq. 5)."""
    if torch.compiler.is_compiling():
        return _sums(x, count, layout)  # the compiler arranges the derivative itself
    sums: Tensor = _ShardSums.apply(x, count, layout)
    return sums


class _ShardSums(torch.autograd.Function):
    """x Sᵀ with the derivative z S in one step; taken apart, it would be made twice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, count: int, layout: str) -> Tensor:
        return _sums(x, count, layout)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, str], output: Tensor) -> None:
        x, ctx.count, ctx.layout = inputs
        ctx.size = x.shape[-1]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, None, None]:
        return spread(direction, ctx.size, ctx.layout), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: object) -> Tensor:
        return _sums(tangent, ctx.count, ctx.layout)


def _sums(
    x: Float[Tensor, "*batch size"], count: int, layout: str
) -> Float[Tensor, "*batch count"]:
    size = x.shape[-1]
    if layout == "tiled":
        blocks, rest = divmod(size, count)
        whole = x[..., : size - rest]
        if x.dim() > 2 and x.stride(-2) == 1:
            # Features come first in memory, as in an ensemble; six times as fast along them.
            sums = whole.mT.unflatten(-2, (blocks, count)).sum(-3).mT
        else:
            sums = whole.unflatten(-1, (blocks, count)).sum(-2)
        if rest:
            sums[..., :rest] += x[..., size - rest :]
        return sums
    floor, longer = divmod(size, count)
    split = longer * (floor + 1)
    long, short = x.split([split, size - split], -1)
    sums = short.unflatten(-1, (count - longer, floor)).sum(-1)
    if not longer:
        return sums
    return torch.cat([long.unflatten(-1, (longer, floor + 1)).sum(-1), sums], -1)


def spread(
    z: Float[Tensor, "*batch count"], size: int, layout: str
) -> Float[Tensor, "*batch size"]:
    """Each place gets its entry's value: z S, the transpose of `shard_sums`."""
    count = z.shape[-1]
    if layout == "tiled":
        copies = -(-size // count)
        return z.repeat(*[1] * (z.dim() - 1), copies)[..., :size]
    return z.index_select(-1, shard_owner(size, count, layout, z.device))
