"""Does a method keep the contract? For the methods here, and for the reader's own."""

import copy
import itertools
from collections.abc import Iterable

import torch
from torch import nn

from missviz.adapters.base import Adapter, Method, linear_with
from missviz.experiments.ensemble import stack_state, stacked_model
from missviz.randomness import generator_for, normal, seed_for

TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1e-2,
}
"""Relative to the largest magnitude of what is compared."""


def check_method(
    method: Method,
    shapes: Iterable[tuple[int, int]] = ((20, 24), (24, 20), (16, 16)),
    dtypes: Iterable[torch.dtype] = (torch.float64, torch.float32, torch.bfloat16),
) -> None:
    """Hold a method to the contract, on layers of each (out, in) and dtype; silent if it holds.

    The contract: a zero update at first; the fast forward equals W₀ x + b + ΔW x, for any leading
    dimensions and with `base_output` given; `weight` = W₀ + ΔW; `factors` multiply to ΔW;
    `num_parameters` and `rank_bound` tell the truth; gradients are right (finite differences,
    unless the adapter says `exact_gradient = False`); the linear layer and the global RNG stay
    untouched; the same generator gives the same adapter; state_dict and deepcopy keep the function;
    members run together under vmap (and, if `stackable`, as one stack) give what each gives alone.

    Raises:
        AssertionError: what does not hold, with method, shape and dtype.
        TypeError: `method` is not a Method.
        ValueError: nothing to check, or the method does not fit one of the shapes.
    """
    if not isinstance(method, Method):
        raise TypeError(f"{method!r} is not a missviz.Method")
    cases = list(itertools.product(shapes, dtypes, (True, False)))
    if not cases:
        raise ValueError("shapes or dtypes is empty, so nothing would be checked")
    for (out_features, in_features), dtype, bias in cases:
        if dtype not in TOLERANCES:
            raise ValueError(f"dtypes has {dtype!r}; choose from {', '.join(map(str, TOLERANCES))}")
        if not bias and getattr(method, "bias", False):
            continue  # full fine-tuning of a bias that is not there
        linear = random_linear(out_features, in_features, dtype, bias)
        place = f"{method.name} on {out_features} × {in_features} {dtype} bias={bias}"
        method.check_layer(linear)
        try:
            _check_on(method, linear, TOLERANCES[dtype], place)
        except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError) as error:
            raise AssertionError(f"{place}: raised {type(error).__name__}: {error}") from error


def random_linear(
    out_features: int, in_features: int, dtype: torch.dtype, bias: bool = True
) -> nn.Linear:
    """A linear layer with entries of N(0, 1/in), always the same for the same arguments."""
    generator = generator_for("linear", out_features, in_features)
    shapes = ((out_features, in_features), (out_features,))[: 1 + bias]
    tensors = (normal(shape, in_features**-0.5, generator).to(dtype) for shape in shapes)
    return linear_with(*tensors)


def bound(method: Method, linear: nn.Linear, generator: torch.Generator | None = None) -> Adapter:
    """`method.on(linear)` for any method: one that starts from the gradient gets random numbers
    for it, N(0, 1/in) as in `random_linear`, always the same for the same shape."""
    gradient = None
    if method.needs_gradient:
        shape = linear.out_features, linear.in_features
        drawn = normal(shape, linear.in_features**-0.5, generator_for("gradient", *shape))
        gradient = drawn.to(linear.weight)
    return method.on(linear, generator=generator, gradient=gradient)


def randomise(adapter: nn.Module, *key: object, std: float = 0.3) -> None:
    """Move every trainable parameter away from its start by N(0, std²): a zero update proves
    nothing."""
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if parameter.requires_grad:
                step = normal(tuple(parameter.shape), std, generator_for("randomise", name, *key))
                parameter.add_(step.to(parameter))


def _check_on(method: Method, linear: nn.Linear, tolerance: float, place: str) -> None:
    before = copy.deepcopy(linear.state_dict())
    global_state = torch.get_rng_state()
    adapter = bound(method, linear, generator_for("check", place))
    again = bound(method, linear, generator_for("check", place))
    holds(isinstance(adapter, Adapter), place, "on() must return a missviz.Adapter")
    for name, tensor in adapter.state_dict().items():
        holds(torch.equal(tensor, again.state_dict()[name]), place, f"{name} must follow generator")
    _check_untouched(linear, before, place)
    x = normal((2, 3, linear.in_features), 1.0, generator_for("x", place)).to(linear.weight)
    with torch.no_grad():
        _close(adapter(x), linear(x), tolerance, place, "before training, y must be W₀ x + b")
        randomise(adapter, place)
        _check_function(adapter, linear, x, tolerance, place)
    _check_counts(method, adapter, linear, tolerance, place)
    _check_copies(method, adapter, linear, x, place)
    exact = linear.weight.dtype == torch.float64
    if exact and adapter.exact_gradient:
        _check_gradients(adapter, x, place)
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


def _check_function(
    adapter: Adapter, linear: nn.Linear, x: torch.Tensor, tolerance: float, place: str
) -> None:
    delta = adapter.delta()
    holds(delta.shape == linear.weight.shape, place, "delta() must have the shape of W₀")
    holds(delta.dtype == linear.weight.dtype, place, "delta() must have the dtype of W₀")
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
        known, y = rows.clone(), linear(rows).detach()
        made = adapter(known, given := y.clone())
        _close(made.reshape(moved.shape), moved, tolerance, place, "forward with base_output")
        holds(torch.equal(known, rows), place, "forward must not change x")
        holds(torch.equal(given, y), place, "forward must not change base_output")
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
    count = sum(parameter.numel() for parameter in adapter.parameters() if parameter.requires_grad)
    claimed = method.num_parameters(*shape)
    holds(count == claimed, place, f"num_parameters says {claimed}, training may change {count}")
    if linear.weight.dtype == torch.float64:
        values = adapter.spectrum()
        rank = int((values > 1e-10 * values[0]).sum())
        bound = method.rank_bound(*shape)
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


def _check_gradients(adapter: Adapter, x: torch.Tensor, place: str) -> None:
    trained = {name: p for name, p in adapter.named_parameters() if p.requires_grad}

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        replaced = dict(zip(trained, values, strict=True))
        output: torch.Tensor = torch.func.functional_call(adapter, replaced, (x,))
        return output

    inputs = [x[0, :2].clone().requires_grad_()]
    inputs += [parameter.detach().clone().requires_grad_() for parameter in trained.values()]
    right = torch.autograd.gradcheck(function, inputs, fast_mode=True, raise_exception=False)
    holds(right, place, "gradients must agree with finite differences")


def _check_stack(method: Method, linear: nn.Linear, place: str) -> None:
    members = [bound(method, linear, generator_for("member", index)) for index in range(3)]
    for index, member in enumerate(members):
        randomise(member, index)
    x = normal((3, 5, linear.in_features), 1.0, generator_for("stack")).to(linear.weight)
    parameters, buffers = stack_state(members)
    together = {
        "vmap": torch.func.vmap(
            lambda state, x: torch.func.functional_call(members[0], state, (x,))
        )(parameters | buffers, x)
    }
    if members[0].stackable:
        together["a stack"] = stacked_model(members[0], parameters | buffers)(x)
    for way, y in together.items():
        for index, member in enumerate(members):
            _close(y[index], member(x[index]), 1e-12, place, f"{way} must give what members give")


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
