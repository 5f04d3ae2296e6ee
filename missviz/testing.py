"""Does a method keep the contract? For the methods here, and for the reader's own."""

import copy
import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Memory, Method, checked_method
from missviz.adapters.contract import (
    ContractError,
    begin_with_super,
    has_begun,
    odd_dtypes,
    wrong_name,
)
from missviz.adapters.stacking import stack
from missviz.adapters.trial import bound as bound
from missviz.adapters.trial import count_says, given_size
from missviz.adapters.trial import random_linear as random_linear
from missviz.adapters.trial import randomise as randomise
from missviz.experiments.ensemble import stack_state
from missviz.randomness import generator_for, normal, seed_for

TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}
"""Relative to the largest magnitude of what is compared."""
RAISED = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError)
"""What an adapter that does not keep the contract may raise while it is checked."""
FITS = "a method that does not fit every layer raises ValueError in check_shape"


def check_method(
    method: Method,
    shapes: Iterable[tuple[int, int]] = ((20, 24), (24, 20), (16, 16)),
    dtypes: Iterable[torch.dtype] = (torch.float64, torch.float32, torch.bfloat16),
) -> None:
    """Hold a method to the contract, on layers of each (out, in) and dtype; silent if it holds.

    The contract: settings that tell one method from another, and a name that does too; methods that
    take the arguments that they are called with; a zero update at first, and a finite gradient
    there that is not zero for all trained numbers; the fast forward equals W₀ x + b + ΔW x, for any
    leading dimensions, and where what is `frozen` is remembered; `weight` = W₀ + ΔW; `factors`
    multiply to ΔW; `num_parameters` and `rank_bound` tell the truth; gradients are right (finite
    differences, unless the adapter says `exact_gradient = False`); the linear layer and the global
    RNG stay untouched; the same generator gives the same adapter; state_dict and deepcopy keep the
    function; members run together under vmap (and, if `stackable`, as one stack) give what each
    gives alone.

    Raises:
        AssertionError: what does not hold, with method, shape and dtype.
        TypeError: `method` is not a Method, but its class, or something else.
        ValueError: nothing to check, or the method does not fit one of the shapes.
    """
    if isinstance(method, Method) and (wrong := wrong_name(method)):
        raise AssertionError(wrong)
    _check_value(checked_method("method", method))
    cases = list(itertools.product(_pairs(shapes), _dtypes(dtypes), (True, False)))
    if not cases:
        raise ValueError("shapes or dtypes is empty, so nothing would be checked")
    for (out_features, in_features), dtype, bias in cases:
        if not bias and getattr(method, "bias", False):
            continue  # full fine-tuning of a bias that is not there
        linear = random_linear(out_features, in_features, dtype, bias)
        place = f"{method.name} on {out_features} × {in_features} {dtype} bias={bias}"
        method.check_layer(linear)
        try:
            _check_on(method, linear, TOLERANCES[dtype], place)
        except RAISED as error:
            said = _begin_with_super(error) or f"raised {type(error).__name__}: {error}"
            raise AssertionError(f"{place}: {said}") from error


def _pairs(shapes: Any) -> list[tuple[int, int]]:
    wrong = f"shapes={shapes!r} is not a list of (out, in) pairs, such as [(20, 24)]"
    if not isinstance(shapes, Iterable) or isinstance(shapes, str):
        raise TypeError(wrong)
    pairs = list(shapes)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise TypeError(wrong)
    for pair in pairs:
        for side, value in zip(("out", "in"), pair, strict=True):
            validation.positive_int(f"shapes: {side}", value)
    return pairs


def _dtypes(dtypes: Any) -> list[torch.dtype]:
    known = ", ".join(map(str, TOLERANCES))
    if not isinstance(dtypes, Iterable) or isinstance(dtypes, str):
        raise TypeError(f"dtypes={dtypes!r} is not a list of dtypes; choose from {known}")
    listed = list(dtypes)
    for dtype in listed:
        if dtype not in TOLERANCES:
            raise ValueError(f"dtypes has {dtype!r}; choose from {known}")
    return listed


