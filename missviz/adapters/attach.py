"""Adapters on the linear layers of a whole model: `attach`, and the two ways back."""

import copy
import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from missviz.adapters.base import Adapter, Method, checked_method, own_loading, share_frozen
from missviz.adapters.conv1d import as_it_was, as_linear, is_linear
from missviz.adapters.full import FrozenFineTuning
from missviz.adapters.linear import linear_with
from missviz.adapters.validation import is_plain
from missviz.randomness import generator_for

ModelT = TypeVar("ModelT", bound=nn.Module)
Result = TypeVar("Result")
Targets = str | re.Pattern[str] | Sequence[str]


def attach(
    model: ModelT,
    method: Method,
    targets: Targets = "*",
    *,
    seed: int = 0,
    trainable: Targets = (),
    calibration: Callable[[ModelT], Tensor] | None = None,
) -> ModelT:
    """A copy of `model` with `method` on the linear layers that `targets` names.

    Everything but the adapters is frozen and shares its memory with `model`, which stays as it is
    (and should: W₀ is what stands there). What an earlier `attach` left trainable stays trainable.
    A layer that stands in several places is adapted once and stands in all of them. Any
    nn.Module will do; in nn.MultiheadAttention the linear layer is `out_proj`.

    Args:
        model: a model with linear layers (nn.Linear, or transformers' Conv1D), or one of them.
        method: what to attach.
        targets: a glob ("fc*"), a compiled regular expression, or a list of names or globs.
            Names and globs match a layer's full dotted name or its end: "q_proj" finds
            "layers.0.attn.q_proj". A regular expression must match the full name. A subclass of
            nn.Linear whose forward is something else than W x + b (a router, a quantised layer) is
            passed over by patterns, and refused where it is named.
        seed: with the layer's name, decides each layer's random start: neither order nor company
            matters.
        trainable: names (as in `targets`) of modules or parameters without an adapter, to train
            as they are. They get memory of their own.
        calibration: model → loss on a batch, for methods that start from the gradient (LoRA-GA):
            `lambda model: cross_entropy(model(x), y)`. It is called once.

    Raises:
        TypeError: `method` is no Method, `calibration` no function, or a name in `targets` is not
            a linear layer.
        ValueError: nothing matches, a matching layer already has an adapter, or `calibration` is
            missing or not wanted.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is not an nn.Module")
    checked_method("method", method)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed={seed!r} is not a whole number")
    names = _matching_layers(model, targets)
    for name in names:
        _named(name, method.check_layer, as_linear(model.get_submodule(name)))
    gradients = _weight_gradients(model, method, names, calibration)
    attached = share_frozen(model)
    layers = {name: attached.get_submodule(name) for name in names}
    _train_copies(attached, trainable, set(layers.values()))
    bases = {
        layer: layer if isinstance(layer, nn.Linear) else own_loading(as_linear(layer))
        for layer in layers.values()
    }
    shared = method.shared(list(bases.values()), generator_for(seed, "shared"))
    adapters: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        if layer not in adapters:
            generator, gradient = generator_for(seed, name), gradients.get(name)
            adapter = _named(name, method.bind, bases[layer], generator, shared, gradient)
            adapters[layer] = adapter.train(layer.training)
    return _replace(attached, adapters)


def _weight_gradients(
    model: ModelT,
    method: Method,
    names: list[str],
    calibration: Callable[[ModelT], Tensor] | None,
) -> dict[str, Tensor]:
    """∂L/∂W₀ of each layer, where the method wants it."""
    if not method.needs_gradient:
        if calibration is not None:
            raise ValueError(f"calibration: {method.name} does not start from the gradient")
        return {}
    if calibration is None:
        raise ValueError(
            f"{method.name} starts from the gradient: attach(..., calibration=loss), a function "
            "from the model to its loss on a batch"
        )
    if not callable(calibration):
        raise TypeError(f"calibration={calibration!r} is not a function from the model to its loss")
    # y = (W₀ + M) x at M = 0: the gradient of M is that of W₀, and W₀ stays out of it.
    probe = attach(model, FrozenFineTuning(), names)
    with torch.enable_grad():
        loss = calibration(probe)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ValueError("calibration does not return one loss that depends on the adapted layers")
    places = {name: probe.get_submodule(name) for name in names}
    trained = [next(p for p in place.parameters() if p.requires_grad) for place in places.values()]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    for name, gradient in zip(names, found, strict=True):
        if gradient is None:
            raise ValueError(f"{name or 'the model'}: calibration's loss does not depend on it")
    return dict(zip(names, found, strict=True))


def _named(name: str, work: Callable[..., Result], *arguments: object) -> Result:
    """The result of `work`, whose complaint gets the layer's name in front."""
    try:
        return work(*arguments)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name or 'the model'}: {error}") from error


def merge(model: ModelT) -> ModelT:
    """A copy of `model`, with memory of its own, in which each adapted layer is a plain layer of
    its kind with weight W₀ + ΔW.

    What is frozen in `model` is frozen in the copy. Raises ValueError where there is no adapter.
    """

    def merged(adapter: Adapter) -> nn.Module:
        # Inside a user's autocast ΔW would be rounded to its dtype.
        with torch.no_grad(), torch.autocast(adapter.base.weight.device.type, enabled=False):
            bias = None if adapter.bias is None else adapter.bias.clone()
            linear = linear_with(adapter.weight.to(adapter.base.weight), bias)
        plain = as_it_was(linear, adapter.base)
        return plain.requires_grad_(False).train(adapter.training)

    return _without_adapters(model, merged)


