"""The tasks for MiniLM: sentiment with transfer sets, swapped words, and topics.

Each is drawn from what the packages hold by a seed alone. A split does not change with the sizes of
those named after it: "test" comes first, then "valid", then "train", so that a larger training set
holds a smaller one, and both are tested on the same sentences.
"""

import functools
import re
from collections.abc import Mapping, Sequence

import torch

from missviz.adapters import validation
from missviz.experiments.tasks_on_networks import Split, Task
from missviz.networks import texts
from missviz.networks.sentence_network import tokenise
from missviz.networks.texts import Labelled
from missviz.randomness import generator_for

Rows = Mapping[str, Sequence[Labelled]]
TRANSFER = ("Amazon", "NYT", "IMDB", "tweets")
REVIEW_TOKENS = 128
"""Of an IMDB review or a document of the BBC: its beginning."""


def sentiment(
    *,
    train: int = 6000,
    valid: int = 1000,
    test: int = 1500,
    transfer: int | None = 1000,
    tokens: int = 32,
    seed: int = 0,
) -> Task:
    """Negative (0) or positive (1): sentences of Rotten Tomatoes, and four sets from elsewhere.

    Splits "Amazon", "NYT" (editorials) and "tweets" are sentences of |mean valence| > 0.5, "IMDB"
    is whole reviews, cut at 128 tokens. None of their sentences stands in Rotten Tomatoes, in other
    spelling or punctuation either, and each stands once.

    Args:
        train, valid, test: sentences of Rotten Tomatoes; 8,528 in all.
        transfer: at most so many of each of the four; None takes all.
        tokens: of a sentence; the rest is cut off.
        seed: decides which.
    """
    rows = sentiment_rows(train=train, valid=valid, test=test, transfer=transfer, seed=seed)
    return _task("sentiment", rows, 2, {"IMDB": REVIEW_TOKENS}, tokens)


def sentiment_rows(
    *,
    train: int = 6000,
    valid: int = 1000,
    test: int = 1500,
    transfer: int | None = 1000,
    seed: int = 0,
) -> dict[str, list[Labelled]]:
    """The texts of `sentiment`, by split."""
    if transfer is not None:
        validation.positive_int("transfer", transfer)
    sets = {**texts.movie_reviews(), **texts.opinions()}
    sizes = {"train": train, "valid": valid, "test": test}
    splits = _split(sets["Rotten Tomatoes"], sizes, seed, "sentiment")
    for name in TRANSFER:
        splits[name] = _shuffled(sets[name], seed, name)[:transfer]
    return splits


def swapped_words(
    *, train: int = 2400, valid: int = 400, test: int = 600, tokens: int = 32, seed: int = 0
) -> Task:
    """Is the order of words intact (1), or were two neighbouring words swapped (0)?

    Sentences of New York Times editorials that fit into `tokens`, each in one split only, and there
    either as it was or swapped: every other one. Both words are plain (letters alone), so that no
    punctuation gives a swap away. Some swapped sentences are good English all the same, so that
    nobody reaches an accuracy of 1. A stand-in for judgements of acceptability; not CoLA.

    Args: as in `sentiment`.
    """
    rows = swapped_rows(train=train, valid=valid, test=test, tokens=tokens, seed=seed)
    return _task("swapped words", rows, 2, {}, tokens)


def swapped_rows(
    *, train: int = 2400, valid: int = 400, test: int = 600, tokens: int = 32, seed: int = 0
) -> dict[str, list[Labelled]]:
    """The texts of `swapped_words`, by split."""
    sources = whole_sentences(tokens)
    splits = _split(sources, {"train": train, "valid": valid, "test": test}, seed, "swapped words")
    for name, rows in splits.items():
        splits[name] = [
            row if place % 2 else Labelled(swap_neighbours(row.text, seed), 0)
            for place, row in enumerate(rows)
        ]
    return splits


@functools.lru_cache(maxsize=4)
def whole_sentences(tokens: int) -> tuple[Labelled, ...]:
    """Editorials' sentences that fit into `tokens` and have two neighbours to swap, labelled 1."""
    rows = texts.once(Labelled(text, 1) for _, text in texts.rated_sentences()["NYT"])
    rows = tuple(row for row in rows if _places(row.text.split()))
    lengths = tokenise([row.text for row in rows], tokens + 1)["attention_mask"].sum(1)
    return tuple(
        row for row, length in zip(rows, lengths.tolist(), strict=True) if length <= tokens
    )


def swap_neighbours(sentence: str, seed: int) -> str:
    """`sentence` with two neighbouring plain words swapped, where the seed and the sentence say.

    Raises ValueError where no two plain neighbours differ.
    """
    words = sentence.split()
    places = _places(words)
    if not places:
        raise ValueError(f"sentence={sentence!r:.60} has no two plain words side by side")
    draw = torch.randint(len(places), (), generator=generator_for(seed, "swap", sentence))
    place = places[int(draw)]
    words[place : place + 2] = reversed(words[place : place + 2])
    return " ".join(words)


def _places(words: list[str]) -> list[int]:
    """Where a word and the next one are plain and differ."""
    plain = [re.fullmatch(r"[A-Za-z]+(['-][A-Za-z]+)*", word) is not None for word in words]
    return [
        place
        for place in range(len(words) - 1)
        if plain[place]
        and plain[place + 1]
        and words[place].casefold() != words[place + 1].casefold()
    ]


def topics(
    *,
    train: int = 1000,
    valid: int = 300,
    test: int = 600,
    tokens: int = REVIEW_TOKENS,
    seed: int = 0,
) -> Task:
    """BBC News: business, entertainment, politics, sports or tech (0-4), from the first tokens.

    What MiniLM can do before it is fine-tuned on something else: a linear probe of it, before and
    after, tells what was forgotten (`baselines`). 2,121 documents in all. Args: as in `sentiment`.
    """
    sizes = {"train": train, "valid": valid, "test": test}
    rows = _split(texts.news(), sizes, seed, "topics")
    return _task("topics", rows, len(texts.TOPICS), {}, tokens)


def _split(
    rows: Sequence[Labelled], sizes: Mapping[str, int], seed: int, name: str
) -> dict[str, list[Labelled]]:
    for split, size in sizes.items():
        validation.positive_int(split, size)
    if (wanted := sum(sizes.values())) > len(rows):
        asked = ", ".join(f"{split}={size}" for split, size in sizes.items())
        raise ValueError(f"{asked} are {wanted} examples; {name} has {len(rows)}")
    shuffled = _shuffled(rows, seed, name)
    parts: dict[str, list[Labelled]] = {}
    for split in reversed(list(sizes)):
        parts[split], shuffled = shuffled[: sizes[split]], shuffled[sizes[split] :]
    return {split: parts[split] for split in sizes}


def _shuffled(rows: Sequence[Labelled], seed: int, name: str) -> list[Labelled]:
    order = torch.randperm(len(rows), generator=generator_for(validation.whole("seed", seed), name))
    return [rows[place] for place in order.tolist()]


def _task(name: str, rows: Rows, outputs: int, longer: Mapping[str, int], tokens: int) -> Task:
    """Tokenised, once, with at most `tokens` or what `longer` says of a split."""
    splits = {
        split: Split(
            tokenise([row.text for row in found], longer.get(split, tokens)),
            torch.tensor([row.label for row in found]),
        )
        for split, found in rows.items()
    }
    return Task(name, splits, outputs)
