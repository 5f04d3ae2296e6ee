"""Many adapted models on one frozen base, run as one: `stack`."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.base import Adapter
from missviz.adapters.linear import apply_linear, as_given, check_divides, rows_of
from missviz.adapters.training import asks_more

ModelT = TypeVar("ModelT", bound=nn.Module)


def stack(models: Sequence[ModelT], *, share: bool = True) -> ModelT:
    """Models that differ in what they train, as one model that runs and trains them side by side.

    It takes the inputs of all members one after the other, (member · batch, ...), and gives their
    outputs alike: `stacked(x).unflatten(0, (len(models), -1))[e]` is what models[e] makes of its
    part of x. What is frozen is in memory once, and all of x goes through it at once; trained
    numbers have a leading member dimension. The sum of the members' losses has each member's own
    gradient, so that one optimiser step is a step of all.

    Adapters whose method is not `stackable`, and trained modules other than nn.Linear, run member
    by member under torch.func.vmap. A module that mixes the rows of a batch, such as batch
    normalisation in training, mixes members.

    Args:
        models: copies of one model, from `attach`: methods of one kind, on the same layers.
        share: False gives each member a weight of its own in every linear layer, the same or not,
            and lets outputs lie in memory with features first: for ensembles of small networks.

    Raises:
        ValueError: no models; models that are not alike; frozen numbers that differ, other than
            those of linear layers; trained numbers where they cannot have members.

    Example:
        >>> import torch, missviz as mv
        >>> models = [mv.attach(torch.nn.Linear(8, 4), mv.MiSS(2), seed=seed) for seed in range(3)]
        >>> mv.stack(models)(torch.ones(3 * 5, 8)).shape
        torch.Size([15, 4])
    """
    models = list(models)
    if not models:
        raise ValueError("models is empty; a stack has at least one member")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"models has {model!r:.60}, which is not an nn.Module")
    # What is not given members below stays shared with the first model.
    shared: dict[int, Any] = {id(tensor): tensor for _, tensor in _tensors(models[0])}
    copied = copy.deepcopy(models[0], shared)
    stacked: ModelT = _Stacking(share).of(copied, models)
    return stacked


def unstack(stacked: nn.Module, index: int, like: ModelT) -> ModelT:
    """A copy of `like`, one of the models that were stacked, with the numbers of one member."""
    single = copy.deepcopy(like)
    pairs: list[tuple[nn.Module, nn.Module]] = [(stacked, single)]
    for many, one in pairs:
        inner = many.module if isinstance(many, EachMember) else many
        with torch.no_grad():
            for name, own in _tensors(one, recurse=False):
                values: Tensor = getattr(inner, name)
                own.copy_(values[index] if values.dim() > own.dim() else values)
        pairs += [(getattr(inner, name), child) for name, child in one.named_children()]
    return single


class StackedLinear(nn.Module):
    """Member e maps its part of x with its own weight[e] (out, in) and bias[e] (out,)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, features_first: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.features_first = features_first
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Float[Tensor, "*batch in_"]) -> Float[Tensor, "*batch out"]:
        rows = rows_of(x, self.in_features, len(self.weight))
        return as_given(apply_linear(rows, self.weight, self.bias), x, self.features_first)


class EachMember(nn.Module):
    """A module some of whose tensors have members, run for each of them under vmap."""

    def __init__(self, module: nn.Module, members: int, names: Iterable[str]) -> None:
        super().__init__()
        self.module, self.members, self.names = module, members, set(names)

    def forward(self, x: Tensor) -> Tensor:
        def one(own: dict[str, Tensor], x: Tensor) -> Tensor:
            output: Tensor = torch.func.functional_call(self.module, own, (x,))
            return output

        check_divides(x, len(x), self.members)
        own = {name: tensor for name, tensor in _tensors(self.module) if name in self.names}
        return torch.func.vmap(one)(own, x.unflatten(0, (self.members, -1))).flatten(0, 1)


