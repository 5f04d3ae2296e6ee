"""Bat, block affine transformation: every block of the update is made from that block of W₀."""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import add_to, apply_linear
from missviz.adapters.shards import shard_sums, spread
from missviz.adapters.validation import among, divides, positive_int, store


@dataclass(frozen=True)
class Bat(Method):
    """Cut W₀ into b × b blocks W_oi (output block o, input block i). Three methods are called Bat:

        side="right", index="output"   ΔW_oi = W_oi D_o + D_o   D is (d/b) × b × b   PEFT's "bat"
        side="right", index="input"    ΔW_oi = W_oi D_i + D_i   D is (k/b) × b × b   RWKV-PEFT
        side="left",  index="output"   ΔW_oi = D_o W_oi + D_o   D is (d/b) × b × b   flashbat

    They are different functions. Each is exactly linear in D ("nonlinear" is about W₀, not D), can
    reach full rank at any b, and is tiled MiSS where W₀ = 0. D = 0 at first.

    The last two have exact fast forms that build no ΔW (S = sum of the input blocks x_i):

        input:  y = W₀ (x + blockdiag(D) x) + b + tile(Σ_i D_i x_i)
        left:   y = y₀ + blockdiag(D) (W₀ x) + D_o S  in output block o, with y₀ = W₀ x + b

    Args:
        block_size: b, PEFT's `r` (no rank); must divide out_features and in_features.
        side: the side from which D multiplies a block of W₀.
        index: whether D has one block per "output" block or per "input" block.

    flashbat keeps weights in × out, so its D is the transpose of ours.
    Source: `get_delta_weight` in `peft/tuners/miss/layer.py`; RWKV-PEFT `rwkvLinear.py`;
    `flashbat/blaff.py` in the authors' repository. The MiSS paper (v12) has no Bat section.
    """

    sized_by: ClassVar[str] = "block_size"
    styles: ClassVar = {
        "Bat": ("pink", "X", "long-short"),
        "Bat input": ("pink", "p", "short"),
        "Bat left": ("pink", "8", "dots"),
    }

    block_size: int
    side: Literal["right", "left"] = "right"
    index: Literal["output", "input"] = "output"

    def __post_init__(self) -> None:
        store(self, block_size=positive_int)
        store(self, side=among("right", "left"), index=among("output", "input"))
        if self.side == "left" and self.index == "input":
            raise ValueError('side="left" exists with index="output" only; got index="input"')

    @property
    def name(self) -> str:
        variant = " left" if self.side == "left" else " input" if self.index == "input" else ""
        return f"Bat{variant} b={self.block_size}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.block_size * (in_features if self.index == "input" else out_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        divides("block_size", self.block_size, in_features=in_features, out_features=out_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "BatAdapter":
        if self.side == "left":
            return LeftBatAdapter(self, base)
        return (
            InputBatAdapter(self, base) if self.index == "input" else OutputBatAdapter(self, base)
        )


