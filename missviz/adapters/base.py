"""The one idea of missviz: a `Method` bound to a linear layer is an `Adapter`, an `Update` on it.

Symbols, here and everywhere: d = out_features, k = in_features, r = rank; the frozen weight is
W₀ (d × k), the update is ΔW (d × k), and a layer computes y = (W₀ + ΔW) x + b.
"""

import abc
import copy
import inspect
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from missviz.adapters import validation
from missviz.machine import one_thread
from missviz.randomness import generator_for

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def apply_linear(
    x: Float[Tensor, "*batch in_"],
    weight: Float[Tensor, "*member out in_"],
    bias: Float[Tensor, "*member out"] | None = None,
) -> Float[Tensor, "*batch out"]:
    """y = W x + b; with a leading member dimension on W and b, member e maps x[e] of shape (n, in).

    The member dimension is how an ensemble of adapters runs as one (`missviz.experiments`).
    """
    if weight.dim() == 2:
        return nn.functional.linear(x, weight, bias)
    # As W xᵀ, so that features come first in memory: batched BLAS takes up to eight times as long
    # for the thin products that x Wᵀ has in its backward pass, and leaves ∂L/∂W transposed.
    if bias is None:
        return torch.bmm(weight, x.mT).mT
    return torch.baddbmm(bias.unsqueeze(-1), weight, x.mT).mT


def add_linear(
    y: Float[Tensor, "*batch out"],
    x: Float[Tensor, "*batch in_"],
    weight: Float[Tensor, "*member out in_"],
    *,
    in_place: bool = False,
) -> Float[Tensor, "*batch out"]:
    """y + W x as one product, which needs no room for W x; `in_place` changes y, of shape (n, out),
    where there are no members. Where an autocast context gave y another dtype, it keeps that."""
    x, weight = x.to(y.dtype), weight.to(y.dtype)
    if weight.dim() > 2:
        return torch.baddbmm(y.mT, weight, x.mT).mT
    # vmap has no rule for addmm_, and would go through its members one by one.
    if in_place and not torch._C._functorch.is_batchedtensor(weight):
        return y.addmm_(x, weight.mT)
    return y + nn.functional.linear(x, weight)


class Update(abc.ABC):
    """What can be said of ΔW without a live layer."""

    @abc.abstractmethod
    def delta(self) -> Float[Tensor, "*member out in_"]:
        """ΔW = effective weight minus the original W₀, in full, from the paper's definition."""

    def factors(
        self,
    ) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]] | None:
        """(left, right) with ΔW = left @ right, or None where ΔW is no product of thin factors."""
        return None

    def spectrum(self) -> Float[Tensor, "*member n"]:
        """Singular values of ΔW in float64, all min(out, in) of them, largest first.

        Exact: from the factors where there are any (`product_spectrum`), or of ΔW itself.
        """
        thin = finite_factors(self)
        if thin is None:
            delta = self.delta().detach()
            validation.finite("ΔW", delta)
            return torch.linalg.svdvals(delta.double())
        return product_spectrum(*thin)


FACTORS = "it must return two tensors, (out, r) and (r, in), or None"


def two_factors(thin: Any) -> tuple[Tensor, Tensor]:
    """`thin`, as `factors()` returned it, if it is two tensors whose product there is; else
    ValueError."""
    if not isinstance(thin, tuple | list) or not all(isinstance(one, Tensor) for one in thin):
        raise ValueError(f"factors() returned a {type(thin).__name__}; {FACTORS}")
    if len(thin) != 2:
        raise ValueError(f"factors() returned {len(thin)} tensors; {FACTORS}")
    left, right = thin
    if min(left.dim(), right.dim()) < 2 or left.shape[-1] != right.shape[-2]:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise ValueError(f"factors() are {shapes}, which do not multiply; {FACTORS}")
    return left, right


