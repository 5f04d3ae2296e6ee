"""Many small models trained as one: parameters stacked along a leading member dimension.

A small model leaves a processor idle: each step is a few microseconds of arithmetic and hundreds
of Python. Stacked, all members share the Python. Two engines compute the same thing:

    "vmap"     torch.func.functional_call under vmap: any model, any method, the reader's too
    "native"   batched matrix products, where the model and its adapters are written for them

Members never meet: each has its own loss and gradient, and Adam is elementwise.
"""

import copy
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Memory
from missviz.adapters.stacking import stack, unstack
from missviz.adapters.training import after_step, asks_more, penalty, rate_multipliers
from missviz.experiments.replay import Replay
from missviz.machine import keep_freed_memory

Item = TypeVar("Item")
ModelT = TypeVar("ModelT", bound=nn.Module)
Engine = Literal["auto", "native", "vmap"]
ENGINES = ("auto", "native", "vmap")
Split = tuple[Float[Tensor, "member n in_"], Float[Tensor, "member n out"]]


LARGEST = 32
"""Members per ensemble: beyond it the working set leaves the cache and nothing is won."""


def never_alone(members: Sequence[Item]) -> list[Item]:
    """A single member twice: a batch of one takes another matrix kernel, which rounds differently,
    and a result would depend on its company."""
    return list(members) * 2 if len(members) == 1 else list(members)


class Ensemble:
    """Models of one architecture, run and trained together.

    Args:
        models: the members; they are copied, not changed. Same modules, shapes and frozen parts.
        engine: "auto" is "native" where the model class says `stackable = True` and so does every
            adapter in it, else "vmap".

    Raises ValueError where "native" is asked for and is not possible, or a method asks for more
    than a gradient step (`penalty`, `after_step`), which "vmap" does not give.
    """

    def __init__(self, models: Sequence[nn.Module], engine: Engine = "auto") -> None:
        if not models:
            raise ValueError("models is empty; an ensemble has at least one member")
        validation.one_of("engine", engine, ENGINES)
        native = is_stackable(models[0])
        if engine == "native" and not native:
            raise ValueError('engine="native" needs a stackable model and adapters; use "vmap"')
        self.size = len(models)
        self.engine = "native" if native and engine != "vmap" else "vmap"
        self._model = models[0]
        self._state: dict[str, Tensor] = {}
        if self.engine == "native":
            # A weight for each, also where members have the same: a product with one weight for all
            # rounds differently, and a result would depend on its company.
            self._model = stack(models, share=False)
        elif asking := [adapter.method.name for adapter in self._adapters if asks_more(adapter)]:
            raise ValueError(
                f'{asking[0]} needs engine="native", for its penalty or its after_step'
            )
        else:
            self._state = stack_state(models)
        self.rate_multipliers = list(rate_multipliers(models[0]).values())
        self._asked_more = any(map(asks_more, self._adapters))

    @property
    def trained(self) -> list[Tensor]:
        """The stacked parameters that training changes, each (member, ...)."""
        tensors = self._state.values() or self._model.parameters()
        return [tensor for tensor in tensors if tensor.requires_grad]

    @property
    def _adapters(self) -> list[Adapter]:
        return [module for module in self._model.modules() if isinstance(module, Adapter)]

    def penalty(self) -> Float[Tensor, " member"] | None:
        """What methods add to each member's loss; None where that is nothing."""
        return penalty(self._model) if self._asked_more else None

    def after_step(self, step: int, gradients: Sequence[Tensor]) -> None:
        """Let methods act after a step, with the gradients that it went along."""
        if not self._asked_more:
            return
        for tensor, gradient in zip(self.trained, gradients, strict=True):
            tensor.grad = gradient
        after_step(self._model, step)

    @property
    def replayable(self) -> bool:
        """Whether a step is the same work each time, on a device that can replay it."""
        return not self._asked_more and all(tensor.is_cuda for tensor in self.trained)

    @property
    def num_parameters(self) -> int:
        """Trained numbers per member."""
        return sum(tensor[0].numel() for tensor in self.trained)

    @contextmanager
    def remembering(self, inputs: Iterable[Float[Tensor, "member n in_"]]) -> Iterator[None]:
        """Within it, what is frozen of these inputs is computed once."""
        memory = Memory(inputs) if self.engine == "native" else None
        for adapter in self._adapters:
            adapter.memory = memory
        try:
            yield
        finally:
            for adapter in self._adapters:
                adapter.memory = None

    def __call__(self, x: Float[Tensor, "member n in_"]) -> Float[Tensor, "member n out"]:
        if self.engine == "native":
            output: Tensor = self._model(x)
            return output

        def one(state: dict[str, Tensor], x: Tensor) -> Tensor:
            prediction: Tensor = torch.func.functional_call(self._model, state, (x,))
            return prediction

        return torch.func.vmap(one)(self._state, x)

    def member(self, index: int, like: ModelT) -> ModelT:
        """A copy of `like` (one of the models passed in) with the present state of one member."""
        if self.engine == "native":
            return unstack(self._model, index, like)
        single = copy.deepcopy(like)
        # What several modules hold has one name here, and fills them all.
        with torch.no_grad():
            for name, tensor in [*single.named_parameters(), *single.named_buffers()]:
                tensor.copy_(self._state[name][index])
        return single