def _check_value(method: Method) -> None:
    """A method is its settings: it has a name, and equals another exactly if they are equal."""
    kind = type(method).__name__
    try:
        same = copy.copy(method) == method and hash(copy.copy(method)) == hash(method)
    except TypeError as error:
        raise AssertionError(f"{kind}: must be hashable, its settings too: {error}") from error
    fields = {field.name: field.compare for field in dataclasses.fields(method)}
    settings = {name: fields.get(name, True) for name in [*fields, *vars(method)]}
    unseen = [
        name
        for name, counts in settings.items()
        if counts and not _is_cached(method, name) and _with(method, name, object()) == method
    ]
    holds(same and not unseen, kind, _equality_rule(kind, unseen))
    for name, value in vars(method).items():
        if settings[name] and not _is_cached(method, name):
            rule = f"setting {name} is a {type(value).__name__}, which no copy equals (==); {PLAIN}"
            holds(_equals_its_copy(value), kind, rule)
    for name in CALLED:
        _check_signature(method, name, kind)
    _check_size(method, kind)


CALLED = ("num_parameters", "rank_bound", "check_shape", "shared", "after_step", "with_rank")
PLAIN = "give numbers, strings, or tuples of them"


def _equals_its_copy(value: object) -> bool:
    try:
        other = copy.deepcopy(value)
        return other is value or (bool(other == value) and hash(other) == hash(value))
    except Exception:  # such as a tensor's, which has no one answer
        return False


def _check_size(method: Method, kind: str) -> None:
    """A method with a rank has others, with names of their own."""
    setting, value = method.sized_by, given_size(method)
    if value is None:
        return
    try:
        other: Any = method.with_rank(value + 1)
    except ValueError:
        return  # it cannot have this one
    call, two = f"with_rank({value + 1})", f"{setting}={value} and {setting}={value + 1}"
    holds(isinstance(other, Method), kind, f"{call} must return a method, not {other!r:.60}")
    rule = f"{call} must return the method at another {setting}; it returns an equal one"
    holds(other != method, kind, rule)
    rule = f"{two} must have different names, which key tables and colours"
    holds(other.name != method.name, kind, f"{rule}; both are {method.name!r}")


def _check_signature(method: Method, name: str, kind: str) -> None:
    wanted = list(inspect.signature(getattr(Method, name)).parameters)
    try:
        inspect.signature(getattr(method, name)).bind(*wanted[1:])
    except TypeError as error:
        rule = f"{name} must be: def {name}({', '.join(wanted)}); {error}"
        raise AssertionError(f"{kind}: {rule}") from error


def _equality_rule(kind: str, unseen: list[str]) -> str:
    what = f"with another {unseen[0]} it must not be equal" if unseen else "a copy must be equal"
    return f"{what} (==); write @dataclass(frozen=True) above class {kind}, and settings as fields"


def _is_cached(method: Method, name: str) -> bool:
    return isinstance(getattr(type(method), name, None), functools.cached_property)


def _with(method: Method, name: str, value: object) -> Method:
    other = copy.copy(method)
    object.__setattr__(other, name, value)
    return other


def _begin_with_super(error: BaseException) -> str | None:
    """What to say where an adapter was used that torch knows nothing of yet; else None."""
    trace = error.__traceback__
    while trace is not None:
        this = trace.tb_frame.f_locals.get("self")
        if isinstance(this, Adapter) and not has_begun(this):
            return begin_with_super(this)
        trace = trace.tb_next
    return None


@contextmanager
def _raising(place: str, what: str, hint: str) -> Iterator[None]:
    try:
        yield
    except RAISED as error:
        said = _begin_with_super(error) or f"{what} raised {type(error).__name__}: {error}; {hint}"
        if isinstance(error, ContractError):
            said = str(error)
        raise AssertionError(f"{place}: {said}") from error


