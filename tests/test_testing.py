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

    @property
    def name(self) -> str:
        return f"by its rank {self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return out_features

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return 1

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> Adapter:
        base.weight.reshape(self.rank, -1, 7)
        raise AssertionError


class ProductAdapter(Adapter):
    """ΔW = B A, A = N(0, 1/in), B = 0 at first; `fault` breaks one thing."""

    def __init__(self, method: "Product", base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base)
        self.fault = method.fault
        A = torch.randn(method.rank, self.in_features, generator=generator)
        self.A = self.parameter(A / self.in_features**0.5)
        self.B = self.zeros(self.out_features, method.rank)
        if self.fault == "both zero":
            self.A = self.zeros(method.rank, self.in_features)

    def factors(self) -> Any:
        B = self.B
        if self.fault == "one tensor":
            return B @ self.A
        if self.fault == "three":
            return B, self.A, self.A
        if self.fault == "root":
            B = torch.sqrt(torch.abs(B))
        if self.fault == "relu":
            B = torch.relu(B)
        if self.fault == "cube":
            B = B**3
        return B, self.A

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "in place":
            x *= 1.01
        if self.fault == "in place, nothing":
            x += 0 * x
        return super().forward(x)


@dataclass(frozen=True)
class Product(Method):
    rank: int
    fault: str = ""
    setting: Any = None

    @property
    def name(self) -> str:
        if self.fault == "name raises":
            raise RuntimeError("no name today")
        names: dict[str, Any] = {"no name": "", "a number": 3, "constant": "product"}
        return names.get(self.fault, f"product r={self.rank}")

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> Any:
        bounds = {"large bound": 10**6, "no bound": None}
        return bounds.get(self.fault, min(self.rank, out_features, in_features))

    def with_rank(self, rank: int) -> Any:
        return self if self.fault == "stuck" else super().with_rank(rank)

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> Any:
        return None if self.fault == "no adapter" else ProductAdapter(self, base, generator)


class WantsGradient(Product):
    needs_gradient = True


class Shares(Product):
    def shared(self, layers: Any, generator: torch.Generator) -> Any:
        return nn.Linear(2, 2)


class SharesWrong(Product):
    def shared(self) -> Any:  # type: ignore[override]
        return None


class StepsWrong(Product):
    def after_step(self) -> None:  # type: ignore[override]
        return None


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
    (Product(2, "root"), "the gradient of B is not finite at the start"),
    (Product(2, "relu"), "the gradient of all trained numbers is zero at the start"),
    (Product(2, "cube"), "the gradient of all trained numbers is zero at the start"),
    (Product(2, "both zero"), "the gradient of all trained numbers is zero at the start"),
    (Product(2, "large bound"), "rank_bound says 1000000, and no ΔW of 20 × 24 has more than 20"),
    (Product(2, "no bound"), "rank_bound says None, which is no whole number"),
    (Product(2, "no name"), "Product: name is empty; names key tables and colours"),
    (Product(2, "a number"), "Product: name must be a string, and is 3"),
    (Product(2, "name raises"), "Product.name raised RuntimeError: no name today"),
    (Product(2, "constant"), "rank=2 and rank=3 must have different names, which key tables and colours; both are 'product'"),
    (Product(2, "stuck"), "with_rank(3) must return the method at another rank; it returns an equal one"),
    (Product(2, setting=torch.zeros(3)), "Product: setting setting is a Tensor, which no copy equals"),
    (Product(2, setting=torch.zeros(())), "Product: setting setting is a Tensor, which no copy equals"),
    (Product(2, "one tensor"), "factors() must return (left, right) or None; it returned one tensor"),
    (Product(2, "three"), "factors() must return (left, right) or None; it returned 3 tensors"),
    (Product(2, "in place"), "forward changes x in place; make a new tensor"),
    (Product(2, "in place, nothing"), "forward changes x in place; make a new tensor"),
    (Product(2, "no adapter"), "bias=True: Product.adapter must return a missviz.Adapter, and returns None"),
    (WantsGradient(2), "bias=True: WantsGradient.adapter must be: def adapter(self, base, generator, gradient)"),
    (Shares(2), "bias=True: Shares.adapter must be: def adapter(self, base, generator, shared)"),
    (SharesWrong(2), "shared must be: def shared(self, layers, generator); too many positional"),
    (StepsWrong(2), "after_step must be: def after_step(self, adapters, step); too many positional"),
]  # fmt: skip


def test_the_method_without_a_fault_passes() -> None:
    check_method(Gain(4))
    check_method(Product(2))
    check_method(Product(2, setting=(1.0, "a")))


@pytest.mark.parametrize(
    ("method", "sentence"), SENTENCES, ids=[sentence[:40] for _, sentence in SENTENCES]
)
def test_each_mistake_has_its_sentence(method: Any, sentence: str) -> None:
    with pytest.raises((AssertionError, TypeError)) as caught:
        check_method(method, SHAPES, [torch.float64])
    assert sentence in str(caught.value)
    assert len(str(caught.value).splitlines()[0]) < 400


@pytest.mark.parametrize("rank", [0, -1, 2.5, True])
def test_a_rank_that_is_none_is_named(rank: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"product r={rank}: rank={rank} is not"):
        check_method(Product(rank))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shapes": (20, 24)}, TypeError, r"shapes=\(20, 24\) is not a list of \(out, in\) pairs"),
        ({"shapes": 5}, TypeError, "shapes=5 is not a list of"),
        ({"shapes": "ab"}, TypeError, "shapes='ab' is not a list of"),
        ({"shapes": [(3,)]}, TypeError, r"shapes=\[\(3,\)\] is not a list of"),
        ({"shapes": [(-1, 3)]}, ValueError, "shapes: out=-1 is not positive"),
        ({"shapes": [(3, 2.5)]}, TypeError, "shapes: in=2.5 is not an integer"),
        ({"dtypes": torch.float32}, TypeError, "dtypes=torch.float32 is not a list of dtypes"),
        ({"dtypes": ["float32"]}, ValueError, "dtypes has 'float32'; choose from torch.float64"),
        ({"shapes": []}, ValueError, "shapes or dtypes is empty"),
    ],
)
def test_arguments_of_check_method_are_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_method(Product(2), **arguments)


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
