"""DoRA: train how long each row of the weight is apart from where it points (DoRA Eq. 5)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.linear import Product, add_to, apply_linear
from missviz.adapters.scaled import ScaledMethod
from missviz.adapters.validation import among, boolean, fill, finite, store
from missviz.randomness import uniform

EPSILON = 1e-5
"""What the published script adds to its column norms."""


@dataclass(frozen=True)
class DoRA(ScaledMethod):
    """W′ = m ∘ V / ‖V‖ with V = W₀ + s B A: direction V, moved as in LoRA, and length m.

        norm="rows"      ‖V‖ and m have one number per output, (d,)    PEFT, the DoRA authors' code
        norm="columns"   one number per input, (k,), and ‖V‖ + 1e-5   the no-free-lunch script

    m starts at ‖W₀‖, so W′ = W₀ at first. With the script's 1e-5 it is only close to W₀: a column
    w starts as w ‖w‖ / (‖w‖ + 1e-5), the one start here that does not keep the contract.

    Args:
        rank: r, at most min(out, in).
        alpha: α in s = α / r; None means s = 1.
        norm: "rows" or "columns".
        norm_gradient: whether ∂L/∂A and ∂L/∂B see that ‖V‖ moves with V. DoRA §4.3 and PEFT hold
            ‖V‖ constant in backward, which saves memory and makes the gradient no derivative;
            the script does not. None means as they do: False for rows, True for columns.

    A starts from U(−1/√k, 1/√k), B at 0. PEFT calls m `lora_magnitude_vector`.
    Raises (in `on`): ValueError where W₀ holds NaN or infinity, or a row without a direction.
    Source: DoRA Eq. 5 and §4.3; `peft/tuners/lora/dora.py`; `monitor.py` in JL-er/MiSS.
    """

    styles: ClassVar = {"DoRA": ("violet", "arrow", "very long")}

    norm: Literal["rows", "columns"] = "rows"
    norm_gradient: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, norm=among("rows", "columns"))
        fill(self, "norm_gradient", self.norm == "columns")
        store(self, norm_gradient=boolean)

    @property
    def family(self) -> str:
        return "DoRA columns" if self.norm == "columns" else "DoRA"

    @property
    def name(self) -> str:
        usual = self.norm_gradient == (self.norm == "columns")
        gradient = "" if usual else f" {'moving' if self.norm_gradient else 'constant'} norm"
        return super().name + gradient

    def num_parameters(self, out_features: int, in_features: int) -> int:
        lengths = out_features if self.norm == "rows" else in_features
        return self.rank * (out_features + in_features) + lengths

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "DoRAAdapter":
        return DoRAAdapter(self, base, generator)


class DoRAAdapter(Adapter):
    """A (r × k), B (d × r) and the lengths m, (d,) or (k,).

    There are no thin factors: stretching rows (or columns) of W₀ is an update of full rank.
    """

    stackable = True
    method: DoRA

    def __init__(self, method: DoRA, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        self.exact_gradient = bool(method.norm_gradient)
        self.along = -1 if method.norm == "rows" else -2
        shape = (method.rank, self.in_features)
        self.A = self.parameter(uniform(shape, 1 / math.sqrt(self.in_features), generator))
        self.B = self.zeros(self.out_features, method.rank)
        weight = base.weight.detach()
        finite("the weight for DoRA's norms", weight)
        self.m = self.parameter(self.lengths(weight))
        zero = int((self.m == 0).sum())
        if method.norm == "rows" and zero:
            raise ValueError(
                f"the weight has {zero} rows of zeros of {self.out_features}; DoRA scales a row by "
                "its norm, so none may be zero"
            )

    def lengths(self, V: Float[Tensor, "*member out in_"]) -> Float[Tensor, "*member n"]:
        """‖V‖: the norm of each row of V, or of each column."""
        return torch.linalg.vector_norm(V, dim=self.along)

    def direction(self) -> Float[Tensor, "*member out in_"]:
        """V = W₀ + s B A."""
        return self.base.weight + self.method.scaled(self.B) @ self.A

    def gain(self, V: Float[Tensor, "*member out in_"]) -> Float[Tensor, "*member n"]:
        """m / ‖V‖, what each row or column of V is multiplied by."""
        lengths = self.lengths(V if self.method.norm_gradient else V.detach())
        return self.m / (lengths if self.method.norm == "rows" else lengths + EPSILON)

    @property
    def weight(self) -> Float[Tensor, "*member out in_"]:
        V = self.direction()
        return self.gain(V).unsqueeze(self.along) * V

    def delta(self) -> Float[Tensor, "*member out in_"]:
        return self.weight - self.base.weight

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        """W₀ x, without the bias, which is not to be stretched; and x."""
        return apply_linear(x, self.base.weight), x

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        """y = (W₀ + ΔW) x + b, for rows as (m/‖V‖) V x + b with V x = W₀ x + s B A x.

        V is then built for its norms alone: while they are constant in backward, no gradient of
        its size is made.
        """
        if self.method.norm == "columns":
            return self.through_weight(x)
        (plain, z), kept = self.begun(x)
        moved = Product(self.method.scaled(self.B), apply_linear(z, self.A))
        y = self.gain(self.direction()).unsqueeze(-2) * add_to(plain, moved, in_place=not kept)
        return self.as_given(y if self.bias is None else y + self.bias.unsqueeze(-2), x)