def _check_on(method: Method, linear: nn.Linear, tolerance: float, place: str) -> None:
    before = copy.deepcopy(linear.state_dict())
    global_state = torch.get_rng_state()
    with _raising(place, "on()", FITS):
        adapter = bound(method, linear, generator_for("check", place))
    again = bound(method, linear, generator_for("check", place))
    holds(isinstance(adapter, Adapter), place, "on() must return a missviz.Adapter")
    holds(has_begun(adapter), place, begin_with_super(adapter))
    for name, tensor in adapter.state_dict().items():
        holds(torch.equal(tensor, again.state_dict()[name]), place, f"{name} must follow generator")
    _check_untouched(linear, before, place)
    x = normal((2, 3, linear.in_features), 1.0, generator_for("x", place)).to(linear.weight)
    with torch.no_grad():
        _check_definition(adapter, linear, place)
        y, written = linear(x), x._version
        made = adapter(x)
        holds(x._version == written, place, "forward changes x in place; make a new tensor")
        _close(made, y, tolerance, place, "before training, y must be W₀ x + b")
        randomise(adapter, place)
        _check_function(adapter, linear, x, tolerance, place)
    _check_counts(method, adapter, linear, tolerance, place)
    _check_copies(method, adapter, linear, x, place)
    exact = linear.weight.dtype == torch.float64
    if exact and adapter.exact_gradient:
        _check_gradients(adapter, x, place)
    if exact:
        _check_start(again, x, place)
    used = not torch.equal(torch.get_rng_state(), global_state)
    holds(not used, place, "the global RNG must not be used")
    if exact:
        _check_stack(method, linear, place)
    _check_untouched(linear, before, place)


def _check_untouched(linear: nn.Linear, before: dict[str, torch.Tensor], place: str) -> None:
    for name, tensor in linear.state_dict().items():
        holds(torch.equal(tensor, before[name]), place, f"the layer's own {name} must not change")
    trainable = all(parameter.requires_grad for parameter in linear.parameters())
    holds(trainable, place, "the layer's own requires_grad must not change")


def _check_definition(adapter: Adapter, linear: nn.Linear, place: str) -> None:
    """Shapes and dtypes of ΔW, before anything is computed with it: what a wrong one leads to says
    nothing of its cause."""
    out_features, in_features = shape = tuple(linear.weight.shape)
    hint = odd_dtypes(adapter) or FITS
    with _raising(place, "factors()", hint):
        thin = adapter.factors()
    if thin is not None:
        one = isinstance(thin, torch.Tensor)
        told = "one tensor" if one else f"{len(thin)} tensors"
        rule = f"factors() must return (left, right) or None; it returned {told}"
        holds(not one and len(thin) == 2, place, rule)
        left, right = (tuple(factor.shape) for factor in thin)
        fit = left[:-1] + right[1:] == shape and left[-1] == right[0]
        rule = f"they must be {out_features} × r and r × {in_features}; {FITS}"
        holds(fit, place, f"factors() are {_times(left)} and {_times(right)}; {rule}")
    with _raising(place, "delta()", hint):
        delta = adapter.delta()
    holds(isinstance(delta, torch.Tensor), place, "delta() must return a tensor")
    got = tuple(delta.shape)
    why = "a weight is out × in, as in nn.Linear" if got == shape[::-1] else FITS
    holds(got == shape, place, f"delta() is {_times(got)}, must be {_times(shape)}; {why}")
    dtype = linear.weight.dtype
    rule = f"delta() is {_short(delta.dtype)}, must be {_short(dtype)} as W₀ is"
    odd = odd_dtypes(adapter)
    holds(delta.dtype == dtype, place, "; ".join(filter(None, [rule, odd])))
    holds(not odd, place, odd)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _check_function(
    adapter: Adapter, linear: nn.Linear, x: torch.Tensor, tolerance: float, place: str
) -> None:
    delta = adapter.delta()
    moved = x.double() @ (linear.weight.double() + delta.double()).mT
    if adapter.bias is not None:
        moved = moved + adapter.bias.double()
    for shape in ((2, 3), (6,), (1, 2, 3)):
        y = adapter(x.reshape(*shape, -1))
        holds(y.shape == (*shape, linear.out_features), place, f"y must keep leading dims {shape}")
        _close(y.reshape(moved.shape), moved, tolerance, place, "forward must be (W₀ + ΔW) x + b")
    _close(adapter(x[0, 0]), moved[0, 0], tolerance, place, "forward must take a single vector")
    _close(adapter(x.mT.contiguous().mT), moved, tolerance, place, "forward of strided inputs")
    _close(copy.deepcopy(adapter).eval()(x), moved, tolerance, place, "forward in eval mode")
    holds(adapter(x[:0]).shape == (0, 3, linear.out_features), place, "forward of no inputs")
    for rows in (x, x.flatten(0, 1)):
        known = rows.clone()
        adapter.memory = Memory([known])
        made, again = adapter(known).clone(), adapter(known)
        adapter.memory = None
        _close(made.reshape(moved.shape), moved, tolerance, place, "forward with a memory")
        holds(torch.equal(known, rows), place, "forward must not change x")
        rule = "a second forward on the same x gives something else; what `frozen` gave must stay"
        holds(torch.equal(made, again), place, rule)
    trained = copy.deepcopy(adapter)
    trained.memory = Memory([x])
    trained(x)
    randomise(trained, f"{place} again")
    remembered, trained.memory = trained(x), None
    rule = "what `frozen` gives must not depend on trained numbers"
    _close(remembered, trained(x), tolerance, place, rule)
    _close(adapter.weight, linear.weight + delta, tolerance, place, "weight must be W₀ + ΔW")
    thin = adapter.factors()
    if thin is not None:
        left, right = thin
        _close(left @ right, delta, tolerance, place, "left @ right must be ΔW")
    values = torch.linalg.svdvals(delta.double())
    least = max(tolerance, 1e-7)
    _close(adapter.spectrum(), values, least, place, "spectrum() must be the singular values of ΔW")


