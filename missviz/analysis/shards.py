"""ΔW cut into shards: are they copies of each other?"""

import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation


def split_shards(
    delta: Float[Tensor, "out in_"], width: int
) -> tuple[Float[Tensor, "out width"], ...]:
    """ΔW as slices of `width` neighbouring columns; the last is narrower if width does not divide.

    In tiled MiSS with r = width every slice is the same D (MiSS Eq. 4).

    Raises ValueError where delta is not 2-D, empty or not finite, or width exceeds its columns;
    TypeError where width is not an integer.
    """
    if delta.dim() != 2 or delta.numel() == 0:
        raise ValueError(f"expected ΔW of shape (out, in), got {tuple(delta.shape)}")
    validation.finite("ΔW", delta)
    width = validation.positive_int("width", width)
    validation.at_most("width", width, "in_features", delta.shape[1])
    return delta.split(width, dim=1)


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