def detach(model: ModelT) -> ModelT:
    """A copy of `model`, with memory of its own and the original layers back, bit for bit.

    Only adapters are taken off: what `trainable=` trained stays as trained, and what is frozen in
    `model` is frozen in the copy. Raises ValueError where there is no adapter.
    """
    return _without_adapters(model, lambda adapter: as_it_was(adapter.base, adapter.base))


def _without_adapters(model: ModelT, plain: Callable[[Adapter], nn.Module]) -> ModelT:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={model!r} is not an nn.Module")
    copied = copy.deepcopy(model)
    adapters = [module for module in copied.modules() if isinstance(module, Adapter)]
    if not adapters:
        raise ValueError("the model has no adapters; missviz.attach puts them there")
    return _replace(copied, {adapter: plain(adapter) for adapter in adapters})


def _replace(model: ModelT, new: dict[nn.Module, nn.Module]) -> ModelT:
    """`model` with new[module] in every place where such a module stands, in place."""
    for parent in list(model.modules()):
        # _modules, because named_children() shows a module that stands twice only once.
        for name, child in list(parent._modules.items()):
            if child in new:
                setattr(parent, name, new[child])
    return cast(ModelT, new.get(model, model))


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and adapters by name, under every name that they have."""
    layers: dict[str, nn.Module] = {}
    inside: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if isinstance(module, Adapter):
            inside.append(f"{name}." if name else "")
            layers[name] = module
        elif is_linear(module):
            layers[name] = module
    return layers


def _matching_layers(model: nn.Module, targets: Targets) -> list[str]:
    layers = _layers(model)
    matched: set[str] = set()
    for pattern in _patterns("targets", targets):
        hits = {name for name in layers if _matches(name, pattern)}
        if not isinstance(pattern, str) or any(sign in pattern for sign in "*?["):
            # All of them, where none can be: the sentence then says why.
            hits = {name for name in hits if _can_be_adapted(layers[name])} or hits
        if not hits:
            _explain_no_match(model, pattern, layers)
        matched |= hits
    for name in matched:
        layer = layers[name]
        if isinstance(layer, Adapter):
            raise ValueError(
                f"{name or 'the model'} already has an adapter ({layer.method.name}); "
                "missviz.detach or missviz.merge it first"
            )
    return [name for name in layers if name in matched]


def _can_be_adapted(layer: nn.Module) -> bool:
    """False for an nn.Linear that computes something else, as routers and quantised layers do."""
    if isinstance(layer, nn.Linear) and not is_lazy(layer.weight):
        return is_plain(layer)
    return True


def _explain_no_match(
    model: nn.Module, pattern: str | re.Pattern[str], layers: dict[str, nn.Module]
) -> None:
    shown = _shown(pattern)
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(pattern, str) and pattern in modules:
        if is_linear(modules[pattern]):
            raise ValueError(f"targets={shown} is inside an adapter; a layer takes one adapter")
        found = type(modules[pattern]).__name__
        raise TypeError(f"targets={shown} is a {found}, not an nn.Linear")
    if not layers:
        raise ValueError(f"targets={shown} matches nothing: the model has no linear layers")
    whole = " (a regular expression must match the full name)" if shown != repr(pattern) else ""
    raise ValueError(
        f"targets={shown} matches no linear layer{whole}; there are: {_listing(list(layers))}"
    )


def _shown(pattern: str | re.Pattern[str]) -> str:
    return repr(pattern.pattern if isinstance(pattern, re.Pattern) else pattern)


def _listing(names: list[str], most: int = 20) -> str:
    listed = [name or "(the model itself)" for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _train_copies(model: nn.Module, trainable: Targets, adapted: set[nn.Module]) -> None:
    """Give the parameters that `trainable` names memory of their own and let them be trained.

    Not those of layers with an adapter (now or before): W₀ stays what ΔW is measured from.
    """
    fixed = {
        id(parameter)
        for module in model.modules()
        if module in adapted or isinstance(module, Adapter)
        for parameter in module.parameters()
    }
    # Under every name: a tied parameter is found by each, and stays tied.
    places = dict(model.named_parameters(remove_duplicate=False))
    copies: dict[int, nn.Parameter] = {}
    for pattern in _patterns("trainable", trainable):
        hits = [
            parameter
            for name, parameter in places.items()
            if any(_matches(prefix, pattern) for prefix in _prefixes(name))
        ]
        if not hits:
            raise ValueError(
                f"trainable={_shown(pattern)} matches no parameter; there are: "
                f"{_listing(list(places))}"
            )
        free = [parameter for parameter in hits if id(parameter) not in fixed]
        if not free:
            raise ValueError(
                f"trainable={_shown(pattern)} names only parameters of layers with an adapter, "
                "whose W₀ and bias stay frozen"
            )
        for parameter in free:
            copies[id(parameter)] = nn.Parameter(parameter.detach().clone())
    for place, parameter in places.items():
        if id(parameter) in copies:
            owner, _, leaf = place.rpartition(".")
            setattr(model.get_submodule(owner), leaf, copies[id(parameter)])


def _prefixes(name: str) -> list[str]:
    """ "a.b.weight" → "a", "a.b", "a.b.weight": the modules that hold a parameter, and itself."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _patterns(argument: str, targets: Targets) -> list[str | re.Pattern[str]]:
    if isinstance(targets, str | re.Pattern):
        return [targets]
    if not isinstance(targets, Sequence) or not all(isinstance(item, str) for item in targets):
        raise TypeError(
            f"{argument}={targets!r} is neither a glob, a compiled regular expression "
            "nor a list of names"
        )
    if argument == "targets" and not targets:
        raise ValueError("targets is an empty list; name at least one linear layer")
    return list(targets)


def _matches(name: str, pattern: str | re.Pattern[str]) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    parts = name.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts)))
    return any(fnmatch.fnmatchcase(end, pattern) for end in ends)
