"""A network and its task: what travels to a worker, and what is ready there."""

import copy
import hashlib
import inspect
import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from threading import RLock
from typing import Any, Literal

import cloudpickle
import torch
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import Adapter
from missviz.experiments.fine_tuning.batches import Examples
from missviz.experiments.fine_tuning.classifier import Classifier, Features
from missviz.experiments.fine_tuning.frozen import Constants, Known, constants
from missviz.experiments.tasks_on_networks import Split, Task

Keep = Literal["inside", "before", "nothing"]
"""What is kept of what no member changes: also what is within the first adapted block, or only what
comes before it, or nothing."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A frozen network and what it is fine-tuned on."""

    network: nn.Module
    task: Task
    remembered: tuple[Task, ...] = ()
    """What it could do before."""

    @property
    def splits(self) -> Mapping[str, Split]:
        """All examples there are: the task's splits, and those of what is to be remembered."""
        others = {
            split_of(other, name): split
            for other in self.remembered
            for name, split in other.splits.items()
        }
        return {**self.task.splits, **others}

    @cached_property
    def digest(self) -> str | None:
        """A hash of all its numbers and of the classes that it is made of; None where the code of
        one of these cannot be read, as of a class from a prompt."""
        tasks = [(task.name, task.outputs) for task in (self.task, *self.remembered)]
        digest = hashlib.blake2b(repr((tasks, self.network)).encode())
        digest.update(repr(getattr(self.network, "config", None)).encode())
        for kind in sorted({type(part) for part in self.network.modules()}, key=str):
            try:
                digest.update(f"{kind} {inspect.getsource(kind)}".encode())
            except (OSError, TypeError):
                return None
        for name, tensor in self._tensors():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(numbers.tobytes())
        return digest.hexdigest()

    @cached_property
    def _packed(self) -> bytes:
        return cloudpickle.dumps((self.network, self.task, self.remembered, self.digest))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Beside what travels with it, so that chunks that wait have it in common."""
        if protocol < 5:
            return _unpacked, (self._packed,)
        return _unpacked, (pickle.PickleBuffer(self._packed),)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.network.named_parameters()
        yield from self.network.named_buffers()
        for name, split in self.splits.items():
            yield f"{name} targets", split.targets
            yield from ((f"{name} {key}", tensor) for key, tensor in split.inputs.items())


def split_of(remembered: Task, split: str) -> str:
    """The name of a remembered task's split beside those of the task that is learnt."""
    return f"{remembered.name}: {split}"


def _unpacked(packed: Any) -> Subject:
    network, task, remembered, digest = cloudpickle.loads(packed)
    subject = Subject(network, task, remembered)
    vars(subject)["digest"] = digest  # not to be made again by each worker
    return subject


class Ready:
    """A subject on a device, with what has been computed of it once. Threads share it."""

    def __init__(self, subject: Subject, device: str, dtype: torch.dtype) -> None:
        self.task, self.remembered = subject.task, subject.remembered
        self.splits = subject.splits
        self.device, self.dtype = torch.device(device), dtype
        self.network = copy.deepcopy(subject.network).requires_grad_(False)
        self.network = self.network.to(self.device, dtype).eval()
        self._lock = RLock()
        self._examples: dict[str, Examples] = {}
        self._constants: dict[tuple[object, ...], Constants | None] = {}
        self._known: dict[str, dict[str, Known]] = {}

    @cached_property
    def width(self) -> int:
        """Features that a head sees."""
        some = self.examples("train").batch(torch.arange(min(2, len(self.examples("train")))))
        with torch.no_grad():
            features = Features(self.network)(**some)
        validation.finite("what network gives for its first examples", features)
        return features.shape[-1]

    def examples(self, split: str) -> Examples:
        with self._lock:
            if split not in self._examples:
                given = self.splits[split]
                self._examples[split] = Examples.of(given, self.device, self.dtype)
            return self._examples[split]

    def constants(self, model: Classifier, method: str, keep: Keep, size: int) -> Constants | None:
        """What need not run in adapted models like this one."""
        if keep == "nothing":
            return None
        with self._lock:
            key = method, adapted_layers(model), keep
            if key not in self._constants:
                self._constants[key] = constants(
                    model.features, self.examples("train"), size, inside=keep == "inside"
                )
            return self._constants[key]

    def known(self, found: Constants, model: Classifier, split: str, size: int) -> dict[str, Known]:
        """What the constant modules give for a split, computed when it is first asked for."""
        with self._lock:
            known = self._known.setdefault(split, {})
            if missing := [name for name in found.needed if name not in known]:
                known |= found.of(model.features, self.examples(split), size, missing)
            return {name: known[name] for name in found.needed}

    def bytes_of_examples(self, splits: Iterable[str]) -> int:
        """What the network and the examples of these splits take."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        for split in splits:
            tensors += self.examples(split).inputs.values()
        return sum(tensor.nbytes for tensor in tensors)

    def bytes_known(self, found: Constants | None, model: Classifier, splits: Iterable[str]) -> int:
        """What all that is known of these splits would take, from what a few examples do."""
        if found is None:
            return 0
        train = self.examples("train")
        some = train.only(torch.arange(min(4, len(train))))
        total = 0
        for known in found.of(model.features, some, len(some)).values():
            per_row = known.values.nbytes / len(known.values)
            for split in splits:
                lengths = None if known.lengths is None else self.examples(split).lengths
                rows = len(self.examples(split)) if lengths is None else int(lengths.sum())
                total += int(per_row * rows)
        return total


def adapted_layers(model: Classifier) -> tuple[str, ...]:
    """The network's layers with an adapter, by name."""
    parts = model.features.network.named_modules()
    return tuple(name for name, part in parts if isinstance(part, Adapter))


_ready: dict[tuple[object, ...], Ready] = {}
_lock = RLock()


def ready(subject: Subject, device: str, dtype: torch.dtype) -> Ready:
    """The subject on this device; the last one is remembered, also where it came another way."""
    key = subject.digest or id(subject), device, dtype
    with _lock:
        if key not in _ready:
            _ready.clear()
            _ready[key] = Ready(subject, device, dtype)
        return _ready[key]


def forget() -> None:
    """Free what `ready` remembers in this process."""
    with _lock:
        _ready.clear()
