"""Adapters on the linear layers of a whole model: `attach`, and the two ways back."""

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import nn

from missviz.adapters.base import Adapter, Method, share_frozen
from missviz.randomness import generator_for

ModelT = TypeVar("ModelT", bound=nn.Module)
Targets = str | re.Pattern[str] | Sequence[str]


def attach(
    model: ModelT,
    method: Method,
    targets: Targets = "*",
    *,
    seed: int = 0,
    trainable: Targets = (),
) -> ModelT:
    """A copy of `model` with `method` on the linear layers that `targets` names.

    Everything but the adapters is frozen and shares its memory with `model`, which stays as it is.
    A layer that stands in several places is adapted once and stands in all of them. Any
    nn.Module will do; in nn.MultiheadAttention the linear layer is `out_proj`.

    Args:
        model: a model with nn.Linear layers, or one nn.Linear.
        method: what to attach.
        targets: a glob ("fc*"), a compiled regular expression, or a list of names or globs.
            Names and globs match a layer's full dotted name or its end: "q_proj" finds
            "layers.0.attn.q_proj". A regular expression must match the full name.
        seed: with the layer's name, decides each layer's random start: neither order nor company
            matters.
        trainable: names (as in `targets`) of other modules or parameters to train as they are.
            They get memory of their own.

    Raises:
        TypeError: `method` is no Method, or a name in `targets` is not a linear layer.
        ValueError: nothing matches, or a matching layer already has an adapter.
    """
    if not isinstance(method, Method):
        raise TypeError(f"method={method!r} is not a missviz method; try missviz.MiSS(rank=4)")
    names = _matching_layers(model, targets)
    attached = share_frozen(model)
    for path, parameter in _matching_parameters(attached, trainable):
        owner, _, leaf = path.rpartition(".")
        trained = nn.Parameter(parameter.detach().clone())
        setattr(attached.get_submodule(owner), leaf, trained)
    adapters: dict[nn.Module, nn.Module] = {}
    for name in names:
        layer = attached.get_submodule(name)
        if layer not in adapters:
            try:
                adapter = method.on(cast(nn.Linear, layer), generator=generator_for(seed, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name or 'the model'}: {error}") from error
            adapters[layer] = adapter.train(layer.training)
    return _replace(attached, adapters)


def merge(model: ModelT) -> ModelT:
    """A copy of `model` in which each adapted layer is a plain one with weight W₀ + ΔW.

    Raises ValueError where there is no adapter.
    """

    def merged(adapter: Adapter) -> nn.Module:
        linear = share_frozen(adapter.base)
        with torch.no_grad():
            linear.weight = nn.Parameter(adapter.weight.clone(), requires_grad=False)
            if adapter.bias is not None:
                linear.bias = nn.Parameter(adapter.bias.clone(), requires_grad=False)
        return linear

    return _without_adapters(model, merged)


def detach(model: ModelT) -> ModelT:
    """A copy of `model` with the original layers back, bit for bit.

    Raises ValueError where there is no adapter.
    """
    return _without_adapters(model, lambda adapter: adapter.base)


def _without_adapters(model: ModelT, plain: Callable[[Adapter], nn.Module]) -> ModelT:
    copied = share_frozen(model)
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
        elif isinstance(module, nn.Linear):
            layers[name] = module
    return layers


def _matching_layers(model: nn.Module, targets: Targets) -> list[str]:
    layers = _layers(model)
    matched: set[str] = set()
    for pattern in _patterns("targets", targets):
        hits = {name for name in layers if _matches(name, pattern)}
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


def _explain_no_match(
    model: nn.Module, pattern: str | re.Pattern[str], layers: dict[str, nn.Module]
) -> None:
    shown = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    modules = dict(model.named_modules(remove_duplicate=False))
    if isinstance(pattern, str) and pattern in modules:
        found = type(modules[pattern]).__name__
        raise TypeError(f"targets={shown!r} is a {found}, not an nn.Linear")
    if not layers:
        raise ValueError(f"targets={shown!r} matches nothing: the model has no linear layers")
    raise ValueError(f"targets={shown!r} matches no linear layer; there are: {_listing(layers)}")


def _listing(names: dict[str, nn.Module], most: int = 20) -> str:
    listed = [name or "(the model itself)" for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _matching_parameters(
    model: nn.Module, trainable: Targets
) -> list[tuple[str, nn.Parameter]]:
    parameters = dict(model.named_parameters())
    matched: dict[str, nn.Parameter] = {}
    for pattern in _patterns("trainable", trainable):
        hits = {
            name: parameter
            for name, parameter in parameters.items()
            if any(_matches(prefix, pattern) for prefix in _prefixes(name))
        }
        if not hits:
            raise ValueError(
                f"trainable={pattern!r} matches no parameter; there are: "
                f"{', '.join(list(parameters)[:20])}"
            )
        matched |= hits
    return list(matched.items())


def _prefixes(name: str) -> list[str]:
    """"a.b.weight" → "a", "a.b", "a.b.weight": the modules that hold a parameter, and itself."""
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