class BatAdapter(Adapter):
    """D (blocks × b × b). Subclasses say how it meets W₀; here is what they share."""

    stackable = True
    method: Bat

    def __init__(self, method: Bat, base: nn.Linear) -> None:
        super().__init__(method, base)
        features = self.in_features if method.index == "input" else self.out_features
        self.D = self.zeros(features // method.block_size, method.block_size, method.block_size)

    def blocks(self) -> Float[Tensor, "*shared O b I b"]:
        """W₀ cut into blocks: [o, a, i, c] is entry (a, c) of W_oi."""
        b = self.method.block_size
        return self.base.weight.unflatten(-1, (-1, b)).unflatten(-3, (-1, b))

    @abc.abstractmethod
    def delta_blocks(self) -> Float[Tensor, "*member O b I b"]:
        """ΔW cut as `blocks` cuts W₀."""

    def delta(self) -> Float[Tensor, "*member out in_"]:
        return self.delta_blocks().flatten(-2).flatten(-3, -2)

    def block_products(self, z: Float[Tensor, "*member n j b"]) -> Float[Tensor, "*member n j b"]:
        """blockdiag(D) z: D_j z_j for each block j."""
        return torch.einsum("...jac,...njc->...nja", self.D, z)


class OutputBatAdapter(BatAdapter):
    """ΔW_oi = W_oi D_o + D_o. Each output block sees its own mixture of x, so ΔW is built."""

    def delta_blocks(self) -> Float[Tensor, "*member O b I b"]:
        return _output_delta(self.blocks(), self.D)

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        if torch.compiler.is_compiling():
            return self.through_weight(x)  # the compiler decides what to build again
        y: Tensor = _ThroughRebuiltWeight.apply(self.rows(x), self.D, self.blocks())
        return self.as_given(y if self.bias is None else y + self.bias.unsqueeze(-2), x)


def _output_delta(
    blocks: Float[Tensor, "*shared O b I b"], D: Float[Tensor, "*member O b b"]
) -> Float[Tensor, "*member O b I b"]:
    return torch.einsum("...oaic,...oce->...oaie", blocks, D) + D.unsqueeze(-2)


class _ThroughRebuiltWeight(torch.autograd.Function):
    """(W₀ + ΔW) x, with ΔW built once more for the backward pass instead of kept for it.

    Building costs d k b multiply-adds, the products with x cost d k for each token. With
    G = ∂L/∂W: ∂L/∂D_o = Σ_i (W_oiᵀ G_oi + G_oi).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, D: Tensor, blocks: Tensor) -> Tensor:
        weight = (blocks + _output_delta(blocks, D)).flatten(-2).flatten(-3, -2)
        return x @ weight.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, D, blocks = ctx.saved_tensors
        # Under autocast the forward pass had other dtypes.
        direction, x = direction.to(D), x.to(D)
        to_x = to_D = None
        if ctx.needs_input_grad[0]:
            weight = (blocks + _output_delta(blocks, D)).flatten(-2).flatten(-3, -2)
            to_x = direction @ weight
        if ctx.needs_input_grad[1]:
            block = D.shape[-1]
            G = (direction.mT @ x).unflatten(-1, (-1, block)).unflatten(-3, (-1, block))
            to_D = torch.einsum("...oaic,...oaie->...oce", blocks, G) + G.sum(-2)
        return to_x, to_D, None


class InputBatAdapter(BatAdapter):
    """ΔW_oi = W_oi D_i + D_i, so ΔW x = W₀ z + tile(Σ_i z_i) with z_i = D_i x_i."""

    def delta_blocks(self) -> Float[Tensor, "*member O b I b"]:
        products = torch.einsum("...oaic,...ice->...oaie", self.blocks(), self.D)
        return products + self.D.transpose(-3, -2).unsqueeze(-4)

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        blocks = self.rows(x).unflatten(-1, (-1, self.method.block_size))
        z = self.block_products(blocks)
        y: Tensor = self.base((blocks + z).flatten(-2))
        tile = spread(z.sum(-2), self.out_features, "tiled")
        return self.as_given(add_to(y, tile, in_place=True), x)


class LeftBatAdapter(BatAdapter):
    """ΔW_oi = D_o W_oi + D_o, so (ΔW x)_o = D_o ((W₀ x)_o + S) with S = Σ_i x_i."""

    def delta_blocks(self) -> Float[Tensor, "*member O b I b"]:
        products = torch.einsum("...oac,...ocie->...oaie", self.D, self.blocks())
        return products + self.D.unsqueeze(-2)

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Tensor]:
        """W₀ x + b, and (W₀ x)_o + S for each output block o."""
        product, b = apply_linear(x, self.base.weight), self.method.block_size
        met = product.unflatten(-1, (-1, b)) + shard_sums(x, b, "tiled").unsqueeze(-2)
        return product if self.bias is None else product + self.bias.unsqueeze(-2), met

    def correction(self, z: Float[Tensor, "*member n o b"]) -> Float[Tensor, "*member n out"]:
        return self.block_products(z).flatten(-2)