def _check_counts(
    method: Method, adapter: Adapter, linear: nn.Linear, tolerance: float, place: str
) -> None:
    shape = linear.out_features, linear.in_features
    said = count_says(method, adapter)
    holds(said is None, place, said or "")
    bound: Any = method.rank_bound(*shape)
    whole = isinstance(bound, int) and not isinstance(bound, bool)
    holds(whole, place, f"rank_bound says {bound!r}, which is no whole number")
    rule = f"rank_bound says {bound}, and no ΔW of {_times(shape)} has more than {min(shape)}"
    holds(bound <= min(shape), place, rule)
    if linear.weight.dtype == torch.float64:
        values = adapter.spectrum()
        rank = int((values > 1e-10 * values[0]).sum())
        holds(rank <= bound, place, f"rank_bound says {bound}, ΔW has rank {rank}")


def _check_copies(
    method: Method, adapter: Adapter, linear: nn.Linear, x: torch.Tensor, place: str
) -> None:
    with torch.no_grad():
        y = adapter(x)
        holds(torch.equal(copy.deepcopy(adapter)(x), y), place, "deepcopy must keep the function")
        other = bound(method, linear, generator_for("another", seed_for(place)))
        other.load_state_dict(adapter.state_dict())
        holds(torch.equal(other(x), y), place, "state_dict must keep the function")


def _check_start(adapter: Adapter, x: torch.Tensor, place: str) -> None:
    """The first step is taken from the start, where a derivative may be infinite, or 0 for all."""
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}
    y = adapter(x)
    if not trained or not y.requires_grad:
        return
    pull = normal(tuple(y.shape), 1.0, generator_for("pull")).to(y)
    given = torch.autograd.grad((y * pull).sum(), list(trained.values()), allow_unused=True)
    found = {name: g for name, g in zip(trained, given, strict=True) if g is not None}
    bad = [name for name, gradient in found.items() if validation.not_finite(gradient)]
    holds(not bad, place, f"the gradient of {', '.join(bad)} is not finite at the start")
    moves = any(bool(gradient.any()) for gradient in found.values())
    rule = "the gradient of all trained numbers is zero at the start, so that none can ever train"
    holds(moves, place, rule)


