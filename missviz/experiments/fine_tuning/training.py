"""A chunk of members, seeds × learning rates of one method, trained as one."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from missviz.adapters.attach import Targets, attach
from missviz.adapters.base import Adapter, Method, share_frozen
from missviz.adapters.stacking import stack
from missviz.adapters.training import after_step, asks_more, penalty, rate_multipliers
from missviz.experiments.ensemble import Adam, never_alone
from missviz.experiments.fine_tuning.batches import Examples, Schedule
from missviz.experiments.fine_tuning.classifier import Classifier, Features, new_head
from missviz.experiments.fine_tuning.frozen import Known
from missviz.experiments.fine_tuning.memory import PER_NUMBER, kept_for_backward
from missviz.experiments.fine_tuning.probe import probed
from missviz.experiments.fine_tuning.subject import Keep, Ready, Subject, ready, split_of
from missviz.experiments.sweep import Result
from missviz.experiments.tasks_on_networks import NEEDED, Task
from missviz.machine import keep_freed_memory

PROBE = "linear probe"


@dataclass(frozen=True)
class Settings:
    """How every member is trained."""

    steps: int
    batch_size: int
    evaluate_every: int
    weight_decay: float
    dtype: torch.dtype
    keep: Keep = "inside"

    @property
    def evaluated(self) -> list[int]:
        """The steps after which the validation loss is taken."""
        return [*range(0, self.steps, self.evaluate_every), self.steps]


@dataclass(frozen=True)
class Chunk:
    """Members that are trained, and kept, as a whole."""

    subject: Subject
    method: Method | None
    """None trains the head alone: a linear probe."""
    targets: Targets
    members: tuple[tuple[int, float], ...]
    """(seed, learning rate), those of one rate side by side."""
    settings: Settings
    device: str
    report: tuple[str, ...]
    """The splits, and names of remembered tasks, that are looked at once, at the best step; none
    while rates are chosen."""

    @property
    def method_name(self) -> str:
        return PROBE if self.method is None else self.method.name

    @property
    def name(self) -> str:
        return f"{self.method_name} ({self.subject.task.name})"

    @property
    def key(self) -> object:
        targets = self.targets
        pattern = targets.pattern if isinstance(targets, re.Pattern) else targets
        method = (self.method, type(targets).__name__, pattern)
        return *method, self.members, self.settings, self.device, self.report, self.subject.digest

    @property
    def defined_in(self) -> tuple[str, ...]:
        known = "missviz." if self.subject.digest else ""
        return known, "missviz." if self.method is None else type(self.method).__module__

    def __str__(self) -> str:
        seeds, rates = (sorted(set(values)) for values in zip(*self.members, strict=True))
        at = ", ".join(f"{rate:.3g}" for rate in rates)
        return f"{self.name}, seeds {seeds[0]} to {seeds[-1]}, rate {at}"


def run_chunk(chunk: Chunk) -> Result:
    """Train the members. Returns losses and accuracies per member, counts and seconds."""
    there = ready(chunk.subject, chunk.device, chunk.settings.dtype)
    members = never_alone(chunk.members)
    started = time.perf_counter()
    seeds = list(dict.fromkeys(seed for seed, _ in members))
    models = {seed: classifier(chunk, there, seed) for seed in seeds}
    together = Members(chunk, there, [models[seed] for seed, _ in members], members)
    init_seconds = time.perf_counter() - started
    started = time.perf_counter()
    found = together.train()
    asked = len(chunk.members)

    def cut(figures: Figures) -> Figures:
        return {
            split: {name: values[:asked] for name, values in parts.items()}
            for split, parts in figures.items()
        }

    return {
        "curves": cut(found.curves),
        "stops": found.stops[:asked],
        "stopped": cut(found.stopped),
        "num_parameters": together.num_parameters,
        "adapter_parameters": together.num_parameters - head_parameters(models[seeds[0]]),
        "init_seconds": init_seconds / len(members),
        "train_seconds": (time.perf_counter() - started) / len(members),
    }


def classifier(chunk: Chunk, there: Ready, seed: int) -> Classifier:
    """The network with one seed's adapters and head."""
    like = next(there.network.parameters())
    head = new_head(there.width, there.task.outputs, seed, like)
    if chunk.method is None:
        return Classifier(share_frozen(there.network), head)
    calibration = None
    if chunk.method.needs_gradient:
        examples = there.examples("train")
        index = Schedule(examples, chunk.settings.batch_size).batch(0, [seed])[0]
        inputs, targets = examples.batch(index), examples.targets[index.to(like.device)]

        def calibration(network: nn.Module) -> Tensor:
            return cross_entropy(head(Features(network)(**inputs)), targets)

    network = attach(there.network, chunk.method, chunk.targets, seed=seed, calibration=calibration)
    return Classifier(network, head)


