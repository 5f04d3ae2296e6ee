"""What `check_method` says of mistakes that authors of a method make: each by its own sentence."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.analysis.cost import cost
from missviz.testing import check_method


@dataclass(frozen=True)
class Gain(Method):
    """The reader's own method: MiSS with a learned gain per copy. `fault` breaks one thing."""

    rank: int
    fault: str = ""

    @property
    def name(self) -> str:
        return f"gain r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * out_features + in_features // self.rank

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        if self.fault != "no check_shape" and in_features % self.rank:
            raise ValueError(f"rank={self.rank} does not divide in_features={in_features}")

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> Adapter:
        return GainAdapter(self, base)


class GainAdapter(Adapter):
    def __init__(self, method: Gain, base: nn.Linear) -> None:
        self.fault = method.fault if method.fault == "no super" else ""
        if method.fault != "no super":
            super().__init__(method, base)
            self.fault = method.fault
        self.D = self.zeros(self.out_features, method.rank)
        self.gain = self.parameter(torch.ones(self.in_features // method.rank))
        if self.fault == "float32":
            self.gain = nn.Parameter(torch.ones(self.in_features // method.rank))

    @property
    def stackable(self) -> bool:  # type: ignore[override]
        return self.fault == "stackable"

    def delta(self) -> Tensor:
        gain, D = self.gain, self.D
        if self.fault == "detached":
            gain = gain.detach()
        if self.fault == "item":
            D = D + D[0, 0].item() * torch.ones_like(D)
        if self.fault == "doubled":
            D = D + (D - D.detach())
        if self.fault == "down instead of across":
            return (gain[:, None, None] * D).flatten(0, 1)
        wide = (gain[:, None, None] * D).movedim(0, -2).flatten(-2)
        if self.fault == "transposed":
            return wide.mT
        return wide.tolist() if self.fault == "a list" else wide

    def factors(self) -> Any:
        if self.fault == "factors":
            return self.D, torch.ones(3, self.in_features).to(self.D)
        return None


class Undecorated(Gain):
    """Settings of its own, and no @dataclass: every two would be equal."""

    def __init__(self, rank: int, strength: float) -> None:
        super().__init__(rank)
        object.__setattr__(self, "strength", strength)


class NoProperty(Gain):
    def name(self) -> str:  # type: ignore[override]
        return "a method"


@dataclass(frozen=True, eq=False)
class NeverEqual(Gain):
    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


@dataclass(frozen=True)
class Listed(Gain):
    sizes: Any = ()


@dataclass(frozen=True)
class ByItsRank(Method):
    """A fault in the adapter's __init__: no check_shape, and a reshape that fails."""

    rank: int
    name = "by its rank"  # type: ignore[assignment]

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return out_features

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return 1

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> Adapter:
        base.weight.reshape(self.rank, -1, 7)
        raise AssertionError


SHAPES = [(20, 24), (12, 8)]
SENTENCES: list[tuple[Any, str]] = [
    (Gain, "method=Gain is a class; pass an instance: Gain(4)"),
    (mv.FullFineTuning, "pass an instance: FullFineTuning()"),
    (nn.Linear(2, 2), "is not a missviz method"),
    (Gain(4, "down instead of across"), "delta() is 120 × 4, must be 20 × 24; a method that does not fit every layer raises ValueError in check_shape"),
    (Gain(4, "transposed"), "delta() is 24 × 20, must be 20 × 24; a weight is out × in"),
    (Gain(4, "a list"), "delta() must return a tensor"),
    (Gain(5, "no check_shape"), "delta() is 20 × 20, must be 20 × 24; a method that does not fit every layer raises ValueError in check_shape"),
    (ByItsRank(4), "on() raised RuntimeError: shape '[4, -1, 7]' is invalid for input of size 480; a method that does not fit every layer raises ValueError in check_shape"),
    (Gain(4, "factors"), "factors() are 20 × 4 and 3 × 24; they must be 20 × r and r × 24"),
    (Gain(4, "float32"), "gain is float32 on a layer of float64: self.zeros(*shape) and self.parameter(values)"),
    (Gain(4, "detached"), "gradients must agree with finite differences; gain has none: is it cut off by .item(), .detach() or .data?"),
    (Gain(4, "item"), "gradients must agree with finite differences; that of D does not"),
    (Gain(4, "doubled"), "gradients must agree with finite differences; that of D does not"),
    (Gain(4, "no super"), "GainAdapter.__init__ must begin with super().__init__(method, base)"),
    (Gain(4, "stackable"), "stackable = True says that the formulas hold with a member dimension in front"),
    (NoProperty(4), "NoProperty: name must be a string, and is a method; write @property above it"),
    (Undecorated(4, 2.0), "with another strength it must not be equal (==); write @dataclass(frozen=True) above class Undecorated"),
    (NeverEqual(4), "NeverEqual: a copy must be equal (==); write @dataclass(frozen=True)"),
    (Listed(4, sizes=[1]), "Listed: must be hashable, its settings too"),
]  # fmt: skip


def test_the_method_without_a_fault_passes() -> None:
    check_method(Gain(4))


@pytest.mark.parametrize(
    ("method", "sentence"), SENTENCES, ids=[sentence[:40] for _, sentence in SENTENCES]
)
def test_each_mistake_has_its_sentence(method: Any, sentence: str) -> None:
    with pytest.raises((AssertionError, TypeError)) as caught:
        check_method(method, SHAPES, [torch.float64])
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()[0]) < 400


TAKERS: list[Callable[[Any], object]] = [
    lambda kind: mv.attach(nn.Linear(8, 8), kind),
    lambda kind: mv.experiments.no_free_lunch([kind], seeds=2),
    lambda kind: mv.initial_gradient_norms(
        nn.Linear(8, 8), lambda model: model.weight.sum(), [kind]
    ),
    lambda kind: mv.reach(kind, torch.ones(8, 8)),
    lambda kind: cost([kind], 8, 8),
    lambda kind: mv.experiments.adapter_snapshots(kind),
]


@pytest.mark.parametrize("take", TAKERS)
def test_a_class_for_its_instance_is_told_apart_everywhere(take: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"=MiSS is a class; pass an instance: MiSS\(4\)"):
        take(mv.MiSS)


def test_help_begins_with_all_that_there_is() -> None:
    """The rest of help(mv) goes through every class, page after page."""
    assert mv.__doc__ is not None
    words = set(re.findall(r"\w+", mv.__doc__))
    assert set(mv.__all__) <= words
    assert len(mv.__doc__.splitlines()) < 60
