"""MiniLM-L6, a pretrained sentence encoder: tokens in, mean-pooled features out."""

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.base import share_frozen
from missviz.adapters.linear import linear_with
from missviz.networks.packages import MINILM, read, require
from missviz.randomness import generator_for, uniform

WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors: that of sentence-transformers/all-MiniLM-L6-v2."""
CONFIG = "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
TOKENIZER = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

LONGEST = 512
"""Tokens that the network has positions for."""


class SentenceNetwork(nn.Module):
    """A transformer, the mean of its last hidden states over a sentence's tokens, and a head.

    Its linear layers are `bert.encoder.layer.0.attention.self.query` and so on (`value`, `key`,
    `attention.output.dense`, `intermediate.dense`, `output.dense`), the last one is `head`.
    """

    def __init__(self, bert: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.bert = bert
        self.head = nn.Identity() if head is None else head

    def pooled(
        self, input_ids: Int64[Tensor, "n tokens"], attention_mask: Int64[Tensor, "n tokens"]
    ) -> Float[Tensor, "n features"]:
        """What the head gets: the mean over tokens whose mask is 1."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean: Tensor = (hidden * there).sum(1) / there.sum(1)
        return mean

    def forward(
        self, input_ids: Int64[Tensor, "n tokens"], attention_mask: Int64[Tensor, "n tokens"]
    ) -> Float[Tensor, "n outputs"]:
        output: Tensor = self.head(self.pooled(input_ids, attention_mask))
        return output


def minilm(*, attention: str = "sdpa") -> SentenceNetwork:
    """MiniLM-L6: BERT with 6 layers, hidden 384, 12 heads, inner 1536; frozen, in float32.

    It maps (input_ids, attention_mask) to features (n, 384); `with_head` makes scores of them.
    There is no dropout, so that a frozen layer gives a sentence the same numbers at every step, and
    no pooler, which mean pooling does not use. The weights were fine-tuned on pairs of sentences,
    NLI and paraphrases among them.

    Args:
        attention: "sdpa" is fast; "eager" can be differentiated twice on every device.

    Raises:
        ModuleNotFoundError: a package is absent; says how to install it.
        ValueError: a file of it has another SHA-256.

    Example:
        >>> from missviz import networks
        >>> network = networks.minilm()
        >>> network(**networks.tokenise(["A man is eating food."])).shape
        torch.Size([1, 384])
    """
    validation.one_of("attention", attention, ("sdpa", "eager"))
    weights = read(MINILM, "model/model.safetensors", WEIGHTS)
    settings = json.loads(read(MINILM, "model/config.json", CONFIG))
    require("transformers")
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    state = {name: value for name, value in load(weights).items() if not name.startswith("pooler.")}
    silent = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig.from_dict({**settings, **silent})
    with _no_progress_bar():
        # Annotated, because its own annotation leaves the report out.
        loaded: Any = BertModel.from_pretrained(
            None,
            config=config,
            state_dict=state,
            add_pooling_layer=False,
            attn_implementation=attention,
            output_loading_info=True,
        )
    bert, report = loaded
    if wrong := [*report["missing_keys"], *report["unexpected_keys"]]:
        raise ValueError(f"weights and network do not fit: {', '.join(sorted(wrong)[:5])}")
    return SentenceNetwork(bert).requires_grad_(False).eval()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def with_head(network: SentenceNetwork, outputs: int, seed: int = 0) -> SentenceNetwork:
    """A copy of `network` with a linear head: scores (n, outputs).

    It shares the frozen memory; the head can be trained: `attach(..., trainable="head")` keeps it
    so. It starts as nn.Linear does, U(±1/√features), from `seed` alone.
    """
    if not isinstance(network, SentenceNetwork):
        raise TypeError(
            f"network is a {type(network).__name__}; with_head takes what missviz.networks.minilm "
            "gives"
        )
    validation.positive_int("outputs", outputs)
    like = next(network.parameters())
    features: int = network.bert.config.hidden_size  # type: ignore[assignment, union-attr]
    bound, generator = 1 / math.sqrt(features), generator_for(seed, "head")
    weight, bias = (
        uniform(shape, bound, generator).to(like) for shape in ((outputs, features), (outputs,))
    )
    copied = share_frozen(network)
    copied.head = linear_with(weight, bias)
    return copied


def tokenise(texts: Sequence[str], tokens: int = 32) -> dict[str, Int64[Tensor, "n longest"]]:
    """MiniLM's input: "input_ids" and "attention_mask", padded on the right to the longest text.

    A text's length is the sum of its mask. What exceeds `tokens`, its [CLS] and [SEP] among them,
    is cut off.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts={texts!r:.60} is one text; give a list of them")
    if validation.positive_int("tokens", tokens) > LONGEST:
        raise ValueError(f"tokens={tokens}; the network has positions for {LONGEST}")
    found = _tokenizer(int(tokens)).encode_batch(list(texts))
    return {
        "input_ids": torch.tensor([one.ids for one in found], dtype=torch.int64),
        "attention_mask": torch.tensor([one.attention_mask for one in found], dtype=torch.int64),
    }


def decode(token_ids: Int64[Tensor, " tokens"]) -> str:
    """The text of one sentence's tokens, in the small letters of MiniLM's vocabulary."""
    text: str = _tokenizer(LONGEST).decode(token_ids.tolist())
    return text


@functools.lru_cache(maxsize=8)
def _tokenizer(tokens: int) -> Any:
    """One for each limit, because that is a setting of it."""
    require("tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read(MINILM, "model/tokenizer.json", TOKENIZER).decode())
    tokenizer.enable_truncation(tokens)
    tokenizer.enable_padding()
    return tokenizer


def features(
    network: SentenceNetwork, inputs: Mapping[str, Tensor], batch_size: int = 64
) -> Float[Tensor, "n features"]:
    """`network.pooled` of all inputs, without gradients, on the CPU: what a linear probe sees.

    Sentences of like length go through together, so that little is computed for padding. The
    network stays in the mode (train or eval) that it is in; MiniLM has no dropout.
    """
    validation.positive_int("batch_size", batch_size)
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    device = next(network.parameters()).device
    parts = []
    with torch.no_grad():
        for rows in order.split(batch_size):
            longest = int(lengths[rows].max())
            batch = {name: part[rows, :longest].to(device) for name, part in inputs.items()}
            parts.append(network.pooled(**batch).cpu())
    sorted_features = torch.cat(parts)
    return torch.empty_like(sorted_features).index_copy_(0, order, sorted_features)
