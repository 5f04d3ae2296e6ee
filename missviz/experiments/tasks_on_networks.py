"""What a network is fine-tuned on: examples in splits, each with its class."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

NEEDED = ("train", "valid", "test")
"""The splits that every task has."""


@dataclass(frozen=True, eq=False)
class Split:
    """n examples."""

    inputs: Mapping[str, Tensor]
    """Each (n, ...): what the network is called with, by keyword."""
    targets: Int64[Tensor, " n"]
    """The class of each example, from 0."""

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class Task:
    """Examples of one classification task."""

    name: str
    splits: Mapping[str, Split]
    """ "train", "valid" and "test", and any number of sets that are only tested on (transfer)."""
    outputs: int
    """Classes: the width of the network's head."""