class _Stacking:
    """One call of `stack`. What several modules hold is stacked once."""

    def __init__(self, share: bool) -> None:
        self._share = share
        self._made: dict[int, nn.Module] = {}
        self._stacks: dict[int, Tensor] = {}

    def of(self, part: nn.Module, alike: Sequence[Any], name: str = "the model") -> Any:
        """What stands for the modules `alike`, made from `part`, a copy of the first of them."""
        if id(alike[0]) not in self._made:
            if len({_outline(module) for module in alike}) > 1:
                raise ValueError(
                    f"{name}: the models are not alike; attach methods of one kind and size to the "
                    "same layers of one model"
                )
            if isinstance(part, Adapter):
                made = self._adapter(part, alike, name)
            elif isinstance(part, nn.Linear):
                made = self._linear(part, alike)
            else:
                made = self._other(part, alike, name)
            self._made[id(alike[0])] = made
        return self._made[id(alike[0])]

    def _adapter(self, part: Adapter, alike: Sequence[Adapter], name: str) -> nn.Module:
        own = [label for label, _ in _tensors(part) if not label.startswith("base.")]
        bases = [adapter.base for adapter in alike]
        if part.stackable:
            self._fill(part, alike, own)
            part.base = self._linear(part.base, bases)  # type: ignore[assignment]
            part.members, part.features_first = (len(alike),), not self._share
            return part
        if asks_more(part):
            raise ValueError(
                f"{name}: {part.method.name} has a penalty or an after_step, which needs "
                "stackable = True"
            )
        if not self._one_for_all(bases):
            own = [label for label, _ in _tensors(part)]
        self._fill(part, alike, own)
        return EachMember(part, len(alike), own)

    def _linear(self, part: nn.Linear, alike: Sequence[nn.Linear]) -> nn.Module:
        if self._share and self._one_for_all(alike):
            return part
        self._fill(part, alike, [label for label, _ in _tensors(part)])
        return StackedLinear(part, features_first=not self._share)

    def _other(self, part: nn.Module, alike: Sequence[nn.Module], name: str) -> nn.Module:
        own = [label for label, _ in _tensors(part, recurse=False)]
        if not self._one_for_all(alike, recurse=False):
            if not any(tensor.requires_grad for _, tensor in _tensors(part, recurse=False)):
                raise ValueError(f"{name}: the models have different frozen numbers there")
            if list(part.children()):
                raise ValueError(
                    f"{name}: {', '.join(own)} of a {type(part).__name__} cannot have members; "
                    "train what is in modules of its own"
                )
            self._fill(part, alike, own)
            return EachMember(part, len(alike), own)
        inside = "" if name == "the model" else f"{name}."
        for label, child in list(part._modules.items()):
            if child is not None:
                there = [module.get_submodule(label) for module in alike]
                made = self.of(child, there, inside + label)
                with_members = made is not child or isinstance(made, Adapter)
                if with_members and isinstance(part, nn.MultiheadAttention):
                    raise ValueError(
                        f"{inside}{label}: nn.MultiheadAttention reads the weight of this layer "
                        "instead of calling it, so it cannot have members; leave it out of targets"
                    )
                setattr(part, label, made)
        return part

    def _fill(self, part: nn.Module, alike: Sequence[nn.Module], names: Iterable[str]) -> None:
        """Give these tensors of `part` a member dimension."""
        found = [dict(_tensors(module)) for module in alike]
        for name in names:
            tensors = [tensors[name] for tensors in found]
            if id(tensors[0]) not in self._stacks:
                self._stacks[id(tensors[0])] = _stack_of(tensors)
            owner, _, leaf = name.rpartition(".")
            setattr(part.get_submodule(owner), leaf, self._stacks[id(tensors[0])])

    def _one_for_all(self, alike: Sequence[nn.Module], recurse: bool = True) -> bool:
        """Whether these modules hold the same numbers, and none is trained."""
        first, *others = [list(_tensors(module, recurse=recurse)) for module in alike]
        if any(tensor.requires_grad for _, tensor in first):
            return False
        return all(
            _same(one, another)
            for other in others
            for (_, one), (_, another) in zip(first, other, strict=True)
        )


def _tensors(module: nn.Module, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by every name that they have."""
    yield from module.named_parameters(recurse=recurse, remove_duplicate=False)
    yield from module.named_buffers(recurse=recurse, remove_duplicate=False)


def _outline(module: nn.Module) -> tuple[object, ...]:
    """What modules must have in common to be stacked."""
    sizes = [
        (name, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad)
        for name, tensor in _tensors(module, recurse=False)
    ]
    return type(module), *sizes, *(name for name, _ in module.named_children())


def _same(one: Tensor, another: Tensor) -> bool:
    if one.data_ptr() == another.data_ptr() and one.stride() == another.stride():
        return True
    return torch.equal(one, another)


def _stack_of(tensors: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    if isinstance(tensors[0], nn.Parameter):
        return nn.Parameter(stacked, requires_grad=tensors[0].requires_grad)
    return stacked
