"""Products that start at B₀ A₀ ≠ 0: PiSSA, OLoRA and LoRA-GA differ in (B₀, A₀) alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter
from missviz.adapters.linear import Product, apply_linear
from missviz.adapters.scaled import ScaledMethod


@dataclass(frozen=True)
class StartedProduct(ScaledMethod):
    """ΔW = s (B A − B₀ A₀), s = α / r: A, B leave from A₀, B₀.

    Published as a frozen residual W₀ − s B₀ A₀ plus a trained s B A; that is the same function.
    ΔW is measured from W₀, so it is zero at first and its rank is up to 2r, not r. A method of
    this kind adds `family` and an `adapter` that finds B₀ and A₀.
    """

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(2 * self.rank, out_features, in_features)


class StartedProductAdapter(Adapter):
    """A (r × k) and B (d × r), trained, beside A₀ and B₀ as they were."""

    stackable = True
    method: StartedProduct
    A0: Tensor
    B0: Tensor

    def __init__(
        self,
        method: StartedProduct,
        base: nn.Linear,
        B0: Float[Tensor, "out r"],
        A0: Float[Tensor, "r in_"],
    ) -> None:
        super().__init__(method, base)
        # Copies: slices of a factor would keep all of it in memory.
        self.A = self.parameter(A0.clone())
        self.B = self.parameter(B0.clone())
        self.register_buffer("A0", self.A.detach().clone())
        self.register_buffer("B0", self.B.detach().clone())

    def factors(self) -> tuple[Float[Tensor, "*member out r2"], Float[Tensor, "*member r2 in_"]]:
        # ΔW = s (B − B₀) A + s B₀ (A − A₀): exactly zero at first, and in low precision two small
        # terms rather than the difference of two large ones.
        left = torch.cat([self.B - self.B0, self.B0], dim=-1)
        return self.method.scaled(left), torch.cat([self.A, self.A - self.A0], dim=-2)

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """W₀ x + b, and x with A₀ x."""
        y, x = super().frozen(x)
        return y, (x, apply_linear(x, self.A0))

    def correction(self, z: tuple[Tensor, Tensor]) -> Product:
        """ΔW x = s ((B − B₀) A₀ x + B (A − A₀) x), exactly zero at first as well."""
        x, start = z
        moved = apply_linear(x, self.A - self.A0)
        left = torch.cat([self.B - self.B0, self.B], dim=-1)
        return Product(self.method.scaled(left), torch.cat([start, moved], dim=-1))


def ready_to_factor(name: str, matrix: Float[Tensor, "out in_"]) -> Float[Tensor, "out in_"]:
    """`matrix` for an SVD or QR: in at least float32, and ValueError where it is not finite."""
    matrix = matrix.detach()
    validation.finite(name, matrix)
    return matrix if matrix.dtype == torch.float64 else matrix.float()
