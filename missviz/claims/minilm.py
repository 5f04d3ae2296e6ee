"""MiniLM as claims use it: a head that is drawn, some sentences, and their loss."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from missviz.experiments.tasks_on_networks import Split
from missviz.networks.sentence_network import SentenceNetwork, minilm, with_head
from missviz.networks.tasks import sentiment
from missviz.randomness import generator_for

QUERY_AND_VALUE = ("*attention.self.query", "*attention.self.value")
"""What PEFT adapts by default."""
DRAWN_FROM = 2000


class Batch(NamedTuple):
    """Sentences of Rotten Tomatoes, negative or positive."""

    inputs: Mapping[str, Tensor]
    labels: Int64[Tensor, " n"]


@functools.lru_cache(maxsize=1)
def _network_and_split() -> tuple[SentenceNetwork, Split]:
    task = sentiment(train=DRAWN_FROM, valid=1, test=1, transfer=1)
    return minilm(), task.splits["train"]


def pretrained(seed: int, device: str) -> nn.Module:
    """The network with a head of two scores that is drawn, as every fine-tuning begins."""
    return with_head(_network_and_split()[0], 2, seed).requires_grad_(False).to(device)


def batches(seed: int, count: int, size: int, device: str) -> list[Batch]:
    """Different sentences in each, none twice."""
    split = _network_and_split()[1]
    order = torch.randperm(len(split), generator=generator_for(seed, "claims", "sentences"))
    found = []
    for rows in order[: count * size].split(size):
        inputs = {name: part[rows] for name, part in split.inputs.items()}
        longest = int(inputs["attention_mask"].sum(1).max())
        found.append(
            Batch(
                {name: part[:, :longest].to(device) for name, part in inputs.items()},
                split.targets[rows].to(device),
            )
        )
    return found


def loss_on(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy, a mean over the sentences."""
    return cross_entropy(model(**batch.inputs), batch.labels)