@torch.no_grad()
@one_thread()
def finite_factors(
    update: Update,
) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]] | None:
    """The update's factors, detached; ValueError where one of them holds NaN or infinity."""
    thin = update.factors()
    if thin is None:
        return None
    left, right = (factor.detach() for factor in two_factors(thin))
    validation.finite("ΔW's left factor", left)
    validation.finite("ΔW's right factor", right)
    return left, right


@one_thread()
def product_spectrum(
    left: Float[Tensor, "*member out r"], right: Float[Tensor, "*member r in_"]
) -> Float[Tensor, "*member n"]:
    """Singular values of left @ right in float64, min(out, in) of them, largest first.

    Exact: from the R of both factors' QR and an SVD of the small core between them, which costs
    (out + in) r² instead of out · in · min(out, in).
    """
    upper, lower = (torch.linalg.qr(factor.double(), mode="r").R for factor in (left, right.mT))
    values = torch.linalg.svdvals(upper @ lower.mT)
    missing = min(left.shape[-2], right.shape[-1]) - values.shape[-1]
    return nn.functional.pad(values, (0, missing))


@dataclass(frozen=True)
class Method(abc.ABC):
    """Hyper-parameters of a fine-tuning method, and nothing else.

    To add your own: a frozen dataclass with `name`, `num_parameters`, `rank_bound` and `adapter`,
    and an `Adapter` subclass with its parameters and `delta` (or `factors`), and `correction`.
    `missviz.testing.check_method` then holds it to the contract that every method here keeps.
    """

    needs_gradient: ClassVar[bool] = False
    """Whether the start depends on ∂L/∂W₀: `on` then wants `gradient`, `attach` `calibration`, and
    `adapter` takes an argument `gradient`."""

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

        Where `shared` gives something, that comes along as an argument `shared`.
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
        for setting in ("rank", "block_size"):
            if hasattr(self, setting):
                return replace(self, **{setting: rank})
        return self

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
            linear: the layer with W₀ (out, in). Its tensors are shared, not copied.
            generator: source of every random draw; None means a fresh one with a fixed seed, so
                that two calls give the same adapter. The global RNG is never used.
            gradient: ∂L/∂W₀ (out, in), for methods that start from it (`needs_gradient`).

        Raises:
            TypeError: `linear` is not an nn.Linear with floating-point weights.
            ValueError: its weights are empty, the method does not fit its shape, or `gradient` is
                missing, not wanted, of another shape, or holds NaN or infinity.
        """
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator={generator!r} is not a torch.Generator")
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
        kind = type(self).__name__
        try:
            inspect.signature(self.adapter).bind(base, generator, **given)
        except TypeError as error:
            arguments = ", ".join(["self", "base", "generator", *given])
            raise ContractError(f"{kind}.adapter must be: def adapter({arguments})") from error
        adapter: Any = self.adapter(base, generator, **given)
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


LONGEST_NAME = 80


def wrong_name(method: Method) -> str | None:
    """What is wrong with a method's name, which keys tables, colours and seeds; or None."""
    kind = type(method).__name__
    try:
        name: Any = method.name
    except Exception as error:  # the reader's own code may raise anything
        return f"{kind}.name raised {type(error).__name__}: {error}"
    if not isinstance(name, str):
        why = "a method; write @property above it" if callable(name) else repr(name)
        return f"{kind}: name must be a string, and is {why}"
    if not name.strip():
        return f"{kind}: name is empty; names key tables and colours"
    if len(name) > LONGEST_NAME or "$" in name or not name.isprintable():
        return (
            f"{kind}: name cannot be drawn: it must be one line of at most {LONGEST_NAME} "
            f"characters without $, and is {name!r:.60}"
        )
    return None


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
    raise TypeError(f"{name}={value!r} is not a missviz method; try missviz.MiSS(rank=4)")


class ContractError(TypeError):
    """A method's `adapter` is not what `Method` says; the sentence says how."""


def has_begun(adapter: "Adapter") -> bool:
    """Whether its __init__ has told torch of its layer."""
    return "base" in vars(adapter).get("_modules", {})


