"""MoRA: one square matrix instead of two thin ones, so that its rank is as large as it can be."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import apply_linear
from missviz.adapters.shards import shard_owner, shard_sums, spread
from missviz.adapters.validation import among, at_most, positive_int, store


@dataclass(frozen=True)
class MoRA(Method):
    """LoRA's budget of r (d + k) numbers in one square M (r̂ × r̂), r̂ = ⌊√((d + k) r) + ½⌋.

    M = 0 at first, no scaling. x is cut into n = ⌈k / r̂⌉ blocks x_0 … x_{n−1} of r̂ numbers; where
    r̂ does not divide k, the last block goes on with x from its beginning. What M makes of them
    fills the output in blocks y_0, y_1, … of r̂ numbers, the last one cut off:

        kind="sum"      y_o = M Σ_b x_b               the authors' type 1, paper Eq. 6; rank ≤ r̂
        kind="rotate"   y_o = M R_b x_b, b = o mod n  the authors' type 6, paper Eq. 9; any rank

    R_b turns each pair of entries (i, i + r̂/2) by the angle b · 10000^(−2i/r̂), as rotary position
    embeddings do: M then sees which block it is working on. "sum" is MiSS with r = mini = r̂ where
    r̂ divides k and d, and another function where it does not divide k: MiSS pads with zeros.

    Args:
        rank: r of the LoRA with the same budget, at most min(out, in).
        kind: "rotate" or "sum".

    For "rotate" r̂ is rounded down to an even number (at least 2). The authors' code does not round
    and fails on odd r̂; it also fails where r̂ > 2k, where x here wraps around more than once.

    Source: `_apply_mora` and `get_delta_weight` in `peft-mora/src/peft/tuners/lora/layer.py` of
    kongds/MoRA (`mora_type`); equation numbers as in its README. Verified: both kinds against the
    lines above, by hand, and against forward and merge transcribed from that file, on layers up to
    19 × 19 ("rotate" to 5e-7, as its angles are float32). Not verified: the authors' package
    itself, which was not run (PEFT 0.21 has no MoRA), and the paper's text.
    """

    styles: ClassVar = {"MoRA": ("salmon", "ell", "wide")}

    rank: int
    kind: Literal["rotate", "sum"] = "rotate"

    def __post_init__(self) -> None:
        store(self, rank=positive_int, kind=among("rotate", "sum"))

    @property
    def name(self) -> str:
        return f"MoRA{' sum' if self.kind == 'sum' else ''} r={self.rank}"

    def side(self, out_features: int, in_features: int) -> int:
        """r̂, the rows and columns of M."""
        side = int(math.sqrt((out_features + in_features) * self.rank) + 0.5)
        return side if self.kind == "sum" else max(2, side - side % 2)

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.side(out_features, in_features) ** 2

    def rank_bound(self, out_features: int, in_features: int) -> int:
        smaller = min(out_features, in_features)
        if self.kind == "rotate":
            return smaller
        return min(self.side(out_features, in_features), smaller)

    def check_shape(self, out_features: int, in_features: int) -> None:
        at_most("rank", self.rank, "min(out_features, in_features)", min(out_features, in_features))

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "MoRAAdapter":
        return (SumMoRAAdapter if self.kind == "sum" else RotateMoRAAdapter)(self, base)


class MoRAAdapter(Adapter):
    """M (r̂ × r̂). Subclasses say what it is applied to; here is what they share."""

    stackable = True
    method: MoRA

    def __init__(self, method: MoRA, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.side = method.side(self.out_features, self.in_features)
        self.blocks = math.ceil(self.in_features / self.side)
        self.M = self.zeros(self.side, self.side)

    def wrapped(self) -> Int[Tensor, " n_side"]:
        """Which input stands at each of the n r̂ places of the blocks."""
        return shard_owner(self.blocks * self.side, self.in_features, "tiled", self.M.device)

    def unwrapped(
        self, wide: Float[Tensor, "*member rows n_side"]
    ) -> Float[Tensor, "*member rows in_"]:
        """For each input the sum of the places where it stands."""
        empty = wide.new_zeros(*wide.shape[:-1], self.in_features)
        return empty.index_add(-1, self.wrapped(), wide)


class SumMoRAAdapter(MoRAAdapter):
    """ΔW consists of copies of M: in every block of r̂ rows and r̂ columns, before wrapping."""

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        tall = spread(self.M.mT, self.out_features, "tiled").mT
        identities = torch.eye(self.side).to(self.M).repeat(1, self.blocks)
        members = self.M.shape[:-2]
        return tall, self.unwrapped(identities).expand(*members, -1, -1)

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        """W₀ x + b, and the sum of the blocks of x."""
        y, x = super().frozen(x)
        return y, shard_sums(x.index_select(-1, self.wrapped()), self.side, "tiled")

    def correction(self, z: Float[Tensor, "*member n side"]) -> Float[Tensor, "*member n out"]:
        return spread(apply_linear(z, self.M), self.out_features, "tiled")


class RotateMoRAAdapter(MoRAAdapter):
    """ΔW = blockdiag(M R_0, …, M R_{n−1}), repeated or cut off to d rows, before wrapping."""

    def angles(self) -> Float[Tensor, "n half"]:
        """The angle by which R_b turns pair i."""
        block = torch.arange(self.blocks, dtype=torch.float64, device=self.M.device)
        pair = torch.arange(self.side // 2, dtype=torch.float64, device=self.M.device)
        return torch.outer(block, 10000 ** (-2 * pair / self.side))

    def delta(self) -> Float[Tensor, "*member out in_"]:
        cos, sin = self.angles().cos().diag_embed(), self.angles().sin().diag_embed()
        R = torch.cat([torch.cat([cos, -sin], -1), torch.cat([sin, cos], -1)], -2).to(self.M)
        turned = self.M.unsqueeze(-3) @ R
        own = torch.eye(self.blocks).to(self.M)[:, None, :, None]
        diagonal = (own * turned.unsqueeze(-2)).flatten(-2).flatten(-3, -2)
        return self.unwrapped(spread(diagonal.mT, self.out_features, "tiled").mT)

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        """W₀ x + b, and each block of x, turned; blocks come first, so that one product serves them
        all, with or without members."""
        y, x = super().frozen(x)
        blocks = x.index_select(-1, self.wrapped()).unflatten(-1, (self.blocks, self.side))
        first, second = blocks.chunk(2, -1)
        cos, sin = self.angles().cos().to(x), self.angles().sin().to(x)
        turned = torch.cat([cos * first - sin * second, sin * first + cos * second], -1)
        return y, turned.movedim(-2, 0)

    def correction(
        self, z: Float[Tensor, "blocks *member n side"]
    ) -> Float[Tensor, "*member n out"]:
        made = z @ self.M.mT
        return spread(made.movedim(0, -2).flatten(-2), self.out_features, "tiled")
