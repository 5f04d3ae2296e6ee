"""The one idea of missviz: a `Method` bound to a linear layer is an `Adapter`, an `Update` on it.

Symbols, here and everywhere: d = out_features, k = in_features, r = rank; the frozen weight is
W₀ (d × k), the update is ΔW (d × k), and a layer computes y = (W₀ + ΔW) x + b.
"""

import abc
import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from missviz.adapters import validation
from missviz.adapters.contract import (
    ContractError,
    begin_with_super,
    check_call,
    has_begun,
    odd_dtypes,
    wrong_name,
)
from missviz.adapters.conv1d import as_linear
from missviz.adapters.linear import Product, add_to, apply_linear, as_given, rows_of
from missviz.adapters.update import Update, two_factors
from missviz.randomness import generator_for

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Method(abc.ABC):
    """Hyper-parameters of a fine-tuning method, and nothing else.

    To add your own: a frozen dataclass with `name`, `num_parameters`, `rank_bound` and `adapter`,
    and an `Adapter` subclass with its parameters and `delta` or `factors`.
    `missviz.testing.check_method` then holds it to the contract that every method here keeps.
    """

    needs_gradient: ClassVar[bool] = False
    """Whether the start depends on ∂L/∂W₀: `on` then wants `gradient`, `attach` `calibration`."""

    sized_by: ClassVar[str] = "rank"
    """The setting that `with_rank`, and a slider for the rank, set."""

    styles: ClassVar[Mapping[str, tuple[str, Any, str]]] = {}
    """How figures draw a method of this library, by what its names begin with: colour, marker and
    dash, in the words of `missviz.style`. A reader's own needs none."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Unique, as shown in tables and figures: "MiSS r=4". One line of at most `LONGEST_NAME`
        characters, without $."""

    @abc.abstractmethod
    def num_parameters(self, out_features: int, in_features: int) -> int:
        """How many numbers training may change on one layer of this shape."""

    @abc.abstractmethod
    def rank_bound(self, out_features: int, in_features: int) -> int:
        """The largest rank that ΔW can have on a layer of this shape."""

    @abc.abstractmethod
    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "Adapter":
        """The adapter on `base`, already frozen and checked; `on` is what users call.

        By keyword comes along what a method has asked for: `shared`, where its `shared` gives
        something, and `gradient` (out, in), where it `needs_gradient`.
        """

    def shared(self, layers: Sequence[nn.Linear], generator: torch.Generator) -> Any:
        """What these layers share, such as a pool: `attach` makes it once for all of them, `on` for
        its one layer. None, the default: nothing."""
        return None

    def after_step(self, adapters: Sequence["Adapter"], step: int) -> None:  # noqa: B027 (optional)
        """Called after optimiser step `step` = 1, 2, … with all adapters of this method in a model,
        gradients still there (`missviz.after_step`)."""

    def with_rank(self, rank: int) -> "Method":
        """The same method at another rank (Bat: block size); itself where it has none."""
        return replace(self, **{self.sized_by: rank}) if hasattr(self, self.sized_by) else self

    def check_shape(self, out_features: int, in_features: int) -> None:  # noqa: B027 (optional)
        """Raise ValueError where the method does not fit a layer of this shape."""

    def on(
        self,
        linear: nn.Linear,
        *,
        generator: torch.Generator | None = None,
        gradient: Float[Tensor, "out in_"] | None = None,
    ) -> "Adapter":
        """Bind the method to one layer; `linear` itself stays as it is.

        Args:
            linear: the layer with W₀ (out, in), or a transformers Conv1D, whose weight is W₀ᵀ. Its
                tensors are shared, not copied.
            generator: source of every random draw; None means a fresh one with a fixed seed, so
                that two calls give the same adapter. The global RNG is never used.
            gradient: ∂L/∂W₀ (out, in), for methods that start from it (`needs_gradient`).

        Raises:
            TypeError: `linear` is not an nn.Linear with floating-point weights, or has a forward of
                its own, which need not be W₀ x + b.
            ValueError: its weights are empty, the method does not fit its shape, or `gradient` is
                missing, not wanted, of another shape, or holds NaN or infinity.
        """
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator={generator!r} is not a torch.Generator")
        linear = as_linear(linear)
        self.check_layer(linear)
        base, generator = share_frozen(linear), generator or generator_for("on")
        return self.bind(base, generator, self.shared([base], generator), gradient)

    def bind(
        self,
        base: nn.Linear,
        generator: torch.Generator,
        shared: Any,
        gradient: Float[Tensor, "out in_"] | None,
    ) -> "Adapter":
        """The adapter with what it needs beside its layer; `on` and `attach` come here."""
        given: dict[str, Any] = {} if shared is None else {"shared": shared}
        if self.needs_gradient:
            if gradient is None:
                raise ValueError(
                    f"{self.name} starts from the gradient: method.on(linear, gradient=G), or "
                    "missviz.attach(model, method, calibration=loss)"
                )
            validation.tensor_of_shape("gradient", gradient, tuple(base.weight.shape))
            validation.finite("gradient", gradient)
            given["gradient"] = gradient.detach()
        elif gradient is not None:
            raise ValueError(f"gradient: {self.name} does not start from the gradient")
        check_call(self.adapter, "base", "generator", *given)
        adapter: Any = self.adapter(base, generator, **given)
        kind = type(self).__name__
        if not isinstance(adapter, Adapter):
            raise ContractError(
                f"{kind}.adapter must return a missviz.Adapter, and returns {adapter!r:.60}"
            )
        if not has_begun(adapter):
            raise ContractError(begin_with_super(adapter))
        if not isinstance(adapter.method, Method):
            given_there = type(adapter.method).__name__
            raise ContractError(f"{begin_with_super(adapter)}; method is a {given_there} there")
        if odd := odd_dtypes(adapter):
            raise ContractError(odd)
        return adapter

    def check_layer(self, linear: nn.Linear) -> None:
        """Raise what `on` raises, without making an adapter."""
        if isinstance(linear, Adapter):
            raise TypeError(
                f"this layer already has an adapter ({linear.method.name}); "
                "take `adapter.base`, or `missviz.merge` it first"
            )
        validation.linear_layer(linear)
        self.check_shape(linear.out_features, linear.in_features)

    def __str__(self) -> str:
        return self.name


