"""LoHa: the Hadamard product of two LoRAs, so that the ranks multiply (FedPara Prop. 1)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.scaled import ScaledMethod
from missviz.randomness import uniform


@dataclass(frozen=True)
class LoHa(ScaledMethod):
    """ΔW = s · (w1_a w1_b) ∘ (w2_a w2_b), entry by entry; both factors have rank r, ΔW up to r².

    w1_a, w2_a are d × r and start as U(−1/√r, 1/√r), w1_b is r × k and starts as U(−1/√k, 1/√k);
    w2_b (r × k) = 0, so that ΔW = 0 at first. s = α / r.

    The product of two entries of rank-r matrices is a sum over pairs (a, b) of rank-1 terms, so
    ΔW = L R with r² columns L[:, ab] = s · w1_a[:, a] ∘ w2_a[:, b], and R alike (Khatri-Rao
    products). That is worth it only while r² is small; forward builds ΔW, as PEFT's does.

    Args:
        rank: r of each factor, at most min(out, in).
        alpha: α in the scaling s; None means α = r, so that s = 1.

    Source: FedPara Prop. 1; `peft/tuners/loha/layer.py`.
    """

    family = "LoHa"
    styles: ClassVar = {"LoHa": ("mustard", (5, 1, 36), "short-dots")}

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return 2 * self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank**2, out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "LoHaAdapter":
        return LoHaAdapter(self, base, generator)


class LoHaAdapter(Adapter):
    """Two pairs of thin matrices: w1_a, w2_a (d × r) and w1_b, w2_b (r × k)."""

    stackable = True
    method: LoHa

    def __init__(self, method: LoHa, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        tall, wide = (self.out_features, method.rank), (method.rank, self.in_features)

        def kaiming(shape: tuple[int, int]) -> nn.Parameter:
            # PEFT draws each matrix on its own, so the fan-in is its own last dimension.
            return self.parameter(uniform(shape, 1 / math.sqrt(shape[1]), generator))

        self.w1_a, self.w1_b, self.w2_a = kaiming(tall), kaiming(wide), kaiming(tall)
        self.w2_b = self.zeros(*wide)

    def delta(self) -> Float[Tensor, "*member out in_"]:
        return self.method.scaling * (self.w1_a @ self.w1_b) * (self.w2_a @ self.w2_b)

    def factors(
        self,
    ) -> tuple[Float[Tensor, "*member out r2"], Float[Tensor, "*member r2 in_"]] | None:
        thin = hadamard_factors(self.w1_a, self.w1_b, self.w2_a, self.w2_b)
        return None if thin is None else (self.method.scaled(thin[0]), thin[1])

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        return self.through_weight(x)


def hadamard_factors(
    w1_a: Float[Tensor, "*member out r"],
    w1_b: Float[Tensor, "*member r in_"],
    w2_a: Float[Tensor, "*member out r"],
    w2_b: Float[Tensor, "*member r in_"],
) -> tuple[Float[Tensor, "*member out r2"], Float[Tensor, "*member r2 in_"]] | None:
    """(w1_a w1_b) ∘ (w2_a w2_b) as a product of r² columns and rows; None where they are not fewer
    than its own."""
    if w1_b.shape[-2] ** 2 >= min(w1_a.shape[-2], w1_b.shape[-1]):
        return None
    left = w1_a.unsqueeze(-1) * w2_a.unsqueeze(-2)
    right = w1_b.unsqueeze(-2) * w2_b.unsqueeze(-3)
    return left.flatten(-2), right.flatten(-3, -2)