def is_stackable(model: nn.Module) -> bool:
    """Whether the "native" engine can run this model."""
    return bool(getattr(model, "stackable", False)) and all(
        module.stackable for module in model.modules() if isinstance(module, Adapter)
    )


def stack_state(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers by name, each (member, ...)."""
    parameters, buffers = torch.func.stack_module_state(list(models))
    return {
        name: nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        for name, tensor in parameters.items()
    } | buffers


@dataclass(frozen=True)
class Trained:
    """What a training run leaves behind."""

    losses: dict[str, Float[np.ndarray, "member steps1"]]
    """Per split, each member's loss after 0, 1, … steps."""
    seconds: float


def train(
    ensemble: Ensemble,
    splits: Mapping[str, Split],
    learning_rates: Sequence[float],
    steps: int,
    replay: bool = False,
) -> Trained:
    """Full-batch Adam on the mean squared error of `splits["train"]`; every split is evaluated
    before the first step and after each one.

    Args:
        ensemble: trained in place.
        splits: name → (x, y), each (member, n, features); "train" must be among them.
        learning_rates: one per member, members of one rate side by side.
        steps: optimiser steps.
        replay: record a step as a CUDA graph and replay that (`missviz.experiments.replay`).

    Raises ValueError where the parts don't fit together, or `replay` is not possible.
    """
    if "train" not in splits:
        raise ValueError(f"splits has no 'train', only {', '.join(splits) or 'nothing'}")
    if len(learning_rates) != ensemble.size:
        raise ValueError(
            f"learning_rates has {len(learning_rates)} values for {ensemble.size} members"
        )
    if not ensemble.trained:
        raise ValueError("nothing to train: every parameter is frozen")
    if replay and not ensemble.replayable:
        raise ValueError("replay=True needs a GPU and methods without penalty and after_step")
    trained = ensemble.trained
    optimiser = Adam(trained, learning_rates, ensemble.rate_multipliers)

    def missed(split: str) -> tuple[Tensor, Tensor]:
        """The prediction and what it is off by."""
        x, y = splits[split]
        prediction = ensemble(x)
        return prediction, prediction.detach() - y

    def evaluate() -> tuple[Tensor, Tensor, Tensor]:
        """The size of every split's error (split, member); `missed("train")`.

        Sizes stay on the device, so that no step waits for a copy."""
        sizes = {}
        with torch.no_grad():
            for split in splits:
                if split != "train":
                    sizes[split] = torch.linalg.vector_norm(missed(split)[1], dim=(-2, -1))
        prediction, difference = missed("train")
        sizes["train"] = torch.linalg.vector_norm(difference, dim=(-2, -1))
        return torch.stack([sizes[split] for split in splits]), prediction, difference

    gradients: Sequence[Tensor] = ()

    def one_step() -> Tensor:
        """The sizes of the errors, and then a step against them."""
        nonlocal gradients
        sizes, prediction, difference = evaluate()
        # d(mean squared error)/d(prediction), per member; written down, it saves four passes.
        direction = difference.mul_(2 / difference[0].numel())
        outputs: list[Tensor] = [_Along.apply(prediction, direction)]
        if (penalty := ensemble.penalty()) is not None:
            outputs.append(penalty.sum())
        gradients = torch.autograd.grad(outputs, trained)
        optimiser.step(gradients)
        return sizes

    keep_freed_memory()
    started = time.perf_counter()
    take_step = Replay(one_step) if replay else one_step
    history = []
    with ensemble.remembering(x for x, _ in splits.values()):
        for step in range(1, steps + 1):
            history.append(take_step())
            ensemble.after_step(step, gradients)
        with torch.no_grad():
            history.append(evaluate()[0])
    errors = torch.stack(history, -1).double().cpu().numpy()
    losses = {
        split: error**2 / y[0].numel()
        for error, (split, (_, y)) in zip(errors, splits.items(), strict=True)
    }
    return Trained(losses, time.perf_counter() - started)


class _Along(torch.autograd.Function):
    """A scalar whose gradient in `prediction` is `direction`.

    `torch.autograd.grad` takes such a direction as an argument too, and to compare its shape with
    the prediction's loads SymPy: half a second, before the first panel that trains is drawn.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(direction)
        return prediction.new_zeros(())

    @staticmethod
    def backward(ctx: Any, one: Tensor) -> tuple[Tensor, None]:
        (direction,) = ctx.saved_tensors
        return direction, None


class Adam:
    """torch's fused Adam on stacked tensors, with a learning rate per member.

    Through its functional form: constructing torch.optim.Adam loads the compiler, which takes
    longer than all runs of a lesson together.

    Args:
        trained: tensors (member, ...), changed in place.
        learning_rates: one per member, members of one rate side by side.
        multipliers: factor on the rate of each tensor; None means 1.
        weight_decay: AdamW's: before its step each number shrinks by the rate times this.
    """

    def __init__(
        self,
        trained: Sequence[Tensor],
        learning_rates: Sequence[float],
        multipliers: Sequence[float] | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        self._weight_decay = weight_decay
        self._groups: list[tuple[float, slice, list[int], dict[str, Any]]] = []
        places: dict[float, list[int]] = {}
        for place, factor in enumerate(multipliers or [1.0] * len(trained)):
            places.setdefault(factor, []).append(place)
        start = 0
        for rate, same in itertools.groupby(learning_rates):
            members = slice(start, start + len(list(same)))
            start = members.stop
            for factor, which in places.items():
                # Slices in the same memory.
                params = [trained[place].detach()[members] for place in which]
                self._groups.append((rate * factor, members, which, _fresh_state(params)))

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step against `gradients`, shaped as the tensors."""
        for rate, members, which, state in self._groups:
            grads = [gradients[place] for place in which]
            if len(self._groups) > 1:
                grads = [gradient[members] for gradient in grads]
            (adamw if self._weight_decay else adam)(
                **state,
                # Fused Adam on the CPU walks raw memory; a transposed gradient would be misread.
                grads=[gradient.contiguous() for gradient in grads],
                max_exp_avg_sqs=[],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate,
                weight_decay=self._weight_decay,
                eps=1e-8,
                maximize=False,
            )


def _fresh_state(params: list[Tensor]) -> dict[str, Any]:
    return {
        "params": params,
        "exp_avgs": [torch.zeros_like(part) for part in params],
        "exp_avg_sqs": [torch.zeros_like(part) for part in params],
        "state_steps": [torch.zeros((), device=part.device) for part in params],
    }