def checked_method(name: str, value: Any) -> Method:
    """`value` if it is a Method; else a TypeError, which tells a class from its instances."""
    if isinstance(value, Method):
        if wrong := wrong_name(value):
            raise TypeError(f"{name}: {wrong}")
        return value
    if isinstance(value, type) and issubclass(value, Method):
        needed = [
            "4" if setting.type in (int, "int") else setting.name
            for setting in fields(value)
            if setting.default is setting.default_factory is MISSING
        ]
        call = f"{value.__name__}({', '.join(needed)})"
        raise TypeError(f"{name}={value.__name__} is a class; pass an instance: {call}")
    if isinstance(value, str):
        raise TypeError(
            f"{name}={value!r} is not a missviz method but a name; give the method itself, such as "
            "missviz.MiSS(rank=4)"
        )
    raise TypeError(f"{name}={value!r} is not a missviz method; try missviz.MiSS(rank=4)")


class Adapter(nn.Module, Update):
    """A method at work on one layer: y = W₀ x + b + ΔW x, where only ΔW is trained.

    A subclass has its parameters, and `factors` or `delta`, which define ΔW. Where ΔW x can be had
    more cheaply than from these, it has `correction`; and if x first meets something that no step
    changes, `frozen`. It may override `forward` as well. That all of them agree is the first
    property that tests check. What `help` shows after these is torch's, of every nn.Module.

    Formulas have x in rows: (n, in), or (member, n, in) where adapters are stacked, with a leading
    member dimension on every trained tensor (`members`); W₀ may then be one for all.
    """

    stackable: ClassVar[bool] = False
    """Whether the formulas hold with a leading member dimension on every tensor."""

    exact_gradient: bool = True
    """False where backward is no derivative, on purpose: DoRA holds a norm constant."""

    members: tuple[int, ...] = ()
    """(m,) where this is m adapters, stacked."""

    features_first: bool = False
    """Whether y may lie in memory as yᵀ, which is faster in an ensemble of small networks. Others
    may call `view` on it."""

    memory: "Memory | None" = None
    """What is known of inputs that return at every step; an ensemble sets it while it trains."""

    base: nn.Linear

    def __init__(self, method: Method, base: nn.Linear) -> None:
        super().__init__()
        self.method = method
        self.in_features = base.in_features
        self.out_features = base.out_features
        self.base = base

    def parameter(self, values: Tensor) -> nn.Parameter:
        """`values` as a trainable parameter with the dtype and device of W₀."""
        return nn.Parameter(values.to(self.base.weight))

    def zeros(self, *shape: int) -> nn.Parameter:
        """A trainable parameter of zeros with the dtype and device of W₀."""
        return nn.Parameter(self.base.weight.new_zeros(shape))

    def delta(self) -> Float[Tensor, "*member out in_"]:
        thin = self.factors()
        if thin is None:
            raise NotImplementedError(
                f"{type(self).__name__} defines neither factors() nor delta()"
            )
        left, right = two_factors(thin)
        return left @ right

    @property
    def weight(self) -> Float[Tensor, "*member out in_"]:
        """W₀ + ΔW, what merging gives; gradients flow to the adapter's parameters."""
        return self.base.weight + self.delta()

    @property
    def bias(self) -> Float[Tensor, "*member out"] | None:
        """The layer's bias, or None."""
        return self.base.bias

    def frozen(self, x: Float[Tensor, "*member n in_"]) -> tuple[Tensor, Any]:
        """What no step changes: W₀ x + b, and what x has become when it meets the first trained
        number, such as F x where ΔW = D F with F fixed. By default x itself."""
        return self.base(x), x

    def correction(self, z: Any) -> Float[Tensor, "*member n out"] | Product:
        """ΔW x from the second thing that `frozen` gives, by default from x: through the factors
        where there are any, else through ΔW."""
        if (thin := self.factors()) is None:
            return z @ self.delta().mT
        left, right = thin
        return Product(left, apply_linear(z, right))

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        """y = (W₀ + ΔW) x + b in the efficient form, for x of (..., in)."""
        (y, z), kept = self.begun(x)
        return self.as_given(add_to(y, self.correction(z), in_place=not kept), x)

    def begun(self, x: Float[Tensor, "*batch in_"]) -> tuple[tuple[Tensor, Any], bool]:
        """`frozen` of x in rows, and whether it comes from memory and must stay as it is."""
        if self.memory is not None and (known := self.memory.of(self, x)) is not None:
            return known, True
        return self.frozen(self.rows(x)), False

    def rows(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*member n in_"]:
        """x as formulas have it. Stacked adapters take members first: (member · batch, ..., in)."""
        return rows_of(x, self.in_features, *self.members)

    def as_given(
        self, y: Float[Tensor, "*member n out"], x: Float[Tensor, "*batch in_"]
    ) -> Float[Tensor, "*batch out"]:
        """y with the leading dimensions of x again."""
        return as_given(y, x, self.features_first)

    def through_weight(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        """The same y as one product with W₀ + ΔW, for methods that build it in `forward`."""
        return self.as_given(apply_linear(self.rows(x), self.weight, self.bias), x)

    def penalty(self) -> Float[Tensor, "*member"]:
        """What this method adds to the loss; 0 for most (`missviz.penalty` sums over a model)."""
        return self.base.weight.new_zeros(self.members)

    def rate_multiplier(self, parameter: str) -> float:
        """Factor on the learning rate of one of its parameters, by name (LoRA+)."""
        return 1.0

    def extra_repr(self) -> str:
        return (
            f"{self.method.name}, in_features={self.in_features}, out_features={self.out_features}"
        )


class Memory:
    """`Adapter.frozen` of a few inputs, once: for training on the same points at every step.

    It stands under `forward`, so that whatever a method overrides counts with it or without.

    Args:
        inputs: they are known again as the same tensors, unchanged; others are computed as ever.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        self._inputs = {id(x): (x, x._version) for x in inputs}
        self._kept: dict[tuple[int, int], tuple[Tensor, Any]] = {}

    def of(self, adapter: Adapter, x: Tensor) -> tuple[Tensor, Any] | None:
        """What `adapter` makes of x and keeps, or None for an input that is not among those."""
        known, version = self._inputs.get(id(x), (None, 0))
        if known is not x or x._version != version:
            return None
        key = id(adapter), id(x)
        if key not in self._kept:
            with torch.no_grad():
                self._kept[key] = adapter.frozen(adapter.rows(x))
        return self._kept[key]


def share_frozen(module: ModuleT) -> ModuleT:
    """A copy of `module` that shares its parameters' memory and cannot train them.

    Where adapters are inside already, what they left trainable stays so, as a copy of its own.
    """
    adapted = any(isinstance(part, Adapter) for part in module.modules())
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise ValueError("a lazy layer has no weights yet; run one batch through the model")
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in module.parameters()
        if not (adapted and parameter.requires_grad)
    }
    try:
        shared = copy.deepcopy(module, memo)
    except RuntimeError as error:
        raise ValueError(
            f"the model cannot be copied, so it cannot be adapted without changing it: {error}"
        ) from error
    return own_loading(shared)


def own_loading(module: ModuleT) -> ModuleT:
    """`module`, which from now on loads a state into memory of its own: `load_state_dict` writes
    into existing tensors, and would change the model that they are shared with."""
    for part in module.modules():
        part.register_load_state_dict_pre_hook(_own_memory)
    return module


def _own_memory(module: nn.Module, *_: object) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.clone()
