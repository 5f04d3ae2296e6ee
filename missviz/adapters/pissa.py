"""PiSSA: start the two thin matrices at the weight's own principal part."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.started import StartedProduct, StartedProductAdapter, ready_to_factor
from missviz.adapters.validation import optional, positive_int, store
from missviz.randomness import normal


@dataclass(frozen=True)
class PiSSA(StartedProduct):
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

    family = "PiSSA"
    styles: ClassVar = {"PiSSA": ("green", "^", "dashdot")}

    niter: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, niter=optional(positive_int))

    @property
    def name(self) -> str:
        return super().name + ("" if self.niter is None else f" niter={self.niter}")

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> StartedProductAdapter:
        weight = ready_to_factor("the weight for PiSSA's SVD", base.weight)
        U, S, Vh = top_singular_triples(weight, self.rank, self.niter, generator)
        root = (S / self.scaling).sqrt()
        return StartedProductAdapter(self, base, B0=U * root, A0=root.unsqueeze(-1) * Vh)


def top_singular_triples(
    matrix: Float[Tensor, "out in_"], count: int, niter: int | None, generator: torch.Generator
) -> tuple[Float[Tensor, "out n"], Float[Tensor, " n"], Float[Tensor, "n in_"]]:
    """(U, S, Vᵗ) of the `count` largest singular values: exact, or randomised with `niter`."""
    if niter is None:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        U, S, Vh = randomised_svd(matrix, count, niter, generator)
    return U[:, :count], S[:count], Vh[:count]


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
