"""What a user may pass to `no_free_lunch`: each argument checked, in plain form."""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import torch

from missviz.adapters import validation
from missviz.adapters.adalora import AdaLoRA
from missviz.adapters.base import Method, checked_method
from missviz.adapters.dora import DoRA
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.mora import MoRA
from missviz.adapters.mos import MoS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.prolora import ProLoRA
from missviz.adapters.trial import given_size
from missviz.adapters.vera import VeRA
from missviz.experiments.data import OwnData, checked_data
from missviz.experiments.tasks import PROTOCOLS, TARGETS, WIDTH, Protocol, Target

FIRST_SEED = 43
"""Table 12's seed; n seeds are the n from here on."""

TUNING_SEED = 1000
ELEMENTWISE = "sin 2πx + 0.3 cos 3πx"
OWN_DATA = "own data"


def core_methods(in_features: int = WIDTH) -> tuple[Method, ...]:
    """The few that most questions are about: full fine-tuning with bias as in the script, LoRA,
    PiSSA and MiSS at Table 12's ranks, and MiSS's control: a frozen orthogonal factor of equal gain
    √g, g = in_features/4."""
    return (
        FullFineTuning(bias=True),
        LoRA(2),
        PiSSA(2),
        MiSS(4),
        FixedFactor(4, "orthogonal", gain=math.sqrt(in_features / 4)),
    )


def default_methods(protocol: str = "published") -> tuple[Method, ...]:
    """Figure 2's methods at Table 12's ranks, as the authors' script has them, and the control.

    Where the script differs from the method that it names, this follows the script: DoRA takes the
    norm of columns, and its gradient; VeRA draws A and B as nn.Linear draws its weight; AdaLoRA has
    neither penalty nor budget; MoS takes every pool shard, so that it is LoRA r=2 from another
    random start; ProLoRA shares one rank, so that nothing is rotated. MoRA, which §3.1 lists and
    Table 12 and the script forget, has LoRA's budget. `published.table("authors_script")` holds
    what the script itself gives.

    For "teacher" also the method whose own target is among its families: four plain columns.
    """
    others: tuple[Method, ...] = (
        DoRA(1, norm="columns"),
        VeRA(64, init="linear"),
        AdaLoRA(2, orthogonality=0.0),
        ProLoRA(2, unshared=1),
        MoS(2, 2, shards_per_vector=2),
        MoRA(2),
    )
    plain = (FixedFactor(4, "columns"),) if protocol == "teacher" else ()
    return (*core_methods(), *others, *plain)


def checked_methods(
    methods: Sequence[Method] | None, protocol: str, data: OwnData | None = None
) -> tuple[Method, ...]:
    """The methods as a tuple, each able to train the experiment's layer by its sizes."""
    in_features = WIDTH if data is None else data.in_features
    given = methods is not None
    if methods is None:
        methods = default_methods(protocol) if data is None else core_methods(in_features)
    methods = listed_methods(methods)
    for method in methods:
        try:
            method.check_shape(WIDTH, in_features)
        except ValueError as error:
            if data is None:
                raise ValueError(
                    f"{method.name} on a layer of {WIDTH} × {WIDTH}: {error}"
                ) from error
            instead = "" if given else "; it is there by default: give methods of your own"
            raise ValueError(
                f"{method.name} does not fit data with {in_features} inputs (a {WIDTH} × "
                f"{in_features} layer): {error}{instead}"
            ) from error
    return methods


def listed_methods(methods: Sequence[Method]) -> tuple[Method, ...]:
    """Methods as a tuple, whose names can key results."""
    if not isinstance(methods, Iterable):
        raise TypeError(f"methods={methods} is not a list of methods, such as [missviz.MiSS(4)]")
    methods = tuple(methods)
    for method in methods:
        given_size(checked_method("one of methods", method))
    names = [method.name for method in methods]
    if not names:
        raise ValueError("methods is empty; give at least one, such as [missviz.MiSS(4)]")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"methods has {', '.join(twice)} more than once; names key the results")
    return methods


