"""What no member changes, computed once for all examples.

    found = constants(features, examples, size)       # by running a batch
    known = found.of(features, examples, size)        # what they give, by name
    player = found.play_in(features_of_members)
    player.values = {name: part.batch(index, width) for name, part in known.items()}
    features_of_members(**examples.batch(index))      # from there on

A module is constant if its output does not depend on what is trained, as autograd tells: the layers
below the first adapter, and W₀ x of the first adapted ones. Constant modules are not run. Those
that others meet answer with what is known; the rest hand on what they are given, if it is of the
shape that they give. All else (embeddings, masks) runs as ever, so that nothing needs to be
understood of the network; that it gives the same is tried before it is relied on.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from missviz.adapters.base import Adapter, share_frozen
from missviz.experiments.fine_tuning.batches import Examples

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Between a network and its replay, of the largest feature: other batches round differently."""


@dataclass(frozen=True)
class Known:
    """The output of a module for every example of a split."""

    values: Tensor
    """(n, ...); or where examples have lengths (sum of lengths, ...), one after the other."""
    starts: Int64[Tensor, " n"] | None
    lengths: Int64[Tensor, " n"] | None

    def batch(self, index: Int64[Tensor, " k"], width: int | None) -> Tensor:
        """That of these examples: (k, ...), or (k, width, ...) with zeros after their ends."""
        index = index.to(self.values.device)
        if self.starts is None or self.lengths is None or width is None:
            return self.values[index]
        places = torch.arange(width, device=index.device)
        there = places < self.lengths[index, None]
        found = self.values[(self.starts[index, None] + places).where(there, 0)]
        return found * there.view(*there.shape, *[1] * (found.dim() - 2)).to(found)


@dataclass
class Player:
    """What constant modules answer, in place of their forward."""

    values: Mapping[str, Tensor] = field(default_factory=dict)

    def answer(self, name: str, is_linear: bool, followed_by: int | None) -> Callable[..., Any]:
        def forward(*given: Any, **_: Any) -> Any:
            value = self.values[name] if name in self.values else given[0]
            if is_linear:  # an adapter has its rows in another shape than the network
                value = value.reshape(*given[0].shape[:-1], value.shape[-1])
            return value if followed_by is None else (value, *[None] * followed_by)

        return forward


@dataclass(frozen=True)
class Constants:
    """Modules that need not run, by name."""

    needed: tuple[str, ...]
    """Those whose outputs the rest of the network meets, in the order in which they ran."""
    passed: tuple[str, ...]
    """Those that only lead to these."""
    followed_by: Mapping[str, int | None]
    """Where one gives a tuple: how many None stand there after the tensor."""

    def play_in(self, features: nn.Module) -> Player:
        """Let these modules of `features` answer with the player's values. They stay where they
        are: networks read attributes of theirs."""
        player = Player()
        for name in (*self.needed, *self.passed):
            module = features.get_submodule(name)
            is_linear = name in self.needed and isinstance(module, nn.Linear)
            # Past nn.Module's own setattr, which sees to what a module holds.
            vars(module)["forward"] = player.answer(name, is_linear, self.followed_by[name])
        return player

    @torch.no_grad()
    def of(
        self,
        features: nn.Module,
        examples: Examples,
        size: int,
        names: Collection[str] | None = None,
    ) -> dict[str, Known]:
        """What is known of all `examples`, `size` of them at a time; by `names`, None for all."""
        names = self.needed if names is None else names
        parts: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(examples) for name in names}
        ragged = dict.fromkeys(names, False)
        for index in examples.in_batches(size):
            width = examples.width(index)
            for name, output in _outputs(features, names, examples.batch(index)).items():
                output = output if self.followed_by[name] is None else output[0]
                if len(output) != len(index):  # the rows of an adapter: all tokens
                    output = output.unflatten(0, (len(index), -1))
                ragged[name] = width is not None and output.dim() > 2 and output.shape[1] == width
                for place, example in enumerate(index.tolist()):
                    end = _end(examples, example) if ragged[name] else None
                    # A copy: a view would keep all of the batch.
                    kept = output[place] if end is None else output[place, :end]
                    parts[name][example] = kept.clone()
        known = {}
        for name, of_each in parts.items():
            if ragged[name] and examples.lengths is not None:
                lengths = examples.lengths.to(of_each[0].device)
                known[name] = Known(torch.cat(of_each), lengths.cumsum(0) - lengths, lengths)
            else:
                known[name] = Known(torch.stack(of_each), None, None)
        return known


def constants(
    features: nn.Module, examples: Examples, size: int, *, inside: bool = True
) -> Constants | None:
    """The constant modules of adapted `features`; None where there are none, or where the network
    does not give the same without them, tried on examples that they were not found on.

    Args:
        inside: False leaves out those within the first block that changes, of which there is more
            to keep than they save.
    """
    order = examples.by_length()
    adapters = [part for part in features.modules() if isinstance(part, Adapter)]
    # Those that are not stackable are wrapped, where members are.
    inside = inside and all(adapter.stackable for adapter in adapters)
    try:
        found = _constants(features, examples.batch(_ends(order[::2], size)), inside)
        # On other examples: what a module remembers of a batch must not help.
        others = examples.only(_ends(order[1::2] if len(order) > 1 else order, size))
        every = torch.arange(len(others))
        again = share_frozen(features)
        player = found.play_in(again)
        inputs, width = others.batch(every), others.width(every)
        known = found.of(share_frozen(features), others, size)
        player.values = {name: part.batch(every, width) for name, part in known.items()}
        with torch.no_grad():
            replayed, whole = again(**inputs), features(**inputs)
    except Exception:  # a network may raise anything where it is not run as it was meant
        return None
    same = whole.shape == replayed.shape and _is_close(replayed, whole)
    return found if same and found.needed else None