def begin_with_super(adapter: "Adapter") -> str:
    return f"{type(adapter).__name__}.__init__ must begin with super().__init__(method, base)"


def odd_dtypes(adapter: "Adapter") -> str:
    """A sentence on tensors that do not follow the layer's dtype; empty where all do."""
    wanted = adapter.base.weight.dtype
    odd = [
        f"{name} is {_short(tensor.dtype)}"
        for name, tensor in adapter.state_dict().items()
        if tensor.is_floating_point() and tensor.dtype != wanted
    ]
    if not odd:
        return ""
    return (
        f"{', '.join(odd)} on a layer of {_short(wanted)}: self.zeros(*shape) and "
        "self.parameter(values) make what has the layer's dtype"
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Adapter(nn.Module, Update):
    """A method at work on one layer: y = W₀ x + b + ΔW x, where only ΔW is trained.

    A subclass adds its parameters, `factors` or `delta` (the definition), and the fast way to ΔW x
    where `factors` is not that already: `correction`; or where x first meets something frozen,
    `features` and what follows them, `last_factor` or `from_features`. That the two agree is the
    first property that tests check. What `help` shows after these is torch's, of every nn.Module.
    """

    stackable: ClassVar[bool] = False
    """Whether the formulas hold with a leading member dimension on every tensor."""

    exact_gradient: bool = True
    """False where backward is no derivative, on purpose: DoRA holds a norm constant."""

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

    def correction(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        """ΔW x by the cheapest way there is; by default from `features` or `factors`, whichever the
        method has, else through ΔW itself."""
        z, left = self._last_product(x)
        return z if left is None else apply_linear(z, left)

    def features(self, x: Float[Tensor, "*batch in_"]) -> Tensor | None:
        """What x has become when it meets the first trained number, such as F x where ΔW = D F with
        F fixed. An ensemble computes it once. None, the default: x as it is."""
        return None

    def last_factor(self) -> Float[Tensor, "*member out r"] | None:
        """The matrix D with ΔW x = D `features(x)`; None where that takes more than one product,
        and the method has `from_features`."""
        return None

    def from_features(self, features: Tensor) -> Float[Tensor, "*batch out"]:
        """ΔW x from `features(x)`, where there is no `last_factor`."""
        raise NotImplementedError(
            f"{type(self).__name__} defines features(), but neither last_factor() nor this"
        )

    def _last_product(
        self, x: Float[Tensor, "*batch in_"], features: Tensor | None = None
    ) -> tuple[Tensor, Float[Tensor, "*member out r"] | None]:
        """(z, left) with ΔW x = left z, a product that can be added to W₀ x + b as it is made; left
        is None where z is ΔW x already. `features`: those of x, where they are known."""
        features = self.features(x) if features is None else features
        if features is not None:
            left = self.last_factor()
            return (self.from_features(features), None) if left is None else (features, left)
        if (thin := self.factors()) is not None:
            left, right = thin
            return apply_linear(x, right), left
        return x @ self.delta().mT, None

    def _ending(
        self, x: Float[Tensor, "*batch in_"], features: Tensor | None = None
    ) -> tuple[Tensor, Float[Tensor, "*member out r"] | None]:
        """`_last_product`, or the method's own correction where it has one."""
        if self._corrects_itself:
            return self.correction(x), None
        return self._last_product(x, features)

    @property
    def _corrects_itself(self) -> bool:
        return type(self).correction is not Adapter.correction

    def frozen_part(self, x: Float[Tensor, "*batch in_"]) -> Any:
        """What of y stays as it is while this adapter trains, for `from_frozen`: W₀ x + b, and the
        `features` of x where y is made from them."""
        return self.base(x), self.features(x) if self._still_means("features") else None

    def _still_means(self, name: str) -> bool:
        """Whether the method `name` holds for this class: not where a subclass below the one that
        defines it has a `forward` or `correction` of its own, which knows nothing of it."""
        if self._corrects_itself:
            return False
        lowest = next(
            kind
            for kind in type(self).__mro__
            if not vars(kind).keys().isdisjoint({name, "forward", "correction"})
        )
        return name in vars(lowest)

    def from_frozen(
        self, x: Float[Tensor, "*batch in_"], frozen: Any
    ) -> Float[Tensor, "*batch out"]:
        """y from `frozen_part(x)`."""
        base_output, features = frozen
        if features is None:
            return self.forward(x, base_output)
        return self._corrected(base_output, x, features)

    def _corrected(
        self,
        base_output: Float[Tensor, "*batch out"],
        x: Float[Tensor, "*batch in_"],
        features: Tensor | None = None,
    ) -> Float[Tensor, "*batch out"]:
        z, left = self._ending(x, features)
        return base_output + z if left is None else add_linear(base_output, z, left)

    def forward(
        self,
        x: Float[Tensor, "*batch in_"],
        base_output: Float[Tensor, "*batch out"] | None = None,
    ) -> Float[Tensor, "*batch out"]:
        """y = (W₀ + ΔW) x + b in the efficient form.

        Args:
            x: inputs, (..., in).
            base_output: W₀ x + b, (..., out), where the caller has it already.
        """
        if base_output is not None:
            return self._corrected(base_output, x)
        z, left = self._ending(x)
        # The layer's own product comes last, and is added to in place: so neither y nor ∂L/∂x is
        # made twice. In rows, since adding in place to a reshaped y costs autograd a copy of it.
        if left is None or left.dim() > 2:
            output: Tensor = self.base(x)
            return output.add_(z) if left is None else add_linear(output, z, left)
        output = self.base(x.reshape(-1, x.shape[-1]))
        output = add_linear(output, z.reshape(-1, z.shape[-1]), left, in_place=True)
        return output.reshape(*x.shape[:-1], self.out_features)

    def through_weight(
        self,
        x: Float[Tensor, "*batch in_"],
        base_output: Float[Tensor, "*batch out"] | None,
    ) -> Float[Tensor, "*batch out"]:
        """The same y with ΔW built: one product with W₀ + ΔW where W₀ x + b is not known yet."""
        if base_output is None:
            return apply_linear(x, self.weight, self.bias)
        return base_output + x @ self.delta().mT

    def penalty(self) -> Float[Tensor, "*member"]:
        """What this method adds to the loss; 0 for most (`missviz.penalty` sums over a model)."""
        return self.base.weight.new_zeros(self.base.weight.shape[:-2])

    def rate_multiplier(self, parameter: str) -> float:
        """Factor on the learning rate of one of its parameters, by name (LoRA+)."""
        return 1.0

    @property
    def weight(self) -> Float[Tensor, "*member out in_"]:
        """W₀ + ΔW, what merging gives; gradients flow to the adapter's parameters."""
        return self.base.weight + self.delta()

    @property
    def bias(self) -> Float[Tensor, "*member out"] | None:
        """The layer's bias, or None."""
        return self.base.bias

    def extra_repr(self) -> str:
        return (
            f"{self.method.name}, in_features={self.in_features}, out_features={self.out_features}"
        )


def linear_with(
    weight: Float[Tensor, "out in_"], bias: Float[Tensor, " out"] | None = None
) -> nn.Linear:
    """An nn.Linear around these tensors; nothing is copied.

    nn.Linear itself would first draw a start from the global RNG, and `nn.utils.skip_init`, which
    does not, loads the compiler.
    """
    linear = nn.Linear.__new__(nn.Linear)
    nn.Module.__init__(linear)
    linear.out_features, linear.in_features = weight.shape
    linear.weight = nn.Parameter(weight)
    linear.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return linear


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
    for part in shared.modules():
        part.register_load_state_dict_pre_hook(_own_memory)
    return shared


def _own_memory(module: nn.Module, *_: object) -> None:
    # load_state_dict writes into existing tensors; without this it would change the model that
    # the tensors are shared with.
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.clone()
