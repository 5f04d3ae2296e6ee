"""Which examples a step sees: batches of like length, in an order that belongs to the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from missviz.experiments.fine_tuning.classifier import MASK
from missviz.experiments.tasks_on_networks import Split
from missviz.randomness import generator_for

POOL = 8
"""Batches that a seed shuffles among themselves; their examples are of like length."""


@dataclass(frozen=True)
class Examples:
    """A split on a device."""

    inputs: dict[str, Tensor]
    targets: Int64[Tensor, " n"]
    lengths: Int64[Tensor, " n"] | None
    """Tokens of each example, on the host; None where there is no attention mask."""

    @classmethod
    def of(cls, split: Split, device: torch.device, dtype: torch.dtype) -> "Examples":
        inputs = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in split.inputs.items()
        }
        lengths = None
        if MASK in split.inputs:
            mask = split.inputs[MASK].cpu() != 0
            # Up to the last token that there is: masks may begin with zeros too.
            lengths = mask.shape[1] - mask.flip(1).int().argmax(dim=1)
            lengths[~mask.any(dim=1)] = 1
        return cls(inputs, split.targets.to(device), lengths)

    def __len__(self) -> int:
        return len(self.targets)

    def only(self, index: Int64[Tensor, " k"]) -> "Examples":
        """These of them."""
        place = index.to(self.targets.device)
        inputs = {name: tensor[place] for name, tensor in self.inputs.items()}
        lengths = None if self.lengths is None else self.lengths[index]
        return Examples(inputs, self.targets[place], lengths)

    def width(self, index: Tensor) -> int | None:
        """Tokens of the longest of these examples."""
        return None if self.lengths is None else int(self.lengths[index].max())

    def batch(self, index: Int64[Tensor, " k"]) -> dict[str, Tensor]:
        """The inputs of these examples, cut to the longest of them."""
        width, place = self.width(index), index.to(self.targets.device)
        tokens = None if width is None else self.inputs[MASK].shape[1]
        return {
            name: tensor[place, :width]
            if tokens is not None and tensor.dim() > 1 and tensor.shape[1] == tokens
            else tensor[place]
            for name, tensor in self.inputs.items()
        }

    def by_length(self) -> Int64[Tensor, " n"]:
        """All examples, the shortest first; those of one length in an order that is always the
        same and has nothing to do with theirs, by which they may be sorted."""
        mixed = torch.randperm(len(self), generator=generator_for("order of examples"))
        return mixed if self.lengths is None else mixed[self.lengths[mixed].argsort(stable=True)]

    def in_batches(self, size: int) -> Iterator[Int64[Tensor, " k"]]:
        """Every example once, for evaluation."""
        yield from self.by_length().split(size)


class Schedule:
    """The batches of a training run: every example once in an epoch.

    Examples are sorted by length and cut into pools. Which pool's turn it is, is the same for every
    seed, so that members of an ensemble have batches of one shape; which of its examples come,
    each seed draws for itself. A seed's batches do not depend on the other seeds.
    """

    def __init__(self, examples: Examples, batch_size: int) -> None:
        ordered = examples.by_length()
        size = len(ordered) if examples.lengths is None else POOL * batch_size
        self._pools, self._batch_size = ordered.split(size), batch_size
        self._turns = [
            (pool, start)
            for pool, members in enumerate(self._pools)
            for start in range(0, len(members), batch_size)
        ]
        self._drawn: dict[tuple[int, int, int], Tensor] = {}

    def batch(self, step: int, seeds: Sequence[int]) -> Int64[Tensor, "seed k"]:
        """The examples that each seed sees at step 0, 1, …"""
        epoch, place = divmod(step, len(self._turns))
        generator = generator_for("order of batches", epoch)
        turns = torch.randperm(len(self._turns), generator=generator)
        pool, start = self._turns[int(turns[place])]
        return torch.stack(
            [self._shuffled(seed, epoch, pool)[start : start + self._batch_size] for seed in seeds]
        )

    def _shuffled(self, seed: int, epoch: int, pool: int) -> Tensor:
        key = seed, epoch, pool
        if key not in self._drawn:
            self._drawn = {
                known: drawn for known, drawn in self._drawn.items() if known[1] == epoch
            }
            members = self._pools[pool]
            mixed = torch.randperm(
                len(members), generator=generator_for(seed, "batches", epoch, pool)
            )
            self._drawn[key] = members[mixed]
        return self._drawn[key]