def _check_gradients(adapter: Adapter, x: torch.Tensor, place: str) -> None:
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        replaced = dict(zip(trained, values, strict=True))
        output: torch.Tensor = torch.func.functional_call(adapter, replaced, (x,))
        return output

    inputs = [x[0, :2].clone().requires_grad_()]
    inputs += [parameter.detach().clone().requires_grad_() for parameter in trained.values()]
    right = torch.autograd.gradcheck(function, inputs, fast_mode=True, raise_exception=False)
    if not right:
        said = _wrong_gradients(function, dict(zip(["x", *trained], inputs, strict=True)))
        raise AssertionError(f"{place}: gradients must agree with finite differences{said}")


def _wrong_gradients(function: Callable[..., torch.Tensor], inputs: dict[str, torch.Tensor]) -> str:
    """Of which inputs the derivative along a random direction is wrong, as the end of a sentence;
    empty where it is right for each."""
    values = list(inputs.values())
    y = function(*values)
    pull = normal(tuple(y.shape), 1.0, generator_for("pull")).to(y)
    given: Sequence[torch.Tensor | None] = [None] * len(values)
    if y.requires_grad:
        given = torch.autograd.grad((y * pull).sum(), values, allow_unused=True)
    wrong: list[str] = []
    cut: list[str] = []
    for place, (name, gradient) in enumerate(zip(inputs, given, strict=True)):
        way = normal(tuple(values[place].shape), 1.0, generator_for("way", name)).to(y)
        with torch.no_grad():
            ends = [
                function(*values[:place], values[place] + step * way, *values[place + 1 :])
                for step in (1e-6, -1e-6)
            ]
            measured = float(((ends[0] - ends[1]) * pull).sum()) / 2e-6
        claimed = 0.0 if gradient is None else float((gradient * way).sum())
        if abs(claimed - measured) > 1e-5 * max(1.0, abs(measured)):
            (wrong if claimed else cut).append(name)
    said = f"; that of {', '.join(wrong)} does not" if wrong else ""
    if cut:
        said += f"; {', '.join(cut)} has none: is it cut off by .item(), .detach() or .data?"
    return said


def _check_stack(method: Method, linear: nn.Linear, place: str) -> None:
    members = [bound(method, linear, generator_for("member", index)) for index in range(3)]
    for index, member in enumerate(members):
        randomise(member, index)
    x = normal((3, 5, linear.in_features), 1.0, generator_for("stack")).to(linear.weight)
    state, alike = stack_state(members), "must give what members give"
    runs: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
        "vmap": (
            lambda: torch.func.vmap(
                lambda own, x: torch.func.functional_call(members[0], own, (x,))
            )(state, x),
            "an ensemble trains its members under torch.func.vmap",
        )
    }
    hint = "missviz.stack runs members on one W₀"
    if members[0].stackable:
        hint = (
            "stackable = True says that the formulas hold with a member dimension in front: count "
            "from the end (-1, -2, .mT), or leave stackable out"
        )
    for share, label in ((False, "a stack"), (True, "a stack on one W₀")):
        runs[label] = functools.partial(_stacked, members, share, x), hint
    for way, (run, hint) in runs.items():
        with _raising(place, way, hint):
            y = run()
        for index, member in enumerate(members):
            _close(y[index], member(x[index]), 1e-12, place, f"{way} {alike} ({hint})")


def _stacked(members: Sequence[Adapter], share: bool, x: torch.Tensor) -> torch.Tensor:
    y: torch.Tensor = stack(members, share=share)(x)
    return y


def _close(
    got: torch.Tensor, wanted: torch.Tensor, tolerance: float, place: str, rule: str
) -> None:
    holds(got.shape == wanted.shape, place, f"{rule}: shape {tuple(got.shape)}")
    scale = max(1.0, float(wanted.detach().abs().max())) if wanted.numel() else 1.0
    error = float((got.double() - wanted.double()).detach().abs().max()) if got.numel() else 0.0
    holds(error <= tolerance * scale, place, f"{rule}: off by {error:.1e} at scale {scale:.1e}")


def holds(condition: bool, place: str, rule: str) -> None:
    """AssertionError with the method's name, where `condition` is false."""
    if not condition:
        raise AssertionError(f"{place}: {rule}")