def checked_protocol(name: str, steps: int | None, data: Any = None) -> Protocol:
    validation.one_of("protocol", name, tuple(PROTOCOLS))
    protocol = PROTOCOLS[name]
    if steps is not None:
        protocol = replace(protocol, steps=validation.positive_int("steps", steps))
    return protocol if data is None else on_own_data(protocol, checked_data(data))


def on_own_data(protocol: Protocol, data: OwnData) -> Protocol:
    """`protocol` with the reader's points; ValueError where it makes no sense, or a split lacks."""
    if protocol.name == "teacher":
        raise ValueError(
            'data is for protocol="published" or "controlled"; the points of "teacher" come from '
            "its targets, W₀ + M"
        )
    if "whole" not in data.splits:
        for split in protocol.samples:
            if split not in data.splits:
                raise ValueError(
                    f"data has no {split!r}, on which protocol={protocol.name!r} reports; give it, "
                    "or (x, y) to have it split"
                )
    return replace(protocol, data=data, samples=data.sizes(protocol.samples), noise=0.0)


def checked_seeds(
    argument: str, seeds: int | Iterable[int], first: int = FIRST_SEED
) -> tuple[int, ...]:
    if isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes):
        listed = tuple(seeds)
        for seed in listed:
            if isinstance(seed, bool) or not isinstance(seed, Integral):
                raise TypeError(f"{argument} has {seed!r}, which is not a whole number")
        if not listed:
            raise ValueError(f"{argument} is empty; give at least one seed")
        if len(set(listed)) < len(listed):
            raise ValueError(f"{argument} repeats a seed: {listed}")
        return tuple(int(seed) for seed in listed)
    count = validation.positive_int(argument, seeds)
    return tuple(range(first, first + count))


def checked_disjoint(argument: str, tuning: Sequence[int], seeds: Sequence[int]) -> None:
    """ValueError where a rate would be chosen on a seed that is reported."""
    if common := sorted(set(tuning) & set(seeds)):
        raise ValueError(f"{argument} share {common} with seeds; rates are chosen on other seeds")


def checked_device(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=device).device)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used here: {reason}") from error


def checked_executor(executor: Executor | None) -> None:
    if not isinstance(executor, Executor | None):
        hint = "; for Dask give client.get_executor()" if hasattr(executor, "get_executor") else ""
        raise TypeError(f"executor={executor!r} is not a concurrent.futures.Executor{hint}")


def checked_rates(default: tuple[float, ...], rates: Sequence[float] | None) -> tuple[float, ...]:
    if rates is None:
        return default
    if isinstance(rates, Real | str) or not isinstance(rates, Iterable):
        raise TypeError(f"learning_rates={rates!r} is not a list of rates, such as [1e-3]")
    checked = tuple(validation.positive_float("learning_rates", rate) for rate in rates)
    if not checked:
        raise ValueError("learning_rates is empty; give at least one, such as [1e-3]")
    return tuple(dict.fromkeys(checked))


def checked_targets(
    protocol: Protocol, targets: Sequence[str] | Mapping[str, Target] | None
) -> dict[str, Target | None]:
    if protocol.name != "teacher":
        if targets is not None:
            raise ValueError(f'targets are for protocol="teacher"; got protocol={protocol.name!r}')
        return {ELEMENTWISE if protocol.data is None else OWN_DATA: None}
    if targets is None:
        return dict(TARGETS)
    if isinstance(targets, Mapping):
        for name, target in targets.items():
            if not callable(target):
                raise TypeError(f"target {name!r} is no function (W₀, generator) → M")
        chosen: dict[str, Target | None] = dict(targets)
    else:
        named = [targets] if isinstance(targets, str) else list(targets)
        chosen = {
            name: TARGETS[validation.one_of("targets", name, tuple(TARGETS))] for name in named
        }
    if not chosen:
        raise ValueError("targets is empty; name at least one")
    return chosen
