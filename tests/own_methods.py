"""Methods as a reader writes them: about fifteen lines each, in a notebook."""

from dataclasses import dataclass

import torch
from torch import nn

import missviz as mv


@dataclass(frozen=True)
class GainMiSS(mv.Method):
    """MiSS with a learned gain per copy: linear in D for fixed gains, and the other way round."""

    rank: int

    @property
    def name(self) -> str:
        return f"gain MiSS r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * out_features + in_features

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "GainMiSSAdapter":
        return GainMiSSAdapter(self, base)


class GainMiSSAdapter(mv.Adapter):
    def __init__(self, method: GainMiSS, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.D = self.zeros(self.out_features, method.rank)
        self.gain = self.parameter(torch.ones(self.in_features))

    def delta(self) -> torch.Tensor:
        owner = torch.arange(self.in_features) % self.D.shape[-1]
        return self.D[..., owner] * self.gain.unsqueeze(-2)


@dataclass(frozen=True)
class Shift(mv.Method):
    """One number for every cell of W₀: no rank, no size, and linear in it."""

    name = "shift"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return 1

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return 1

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "ShiftAdapter":
        return ShiftAdapter(self, base)


class ShiftAdapter(mv.Adapter):
    def __init__(self, method: Shift, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.c = self.zeros(1)

    def delta(self) -> torch.Tensor:
        return self.c.expand(self.out_features, self.in_features)


@dataclass(frozen=True)
class Bent(mv.Method):
    """ΔW = tanh(B A): linear in nothing; it has a rank."""

    rank: int

    @property
    def name(self) -> str:
        return f"bent r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "BentAdapter":
        return BentAdapter(self, base, generator)


class BentAdapter(mv.Adapter):
    def __init__(self, method: Bent, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        drawn = torch.randn(method.rank, self.in_features, generator=generator)
        self.A = self.parameter(drawn / self.in_features**0.5)
        self.B = self.zeros(self.out_features, method.rank)

    def delta(self) -> torch.Tensor:
        return torch.tanh(self.B @ self.A)


@dataclass(frozen=True)
class Halved(mv.MiSS):
    """A subclass of MiSS with another formula: MiSS's closed form does not hold for it."""

    @property
    def name(self) -> str:
        return f"halved r={self.rank}"

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "HalvedAdapter":
        return HalvedAdapter(self, base)


class HalvedAdapter(type(mv.MiSS(1).on(nn.Linear(1, 1)))):  # type: ignore[misc]
    """Only the first half of the rows moves."""

    def delta(self) -> torch.Tensor:
        kept = torch.arange(self.out_features) < self.out_features / 2
        return super().delta() * kept.to(self.D).unsqueeze(-1)

    def factors(self) -> None:
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.through_weight(x)


OWN: list[mv.Method] = [GainMiSS(2), Shift(), Bent(2), Halved(2)]
"""One with two groups of numbers, one without a rank, one that is not linear, a subclass."""
