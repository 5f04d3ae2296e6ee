"""LoRA-GA: start the two thin matrices at singular vectors of the first gradient."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.pissa import top_singular_triples
from missviz.adapters.started import StartedProduct, StartedProductAdapter, ready_to_factor
from missviz.adapters.validation import (
    among,
    at_most,
    optional,
    positive_float,
    positive_int,
    store,
)


@dataclass(frozen=True)
class LoRAGA(StartedProduct):
    """ΔW = s (B A − B₀ A₀) with A₀, B₀ from the gradient G = ∂L/∂W₀ = U S Vᵀ; s = α / r.

    A₀ takes r of the first 2r rows of Vᵀ, B₀ takes r of the first 2r columns of U S (counted
    from 0), and B₀ or both are scaled:

        direction="ArB2r"   A₀: 0 … r−1        B₀: r … 2r−1
        direction="A2rBr"   A₀: r … 2r−1       B₀: 0 … r−1
        direction="ArBr"    A₀: 1, 3, 5, …     B₀: 0, 2, 4, …
        direction="random"  A₀, B₀: the same random r

        scale="stable"      B₀ · d^¼ / √γ
        scale="weight_svd"  B₀ · σ₁(W₀) / σ, σ the singular value of B₀'s first column
        scale="gd_scale"    A₀ / s and B₀ / s
        scale="unit"        as they are

    The names, the defaults and the formulas are PEFT's, which multiplies B₀ by S; the paper was
    not checked. PEFT's SVD is randomised and draws from the global RNG; ours is exact. B₀ carries
    the gradient's unit (except with "weight_svd"), so a loss twice as large starts B twice as far
    out. Where G has rank r or less, "ArB2r" gives B₀ = 0: a LoRA whose A sees the gradient's rows.

    Args:
        rank: r, at most half of min(out, in).
        alpha: α in s = α / r; None means s = 1.
        direction: which singular vectors go where.
        scale: the size of B₀ (and A₀).
        gamma: γ, for scale="stable".
        niter: None for an exact SVD; else a randomised one with this many power iterations.

    Bound by `method.on(linear, gradient=G)` or `missviz.attach(model, method, calibration=loss)`.

    Raises (in `on`): ValueError where G, or W₀ with "weight_svd", holds NaN or infinity.
    Source: `lora_ga_init` in `peft/tuners/lora/layer.py`, `peft/tuners/lora/loraga.py`.
    """

    needs_gradient: ClassVar[bool] = True
    family = "LoRA-GA"
    styles: ClassVar = {"LoRA-GA": ("turquoise", (3, 0, 20), "wide")}

    direction: Literal["ArB2r", "A2rBr", "ArBr", "random"] = "ArB2r"
    scale: Literal["stable", "weight_svd", "gd_scale", "unit"] = "stable"
    gamma: float = 16.0
    niter: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, direction=among("ArB2r", "A2rBr", "ArBr", "random"))
        store(self, scale=among("stable", "weight_svd", "gd_scale", "unit"))
        store(self, gamma=positive_float, niter=optional(positive_int))

    @property
    def name(self) -> str:
        direction = "" if self.direction == "ArB2r" else f" {self.direction}"
        scale = "" if self.scale == "stable" else f" {self.scale}"
        gamma = "" if self.gamma == 16 else f" γ={self.gamma:g}"
        niter = "" if self.niter is None else f" niter={self.niter}"
        return super().name + direction + scale + gamma + niter

    def check_shape(self, out_features: int, in_features: int) -> None:
        half = min(out_features, in_features) // 2
        at_most("rank", self.rank, "min(out_features, in_features) / 2", half)

    def adapter(  # type: ignore[override]  # with needs_gradient, `bind` gives the gradient
        self, base: nn.Linear, generator: torch.Generator, gradient: Float[Tensor, "out in_"]
    ) -> StartedProductAdapter:
        G = ready_to_factor("gradient", gradient)
        U, S, Vh = top_singular_triples(G, 2 * self.rank, self.niter, generator)
        of_a, of_b = self._places(generator)
        A0, B0 = Vh[of_a], U[:, of_b] * S[of_b]
        if self.scale == "stable":
            B0 = B0 * (base.out_features**0.25 / self.gamma**0.5)
        elif self.scale == "weight_svd" and S[of_b[0]] > 0:
            weight = ready_to_factor("the weight for LoRA-GA's SVD", base.weight)
            B0 = B0 * (torch.linalg.matrix_norm(weight, 2) / S[of_b[0]])
        elif self.scale == "gd_scale":
            A0, B0 = A0 / self.scaling, B0 / self.scaling
        return StartedProductAdapter(self, base, B0=B0, A0=A0)

    def _places(self, generator: torch.Generator) -> tuple[list[int], list[int]]:
        """Which of the first 2r singular triples A₀ takes, and which B₀."""
        both = list(range(2 * self.rank))
        if self.direction == "ArB2r":
            return both[: self.rank], both[self.rank :]
        if self.direction == "A2rBr":
            return both[self.rank :], both[: self.rank]
        if self.direction == "ArBr":
            return both[1::2], both[0::2]
        drawn = torch.randperm(2 * self.rank, generator=generator, device=generator.device)
        return drawn[: self.rank].tolist(), drawn[: self.rank].tolist()