def _ends(order: Tensor, size: int) -> Tensor:
    """The shortest and the longest of these examples."""
    return torch.cat([order[: (size + 1) // 2], order[-(size // 2 + 1) :]]).unique()


def _constants(features: nn.Module, inputs: Mapping[str, Tensor], inside: bool) -> Constants:
    modules = dict(features.named_modules())
    ran: dict[str, int | None] = {}
    calls: Counter[str] = Counter()
    given: dict[str, bool] = {}
    changes = {
        module
        for module in modules.values()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    }
    begun = False

    def begin(*_: Any) -> None:
        nonlocal begun
        begun = True

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def ended(_: nn.Module, arguments: Any, output: Any) -> None:
            calls[name] += 1
            first, *others = output if isinstance(output, tuple) else (output,)
            is_plain = isinstance(first, Tensor) and not any(o is not None for o in others)
            is_constant = is_plain and first.is_floating_point() and not first.requires_grad
            if is_constant and (inside or not begun):
                ran[name] = len(others) if isinstance(output, tuple) else None
                given[name] = bool(arguments) and _is_like(arguments[0], first)

        return ended

    with _Hooks() as hooks:
        hooks.before(changes, begin)
        for name in modules:
            hooks.after(modules[name], note(name))
        with torch.enable_grad():
            features(**inputs)
    adapters = {name: part for name, part in modules.items() if isinstance(part, Adapter)}
    if any(not any(p.requires_grad for p in part.parameters()) for part in adapters.values()):
        raise ValueError("an adapter that trains nothing is constant, and not the same for all")
    once = {
        name
        for name in ran
        # Cheap ones, such as norms, are not worth their memory; what runs twice has two answers.
        if calls[name] == 1
        and any(p.dim() > 1 for p in modules[name].parameters())
        # What a method has beside its layer may differ from member to member.
        and not any(f"{name}.".startswith(f"{own}.") and name != f"{own}.base" for own in adapters)
    }
    largest = [name for name in ran if name in once and not once.intersection(_above(name))]
    needed = _needed(features, inputs, largest)
    passed = tuple(name for name in largest if name not in needed and given[name])
    return Constants(needed, passed, {name: ran[name] for name in (*needed, *passed)})


def _needed(features: nn.Module, inputs: Mapping[str, Tensor], names: list[str]) -> tuple[str, ...]:
    """Of these modules those whose outputs meet others: cut off from all before, each is a leaf,
    and the features depend on the leaves that are needed."""
    leaves: dict[str, Tensor] = {}

    def cut(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        def ended(_: nn.Module, __: Any, output: Any) -> Any:
            first, *others = output if isinstance(output, tuple) else (output,)
            leaves[name] = first.detach().requires_grad_()
            copied = leaves[name].clone()  # which the network may change in place
            return (copied, *others) if isinstance(output, tuple) else copied

        return ended

    with _Hooks() as hooks, torch.enable_grad():
        for name in names:
            hooks.after(features.get_submodule(name), cut(name))
        total = features(**inputs).sum()
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return tuple(name for name, gradient in zip(leaves, found, strict=True) if gradient is not None)


def _outputs(
    features: nn.Module, names: Collection[str], inputs: Mapping[str, Tensor]
) -> dict[str, Any]:
    """What the modules of these names give; what comes after them is not run."""
    found: dict[str, Any] = {}

    def note(name: str) -> Callable[..., None]:
        def ended(_: nn.Module, __: Any, output: Any) -> None:
            # An adapter adds to what its layer gave, in place.
            found[name] = output.clone() if isinstance(output, Tensor) else output
            if len(found) == len(names):
                raise _ReachedError

        return ended

    with _Hooks() as hooks:
        for name in names:
            hooks.after(features.get_submodule(name), note(name))
        try:
            features(**inputs)
        except _ReachedError:
            return found
    raise RuntimeError(f"{', '.join(set(names) - set(found))} did not run")


class _ReachedError(Exception):
    """Nothing that is still to come is wanted."""


class _Hooks:
    """Forward hooks that are there within a `with`."""

    def __init__(self) -> None:
        self._handles: list[Any] = []

    def before(self, modules: Collection[nn.Module], hook: Callable[..., Any]) -> None:
        self._handles += [module.register_forward_pre_hook(hook) for module in modules]

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(module.register_forward_hook(hook))

    def __enter__(self) -> "_Hooks":
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _above(name: str) -> list[str]:
    """ "a.b.c" → "", "a", "a.b": the modules that it stands in."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts))]


def _end(examples: Examples, example: int) -> int | None:
    return None if examples.lengths is None else int(examples.lengths[example])


def _is_like(one: Any, another: Tensor) -> bool:
    """Whether `one` could stand for the other, as far as a network can tell without numbers."""
    return isinstance(one, Tensor) and (one.shape, one.dtype) == (another.shape, another.dtype)


def _is_close(one: Tensor, another: Tensor) -> bool:
    return bool((one - another).abs().max() <= TOLERANCE[one.dtype] * another.abs().max())
