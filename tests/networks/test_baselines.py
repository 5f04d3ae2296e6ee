"""The majority is counted, and the probe reads what is in the features and no more."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from missviz import networks
from missviz.experiments.tasks_on_networks import Split, Task

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'missviz[real]'")


class OneVectorPerToken(nn.Module):
    """A stand-in for BERT: a token's last hidden state is a vector of its own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vectors = nn.Parameter(torch.randn(40, 6, generator=generator), requires_grad=False)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.vectors[input_ids])


def task(label, sizes, seed=0) -> Task:
    """Sentences of one to five tokens; label(first token, generator) → class."""
    generator = torch.Generator().manual_seed(seed)
    splits = {}
    for name, size in sizes.items():
        ids = torch.randint(40, (size, 5), generator=generator)
        lengths = torch.randint(1, 6, (size, 1), generator=generator)
        mask = (torch.arange(5) < lengths).long()
        targets = torch.tensor(
            [label(row, length, generator) for row, length in zip(ids, lengths, strict=True)]
        )
        splits[name] = Split({"input_ids": ids, "attention_mask": mask}, targets)
    return Task("made up", splits, 2)


def in_features(network):
    """The class is on which side of a plane the mean vector lies."""

    def label(ids, length, _):
        return int(network.bert.vectors[ids[: int(length)]].mean(0)[2] > 0.2)

    return label


def by_chance(ids, length, generator):
    return int(torch.rand((), generator=generator) < 0.7)


def rows(table, method):
    return table[table.method == method].set_index("split")


SIZES = {"train": 600, "valid": 200, "test": 400, "elsewhere": 200}


@pytest.mark.slow
def test_the_probe_finds_what_is_in_the_features() -> None:
    network = networks.SentenceNetwork(OneVectorPerToken())
    table = networks.baselines(network, task(in_features(network), SIZES), batch_size=7)
    probe = rows(table, "linear probe")
    assert list(probe.index) == list(SIZES)
    assert list(probe.n) == list(SIZES.values())
    assert (probe.accuracy > 0.95).all()
    assert (probe.loss < 0.2).all()


def test_the_probe_does_not_see_the_test_split() -> None:
    """Labels drawn by chance: no better than their majority where it did not train."""
    network = networks.SentenceNetwork(OneVectorPerToken())
    table = networks.baselines(network, task(by_chance, SIZES))
    probe, majority = rows(table, "linear probe"), rows(table, "majority")
    assert probe.accuracy["test"] <= majority.accuracy["test"] + 0.02
    assert probe.loss["test"] > majority.loss["test"] - 0.01


def test_the_majority_is_each_splits_own() -> None:
    network = networks.SentenceNetwork(OneVectorPerToken())
    made = task(by_chance, SIZES)
    majority = rows(networks.baselines(network, made), "majority")
    for name, split in made.splits.items():
        share = float(split.targets.double().mean())
        assert majority.accuracy[name] == pytest.approx(max(share, 1 - share))
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        assert majority.loss[name] == pytest.approx(entropy)


@pytest.mark.slow
def test_minilm_knows_sentiment_before_anything_is_trained(minilm) -> None:
    made = networks.sentiment(train=300, valid=60, test=200, transfer=1)
    few = Task(made.name, {name: made.splits[name] for name in ("train", "valid", "test")}, 2)
    table = networks.baselines(minilm, few)
    assert 0.6 < rows(table, "linear probe").accuracy["test"] < 0.85
    assert rows(table, "majority").accuracy["test"] < 0.6
