"""ProLoRA: LoRA whose two matrices are themselves made of copies of smaller ones, each rolled."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.scaled import ScaledMethod
from missviz.adapters.validation import (
    at_most,
    non_negative_int,
    optional,
    positive_int,
    store,
)
from missviz.randomness import uniform


@dataclass(frozen=True)
class ProLoRA(ScaledMethod):
    """ΔW = s · B A, where r − u of the r ranks are shared between parts of the input and output.

        A = [A_u ; A₀ | roll(A₀) | roll²(A₀) | …]    A_u is u × k, A₀ is (r − u) × ⌈k/m⌉
        B = [B_u , B₀ ; roll(B₀) ; roll²(B₀) ; …]    B_u is d × u, B₀ is ⌈d/n⌉ × (r − u)

    A₀ serves m chunks of the input, B₀ n chunks of the output; the last chunk is cut off where it
    is too long. Each chunk rolls the shared ranks on by `stride`, so that the chunks differ: chunk
    c has row (i + c · stride) mod (r − u) of A₀ as its row i. With r − u = 1 there is nothing to
    roll. m = n = 1 is LoRA.

    A₀ and A_u start as U(−1/√k, 1/√k) with the whole k, not the chunk's ⌈k/m⌉ ("rectified"
    Kaiming); B₀ = B_u = 0. s = α / r.

    Args:
        rank: r, at most min(out, in).
        unshared: u, how many of the r ranks are not shared; 0 … r.
        input_chunks: m, at most in_features.
        output_chunks: n, at most out_features.
        alpha: α in s = α / r; None means s = 1.
        stride: how far each chunk rolls. None is max(⌊(r − u)/m⌋, 1) for A and
            max(⌊(r − u)/n⌋, 1) for B; 0 is plain sharing, without rotation.

    Source: `modules/chunkwise_sharing_LoRA.py` of Forence1999/PRoLoRA (`unshared_r`,
    `reduce_lora_A_x`, `reduce_lora_B_x`, `lora_A_shift_size`), which puts the unshared ranks last.
    """

    family = "ProLoRA"
    styles: ClassVar = {"ProLoRA": ("crimson", ">", "short-dots")}

    unshared: int = 0
    input_chunks: int = 2
    output_chunks: int = 2
    stride: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, input_chunks=positive_int, output_chunks=positive_int)
        store(self, unshared=non_negative_int, stride=optional(non_negative_int))
        at_most("unshared", self.unshared, "rank", self.rank)

    @property
    def name(self) -> str:
        unshared = f" u={self.unshared}" if self.unshared else ""
        stride = "" if self.stride is None else f" stride={self.stride}"
        chunks = f" {self.output_chunks}×{self.input_chunks}"
        return f"ProLoRA r={self.rank}{unshared}{chunks}{self.shown_alpha}{stride}"

    @property
    def shared_rank(self) -> int:
        """r − u, the rows of A₀."""
        return self.rank - self.unshared

    def stride_of(self, chunks: int) -> int:
        """How far each of `chunks` chunks rolls, in ranks."""
        return max(self.shared_rank // chunks, 1) if self.stride is None else self.stride

    def num_parameters(self, out_features: int, in_features: int) -> int:
        width = math.ceil(in_features / self.input_chunks)
        height = math.ceil(out_features / self.output_chunks)
        return self.unshared * (out_features + in_features) + self.shared_rank * (height + width)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        shared = min(
            self.shared_rank,
            self.different(in_features, self.input_chunks),
            self.different(out_features, self.output_chunks),
        )
        return min(self.unshared + shared, out_features, in_features)

    def different(self, size: int, chunks: int) -> int:
        """How many different vectors the chunks consist of: rolling by full turns gives copies."""
        turn = self.shared_rank // max(1, math.gcd(self.shared_rank, self.stride_of(chunks)))
        return math.ceil(size / chunks) * min(chunks, turn)

    def check_shape(self, out_features: int, in_features: int) -> None:
        super().check_shape(out_features, in_features)
        at_most("input_chunks", self.input_chunks, "in_features", in_features)
        at_most("output_chunks", self.output_chunks, "out_features", out_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "ProLoRAAdapter":
        return ProLoRAAdapter(self, base, generator)


class ProLoRAAdapter(Adapter):
    """A_unshared (u × k), A_shared ((r − u) × ⌈k/m⌉), and B_unshared, B_shared alike."""

    stackable = True
    method: ProLoRA

    def __init__(self, method: ProLoRA, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        bound = 1 / math.sqrt(self.in_features)
        width = math.ceil(self.in_features / method.input_chunks)
        height = math.ceil(self.out_features / method.output_chunks)
        shared, unshared = method.shared_rank, method.unshared
        self.A_unshared = self.parameter(uniform((unshared, self.in_features), bound, generator))
        self.A_shared = self.parameter(uniform((shared, width), bound, generator))
        self.B_unshared = self.zeros(self.out_features, unshared)
        self.B_shared = self.zeros(height, shared)

    def full(
        self,
        unshared: Float[Tensor, "*member u size"],
        shared: Float[Tensor, "*member v width"],
        chunks: int,
    ) -> Float[Tensor, "*member r size"]:
        """All r ranks over the whole dimension: the unshared ones, then the rolled copies."""
        stride = self.method.stride_of(chunks)
        rolled = torch.cat([shared.roll(-c * stride, -2) for c in range(chunks)], -1)
        return torch.cat([unshared, rolled[..., : unshared.shape[-1]]], -2)

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        A = self.full(self.A_unshared, self.A_shared, self.method.input_chunks)
        B = self.full(self.B_unshared.mT, self.B_shared.mT, self.method.output_chunks).mT
        return self.method.scaled(B), A
