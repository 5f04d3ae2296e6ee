"""ΔW cut into shards: are they copies of each other?"""

import math
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation

PARALLEL = 1e-9
"""Columns whose cosine is that near to 1 or −1 are multiples of each other."""

Scale = TypeVar("Scale", float, np.ndarray)


def split_shards(
    delta: Float[Tensor, "out in_"], width: int
) -> tuple[Float[Tensor, "out width"], ...]:
    """ΔW as slices of `width` neighbouring columns; the last is narrower if width does not divide.

    In tiled MiSS with r = width every slice is the same D (MiSS Eq. 4).

    Raises ValueError where delta is not 2-D, empty or not finite, or width exceeds its columns;
    TypeError where width is not an integer.
    """
    return delta.split(_checked_width(delta, width), dim=1)


def _checked_width(delta: Float[Tensor, "out in_"], width: int) -> int:
    if delta.dim() != 2 or delta.numel() == 0:
        raise ValueError(f"expected ΔW of shape (out, in), got {tuple(delta.shape)}")
    validation.finite("ΔW", delta)
    width = validation.positive_int("width", width)
    validation.at_most("width", width, "in_features", delta.shape[1])
    return width


def shard_cosines(delta: Float[Tensor, "out in_"], width: int) -> Float[Tensor, "shards shards"]:
    """Cosine of every two shards, each taken as one long vector, in float64.

    A narrower last shard is compared on the columns that it has. A shard of zeros has no
    direction: its cosines are NaN.

    Raises as `split_shards`.
    """
    shards = split_shards(delta.detach().double(), width)
    padded = torch.stack(
        [torch.nn.functional.pad(shard, (0, width - shard.shape[1])) for shard in shards]
    )
    present = torch.stack(
        [torch.arange(width, device=delta.device) < shard.shape[1] for shard in shards]
    ).to(padded)
    products = torch.einsum("sdw,tdw->st", padded, padded)
    # Length of shard s on the columns that shard t has.
    lengths = torch.einsum("sdw,tw->st", padded.square(), present).sqrt()
    cosines = products / (lengths * lengths.mT)
    return cosines.clamp(-1, 1)


def mean_cosine(cosines: Float[Tensor, "shards shards"]) -> float:
    """Mean over all pairs of different shards; NaN where there is only one shard."""
    shards = cosines.shape[0]
    if shards < 2:
        return float("nan")
    rows, columns = torch.triu_indices(shards, shards, offset=1)
    return float(cosines[rows, columns].mean())


@torch.no_grad()
def mean_shard_cosine(delta: Float[Tensor, "out in_"], width: int) -> float:
    """`mean_cosine(shard_cosines(delta, width))`, without the table of all pairs: where shards are
    one column wide, that is as large as ΔW. Raises as `split_shards`."""
    width, delta = _checked_width(delta, width), delta.double()
    count, rest = divmod(delta.shape[1], width)
    whole, last = delta.split([count * width, rest], dim=1)
    whole = whole.unflatten(1, (count, width))
    # Σ of ⟨u_s, u_t⟩ over pairs of unit vectors: the square of their sum, less their own squares.
    cosines = (_sum_of_units(whole).square().sum() - count) / 2
    if rest:
        # The last one is narrower, and compared on the columns that it has.
        cosines += (_sum_of_units(whole[..., :rest]) * last).sum() / torch.linalg.norm(last)
        count += 1
    pairs = count * (count - 1) // 2
    return float((cosines / pairs).clamp(-1, 1)) if pairs else math.nan


def _sum_of_units(shards: Float[Tensor, "out shards width"]) -> Float[Tensor, "out width"]:
    """Σ of the shards, each divided by its length; NaN where one has none."""
    lengths = torch.linalg.vector_norm(shards, dim=(0, 2))
    return torch.einsum("dsw,s->dw", shards, 1 / lengths)


def bat_cosine(sigma: Scale, block_size: int) -> Scale:
    """1 / (1 + σ²b): the mean cosine of Bat's column shards, b columns wide.

    The mean product of two shards over their mean squared length, where the entries of W₀ are
    independent of D and of each other, with mean 0 and variance σ²; D itself drops out. A single
    layer is close to it where D has more than a few non-zero entries. Two shards share the D of
    "+ D"; each adds a W_oi D of its own, whose mean square is σ²b times that of D. Holds for
    "left" Bat too, not for the input-indexed one. Derived in lesson 03.
    """
    return 1 / (1 + sigma**2 * block_size)


def column_directions(
    delta: Float[Tensor, "out in_"], most: int
) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]] | None:
    """(D, F) with ΔW = D F, each column of ΔW a multiple of a single column of D; None where D
    would have more than `most` columns."""
    found: list[int] = []
    F = torch.zeros(delta.shape[1], delta.shape[1], dtype=delta.dtype)
    for place, column in enumerate(delta.mT):
        if not column.any():
            continue  # no times any column
        for row, first in enumerate(found):
            known = delta[:, first]
            gain = float(known @ column / (known @ known))
            if torch.linalg.norm(column - gain * known) <= PARALLEL * torch.linalg.norm(column):
                F[row, place] = gain
                break
        else:
            F[len(found), place] = 1.0
            found.append(place)
        if len(found) > most:
            return None
    found = found or [0]  # no update yet
    return delta[:, found], F[: len(found)]
