"""PiSSA: start the two thin matrices at the weight's own principal part."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Method
from missviz.randomness import normal


@dataclass(frozen=True)
class PiSSA(Method):
    """ΔW = s (B A − B₀ A₀): A, B start at W₀'s top r singular triples and leave from there.

    With W₀ = U S Vᵀ: B₀ = U_r √(S_r / s), A₀ = √(S_r / s) V_rᵀ. The paper freezes the residual
    W_res = W₀ − s B₀ A₀ and trains the rest; that is the same function. ΔW is measured from W₀,
    so its rank is up to 2r, not r, and B A alone is not the update.

    Args:
        rank: r, at most min(out, in).
        alpha: α in s = α / r; None means s = 1.
        niter: None for an exact SVD; else a randomised one with this many power iterations
            (PEFT's `"pissa_niter_4"` is niter=4), much faster on large weights.

    Raises (in `on`): ValueError where W₀ holds NaN or infinity.
    Source: PiSSA §3; `pissa_init` in `peft/tuners/lora/layer.py`.
    """

    rank: int
    alpha: float | None = None
    niter: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", validation.positive_int("rank", self.rank))
        if self.alpha is not None:
            object.__setattr__(self, "alpha", validation.positive_float("alpha", self.alpha))
        if self.niter is not None:
            object.__setattr__(self, "niter", validation.positive_int("niter", self.niter))

    @property
    def name(self) -> str:
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        niter = "" if self.niter is None else f" niter={self.niter}"
        return f"PiSSA r={self.rank}{alpha}{niter}"

    @property
    def scaling(self) -> float:
        """s = α / r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(2 * self.rank, out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        validation.at_most(
            "rank", self.rank, "min(out_features, in_features)", min(out_features, in_features)
        )

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "PiSSAAdapter":
        return PiSSAAdapter(self, base, generator)


class PiSSAAdapter(Adapter):
    """A (r × k) and B (d × r), trained, beside A₀ and B₀ as they were."""

    stackable = True
    method: PiSSA
    A0: Tensor
    B0: Tensor

    def __init__(self, method: PiSSA, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        weight = base.weight.detach()
        validation.finite("the weight for PiSSA's SVD", weight)
        if weight.dtype != torch.float64:
            weight = weight.float()
        if method.niter is None:
            U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
        else:
            U, S, Vh = randomised_svd(weight, method.rank, method.niter, generator)
        root = (S[: method.rank] / method.scaling).sqrt()
        self.A = self.parameter(root.unsqueeze(-1) * Vh[: method.rank])
        self.B = self.parameter(U[:, : method.rank] * root)
        self.register_buffer("A0", self.A.detach().clone())
        self.register_buffer("B0", self.B.detach().clone())

    def factors(self) -> tuple[Float[Tensor, "*member out r2"], Float[Tensor, "*member r2 in_"]]:
        left = self.method.scaling * torch.cat([self.B, -self.B0], dim=-1)
        return left, torch.cat([self.A, self.A0], dim=-2)

    def delta(self) -> Float[Tensor, "*member out in_"]:
        return self.method.scaling * (self.B @ self.A - self.B0 @ self.A0)

    def correction(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        # Exactly zero at first: both terms are then the same arithmetic on the same numbers.
        now, before = (x @ self.A.mT) @ self.B.mT, (x @ self.A0.mT) @ self.B0.mT
        return self.method.scaling * (now - before)


def randomised_svd(
    weight: Float[Tensor, "out in_"], rank: int, niter: int, generator: torch.Generator
) -> tuple[Float[Tensor, "out q"], Float[Tensor, " q"], Float[Tensor, "q in_"]]:
    """Top singular triples by subspace iteration (Halko, Martinsson, Tropp 2011, Alg. 4.4 + 5.1).

    `torch.svd_lowrank` does the same but draws from the global RNG. Eight more directions than
    asked for make the last of them accurate.
    """
    width = min(rank + 8, *weight.shape)
    basis = normal((weight.shape[1], width), 1.0, generator).to(weight)
    basis = torch.linalg.qr(weight @ basis).Q
    for _ in range(niter):
        basis = torch.linalg.qr(weight.mT @ basis).Q
        basis = torch.linalg.qr(weight @ basis).Q
    U, S, Vh = torch.linalg.svd(basis.mT @ weight, full_matrices=False)
    return basis @ U, S, Vh