def head_parameters(model: Classifier) -> int:
    return sum(parameter.numel() for parameter in model.head.parameters())


Figures = dict[str, dict[str, Float[np.ndarray, "member ..."]]]
"""By split: "loss" and "accuracy"."""


@dataclass(frozen=True)
class Found:
    """What training leaves behind."""

    curves: Figures
    """ "train", before each step and after the last, on the batch of that step; "valid", at the
    evaluated steps."""
    stops: Int64[np.ndarray, " member"]
    """The step whose validation loss is lowest."""
    stopped: Figures
    """At that step, on the splits that are reported."""


class Members:
    """The members of a chunk as one model."""

    def __init__(
        self,
        chunk: Chunk,
        there: Ready,
        models: Sequence[Classifier],
        members: Sequence[tuple[int, float]],
    ) -> None:
        self._settings, self._report, self._ready = chunk.settings, chunk.report, there
        self._seeds = [seed for seed, _ in members]
        self._model = stack(models)
        multipliers = rate_multipliers(self._model)
        self._trained = list(multipliers)
        rates = [rate for _, rate in members]
        self._optimiser = Adam(
            self._trained, rates, list(multipliers.values()), chunk.settings.weight_decay
        )
        adapters = [part for part in self._model.modules() if isinstance(part, Adapter)]
        self._asked_more = any(map(asks_more, adapters))
        buffers = [tensor for adapter in adapters for tensor in adapter.buffers(recurse=False)]
        self._state = [tensor.detach() for tensor in (*self._trained, *buffers)]
        self._state = [tensor for tensor in self._state if tensor.shape[:1] == (len(members),)]
        self._schedule = Schedule(there.examples("train"), chunk.settings.batch_size)
        self._one = models[0]
        self.constants = there.constants(
            self._one, chunk.method_name, chunk.settings.keep, chunk.settings.batch_size
        )
        self._player = None
        if self.constants is not None:
            self._player = self.constants.play_in(self._model.features)

    @property
    def num_parameters(self) -> int:
        """Trained numbers per member."""
        return sum(tensor[0].numel() for tensor in self._trained)

    def measured(
        self, split: str, index: Int64[Tensor, "member k"]
    ) -> tuple[Float[Tensor, "member k"], Float[Tensor, "member k"]]:
        """Each member's loss, and whether it is right, on each of its examples."""
        return self._measured(self._ready.examples(split), index, self._known(split))

    def _known(self, split: str) -> Mapping[str, Known] | None:
        if self.constants is None:
            return None
        size = self._settings.batch_size
        return self._ready.known(self.constants, self._one, split, size)

    def _measured(
        self,
        examples: Examples,
        index: Int64[Tensor, "member k"],
        known: Mapping[str, Known] | None,
    ) -> tuple[Float[Tensor, "member k"], Float[Tensor, "member k"]]:
        scores = self._run(self._model, examples, index.flatten(), known)
        targets = examples.targets[index.flatten().to(scores.device)]
        losses = cross_entropy(scores, targets, reduction="none")
        right = scores.detach().argmax(dim=-1) == targets
        return losses.view(index.shape), right.view(index.shape)

    def _run(
        self,
        part: nn.Module,
        examples: Examples,
        flat: Int64[Tensor, " rows"],
        known: Mapping[str, Known] | None,
    ) -> Float[Tensor, "rows outputs"]:
        """What the members' model, or its features, give for the examples of all members, one
        member after the other."""
        if self._player is not None and known is not None:
            width = examples.width(flat)
            self._player.values = {name: one.batch(flat, width) for name, one in known.items()}
        found: Tensor = part(**examples.batch(flat))
        return found

    def tried(self) -> tuple[int, list[str]]:
        """Bytes that each member takes while it trains, by the forward pass on the longest batch;
        and the names of layers that its loss does not depend on."""
        train = self._ready.examples("train")
        examples = train.only(train.by_length()[-self._settings.batch_size :])
        index = torch.arange(len(examples)).expand(len(self._seeds), -1)
        known = None
        if self.constants is not None:
            known = self.constants.of(self._one.features, examples, len(examples))
        losses: list[Tensor] = []

        def loss() -> Tensor:
            losses.append(self._measured(examples, index, known)[0])
            return losses[-1]

        kept = kept_for_backward(loss)
        gradients = torch.autograd.grad(losses[0].sum(), self._trained, allow_unused=True)
        names = {id(tensor): name for name, tensor in self._model.named_parameters()}
        unreached = [
            names[id(tensor)].removeprefix("features.network.").rpartition(".")[0]
            for tensor, gradient in zip(self._trained, gradients, strict=True)
            if gradient is None
        ]
        own = PER_NUMBER * sum(tensor.nbytes for tensor in self._trained)
        return (kept + own) // len(self._seeds), list(dict.fromkeys(unreached))

    def train(self) -> Found:
        """All steps, and then the reported splits with what each member was at its best step."""
        keep_freed_memory()
        settings, evaluated = self._settings, set(self._settings.evaluated)
        train: list[tuple[Tensor, Tensor]] = []
        valid: list[tuple[Tensor, Tensor]] = []
        best = [tensor.clone() for tensor in self._state]
        lowest = torch.full((len(self._seeds),), torch.inf, device=self._ready.device)
        lowest = lowest.double()
        stops = torch.zeros_like(lowest, dtype=torch.long)
        for step in range(settings.steps + 1):
            if step in evaluated:
                valid.append(self._evaluate("valid"))
                # Where a loss is NaN or infinite, what was best before stays it.
                better = valid[-1][0] < lowest
                lowest = torch.where(better, valid[-1][0], lowest)
                stops = torch.where(better, step, stops)
                for kept, tensor in zip(best, self._state, strict=True):
                    kept[better] = tensor[better]
            train.append(self._step(step))
        for kept, tensor in zip(best, self._state, strict=True):
            tensor.copy_(kept)
        remembered = {task.name: task for task in self._ready.remembered}
        stopped = {
            name: _figures(
                [self._probe(remembered[name]) if name in remembered else self._evaluate(name)]
            )
            for name in self._report
        }
        return Found(
            {"train": _figures(train), "valid": _figures(valid)},
            stops.cpu().numpy(),
            {name: {k: v[:, 0] for k, v in parts.items()} for name, parts in stopped.items()},
        )

    def train_losses(self) -> Float[np.ndarray, "member steps"]:
        """All steps without a look at anything else: the losses before each."""
        losses = [self._step(step)[0] for step in range(self._settings.steps)]
        return torch.stack(losses, -1).cpu().numpy()

    def _step(self, step: int) -> tuple[Tensor, Tensor]:
        """Loss and accuracy on the step's batch; and, unless it is after the last, the step."""
        index = self._schedule.batch(step, self._seeds)
        is_last = step == self._settings.steps
        with torch.set_grad_enabled(not is_last):
            losses, right = self.measured("train", index)
        measured = losses.detach().double().mean(dim=1), right.double().mean(dim=1)
        if is_last:
            return measured
        total = losses.mean(dim=1).sum()
        if self._asked_more:
            total = total + penalty(self._model).sum()
        gradients = torch.autograd.grad(total, self._trained, materialize_grads=True)
        self._optimiser.step(gradients)
        if self._asked_more:
            for tensor, gradient in zip(self._trained, gradients, strict=True):
                tensor.grad = gradient
            after_step(self._model, step + 1)
        return measured

    @torch.no_grad()
    def _evaluate(self, split: str) -> tuple[Tensor, Tensor]:
        """Each member's mean loss and accuracy on all of a split."""
        examples = self._ready.examples(split)
        sums = [torch.zeros(len(self._seeds), dtype=torch.float64, device=self._ready.device)] * 2
        for index in examples.in_batches(self._settings.batch_size):
            parts = self.measured(split, index.expand(len(self._seeds), -1))
            sums = [
                total + part.double().sum(dim=1) for total, part in zip(sums, parts, strict=True)
            ]
        loss, accuracy = (total / len(examples) for total in sums)
        return loss, accuracy

    @torch.no_grad()
    def _probe(self, task: Task) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a linear probe of each member's features."""
        names = {split: split_of(task, split) for split in NEEDED}
        features = {split: self._features(name) for split, name in names.items()}
        targets = {split: self._ready.examples(name).targets for split, name in names.items()}
        found = [
            probed({split: part[member] for split, part in features.items()}, targets, task.outputs)
            for member in range(len(self._seeds))
        ]
        loss, accuracy = torch.tensor(found, dtype=torch.float64).unbind(dim=1)
        return loss, accuracy

    def _features(self, split: str) -> Float[Tensor, "member n features"]:
        """Each member's features of all of a split."""
        examples, members = self._ready.examples(split), len(self._seeds)
        known = self._known(split)
        order, parts = [], []
        for index in examples.in_batches(self._settings.batch_size):
            flat = index.repeat(members)
            found = self._run(self._model.features, examples, flat, known)
            parts.append(found.unflatten(0, (members, len(index))))
            order.append(index)
        places = torch.cat(order).to(parts[0].device)
        joined = torch.cat(parts, dim=1)
        return torch.empty_like(joined).index_copy_(1, places, joined)


def _figures(measured: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    losses, accuracies = zip(*measured, strict=True)
    stacked = {"loss": torch.stack(losses, -1), "accuracy": torch.stack(accuracies, -1)}
    return {name: values.cpu().numpy() for name, values in stacked.items()}
