"""A task that a tiny transformer can learn: does a sentence have word 3 or 7 in it?"""

from typing import Any

import torch
from tiny_transformer import WORDS, Encoder

from missviz.experiments import Split, Task

TARGETS = ["blocks.1*", "blocks.2*"]
"""The linear layers of the last two of three blocks."""

SMALL: dict[str, Any] = dict(
    targets=TARGETS, seeds=3, tune_seeds=2, steps=12, evaluate_every=3, batch_size=40
)


def sentences(size: int, seed: int, tokens: int = 9) -> Split:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, WORDS, (size, tokens), generator=generator)
    lengths = torch.randint(3, tokens + 1, (size, 1), generator=generator)
    mask = (torch.arange(tokens) < lengths).long()
    words = words * mask
    targets = ((words == 3) | (words == 7)).any(dim=1).long()
    return Split({"words": words, "attention_mask": mask}, targets)


def word_task(**other: Split) -> Task:
    splits = {
        "train": sentences(90, 0),
        "valid": sentences(40, 1),
        "test": sentences(50, 2),
        "longer": sentences(30, 3, tokens=14),
    }
    return Task("3 or 7", splits | other, outputs=2)


def first_word_task() -> Task:
    """What the same network could be asked before: which of three kinds the first word is."""
    splits = {}
    for name, (size, seed) in {"train": (80, 10), "valid": (40, 11), "test": (60, 12)}.items():
        drawn = sentences(size, seed)
        splits[name] = Split(drawn.inputs, drawn.inputs["words"][:, 0] % 3)
    return Task("first word", splits, outputs=3)


def encoder() -> Encoder:
    return Encoder(blocks=3)
