"""AdaLoRA: a product in the form of an SVD, whose least important terms are dropped on the way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.scaled import ScaledMethod
from missviz.adapters.validation import (
    at_most,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    store,
)
from missviz.randomness import normal


@dataclass(frozen=True)
class AdaLoRA(ScaledMethod):
    """ΔW = s B (E ∘ A): r triplets (column of B, entry of E, row of A), s = α / (r + 1e-5).

    E (r × 1) = 0 at first; A (r × k) and B (d × r) are N(0, 0.02²). A term of the loss pulls A's
    rows and B's columns towards orthonormal ones, with which s |E| are ΔW's singular values:

        penalty = γ · mean(‖A Aᵀ − I‖_F, ‖Bᵀ B − I‖_F)

    as PEFT has it; the paper's Eq. 4 has the sum of the squared norms.

    With a `target_rank`, triplets compete across all layers of the method. Each step smooths, for
    every number p, its sensitivity I = |p · ∂L/∂p| and how uncertain that is:

        Ī ← β₁ Ī + (1 − β₁) I          U ← β₂ U + (1 − β₂) |I − Ī|

    A triplet's score is Ī·U of its entry of E, plus the means of Ī·U over its row of A and its
    column of B. E is set to 0 wherever the score is not among the `budget(step, layers)` best;
    the triplet stays trained, and may come back, until the last allocation at step
    total_steps − final_steps. `missviz.penalty` and `missviz.after_step` put this in a loop.

    Args:
        rank: r of every layer at first, at most min(out, in).
        alpha: α in the scaling; None means α = r, so that s ≈ 1. (PEFT's own defaults, α = 8 and
            r = 12, are s ≈ 2/3.) s stays as it is when triplets are dropped.
        orthogonality: γ, 0 or more; 0 for no penalty.
        target_rank: triplets per layer at the end, on average; None: nothing is dropped.
        total_steps: length of the training; needed with `target_rank`, and used only then.
        initial_steps, final_steps: how many first steps drop nothing, and how many last steps
            drop nothing more.
        interval: drop at every how many-th step between those.
        beta1, beta2: β₁ and β₂, between 0 and 1.

    PEFT calls these `init_r`, `lora_alpha`, `orth_reg_weight`, `target_r`, `total_step`, `tinit`,
    `tfinal` and `deltaT`.
    Source: AdaLoRA Eq. 3-11; `layer.py` and `model.py` in `peft/tuners/adalora`. As in PEFT, p in
    I is the value after the step; in the paper's Algorithm 1 it is the one before. Not as in PEFT
    0.21, s is a constant in every dtype; there it is trained unless W₀ is float32.
    """

    family = "AdaLoRA"
    styles: ClassVar = {"AdaLoRA": ("sand", "chevron", "pairs")}

    orthogonality: float = 0.5
    target_rank: int | None = None
    total_steps: int | None = None
    initial_steps: int = 0
    final_steps: int = 0
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        store(self, interval=positive_int, orthogonality=non_negative_float)
        store(self, initial_steps=non_negative_int, final_steps=non_negative_int)
        store(self, beta1=positive_float, beta2=positive_float)
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name}={getattr(self, name)} is not below 1; PEFT has 0.85")
        if (self.target_rank is None) != (self.total_steps is None):
            raise ValueError(
                f"target_rank={self.target_rank} and total_steps={self.total_steps} belong "
                "together: give both, or neither"
            )
        if self.target_rank is not None:
            store(self, target_rank=positive_int, total_steps=positive_int)
            at_most("target_rank", self.target_rank, "rank", self.rank)
            if self.initial_steps >= self.last_allocation:
                raise ValueError(
                    f"total_steps={self.total_steps} leaves no step to drop anything between "
                    f"initial_steps={self.initial_steps} and final_steps={self.final_steps}"
                )

    @property
    def name(self) -> str:
        target = "" if self.target_rank is None else f"→{self.target_rank}"
        gamma = "" if self.orthogonality == 0.5 else f" γ={self.orthogonality:g}"
        return f"AdaLoRA r={self.rank}{target}{self.shown_alpha}{gamma}"

    @property
    def scaling(self) -> float:
        """s = α / (r + 1e-5)."""
        return (self.rank if self.alpha is None else self.alpha) / (self.rank + 1e-5)

    @property
    def last_allocation(self) -> int:
        """The step after which the choice of triplets stays; 0 without a `target_rank`."""
        return (self.total_steps or 0) - self.final_steps

    def budget(self, step: int, layers: int = 1) -> int:
        """How many of the layers · r triplets step `step` may keep: all through `initial_steps`,
        then fewer along a cubic, then layers · target_rank."""
        first, last = layers * self.rank, layers * (self.target_rank or self.rank)
        if step <= self.initial_steps or self.target_rank is None:
            return first
        way = (step - self.initial_steps) / (self.last_allocation - self.initial_steps)
        return int((first - last) * max(0.0, 1 - way) ** 3 + last)

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features + 1)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "AdaLoRAAdapter":
        return AdaLoRAAdapter(self, base, generator)

    @torch.no_grad()
    def after_step(self, adapters: Sequence[Adapter], step: int) -> None:
        """Keep the best triplets of all `adapters`; a member dimension competes within itself.

        Raises ValueError where the step's gradients are gone already.
        """
        if self.target_rank is None:
            return
        layers = cast("Sequence[AdaLoRAAdapter]", adapters)
        last = self.last_allocation
        if step < last:
            for layer in layers:
                layer.observe()
        if self.initial_steps < step <= last and (step % self.interval == 0 or step == last):
            self._allocate(layers, step)
        elif step <= last:
            return
        for layer in layers:
            layer.E.masked_fill_(~layer.kept, 0)

    def _allocate(self, layers: "Sequence[AdaLoRAAdapter]", step: int) -> None:
        dropped = len(layers) * self.rank - self.budget(step, len(layers))
        if dropped == 0:
            return
        scores = [layer.scores() for layer in layers]
        # What ties with the last one dropped is dropped too.
        threshold = torch.cat(scores, dim=-1).kthvalue(dropped, dim=-1, keepdim=True).values
        for layer, score in zip(layers, scores, strict=True):
            layer.kept.copy_((score > threshold).unsqueeze(-1))


class AdaLoRAAdapter(Adapter):
    """A (r × k), E (r × 1) and B (d × r); with a budget also what it has seen of each, and which
    triplets are kept."""

    stackable = True
    method: AdaLoRA
    kept: Bool[Tensor, "*member r 1"]

    def __init__(self, method: AdaLoRA, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        self.A = self.parameter(normal((method.rank, self.in_features), 0.02, generator))
        self.E = self.zeros(method.rank, 1)
        self.B = self.parameter(normal((self.out_features, method.rank), 0.02, generator))
        if method.target_rank is not None:
            self.register_buffer("kept", torch.ones_like(self.E, dtype=torch.bool))
            for name in "AEB":
                for seen in ("sensitivity", "uncertainty"):
                    self.register_buffer(f"{name}_{seen}", torch.zeros_like(getattr(self, name)))

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        return self.method.scaled(self.B), self.E * self.A

    def penalty(self) -> Float[Tensor, "*member"]:
        norms = [
            torch.linalg.matrix_norm(product - torch.eye(self.method.rank).to(product))
            for product in (self.A @ self.A.mT, self.B.mT @ self.B)
        ]
        return self.method.orthogonality * (norms[0] + norms[1]) / 2

    def observe(self) -> None:
        """Smooth the sensitivity of each number and its uncertainty, in place (Eq. 8-10)."""
        beta1, beta2 = self.method.beta1, self.method.beta2
        for name in "AEB":
            parameter = getattr(self, name)
            if parameter.grad is None:
                raise ValueError(
                    f"{self.method.name} finds no gradient on {name}; call missviz.after_step "
                    "after backward and before zero_grad"
                )
            now = (parameter * parameter.grad).abs()
            sensitivity, uncertainty = self._seen(name)
            sensitivity.mul_(beta1).add_((1 - beta1) * now)
            uncertainty.mul_(beta2).add_((1 - beta2) * (now - sensitivity).abs())

    def scores(self) -> Float[Tensor, "*member r"]:
        """The importance of each triplet (Eq. 7 and 11)."""
        A, E, B = (torch.mul(*self._seen(name)) for name in "AEB")
        return E.squeeze(-1) + A.mean(dim=-1) + B.mean(dim=-2)

    def _seen(self, name: str) -> tuple[Tensor, Tensor]:
        return getattr(self, f"{name}_sensitivity"), getattr(self, f"{name}_uncertainty")
