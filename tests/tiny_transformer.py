"""A causal transformer that is small enough for every method, without nn.MultiheadAttention."""

import torch
from torch import Tensor, nn

FEATURES, HEADS, INNER, WORDS = 8, 2, 16, 11
NAMES = ("query", "key", "value", "out", "up", "down")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(FEATURES, FEATURES) for _ in range(4)
        )
        self.up, self.down = nn.Linear(FEATURES, INNER), nn.Linear(INNER, FEATURES)
        self.first, self.second = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.first(x)
        query, key, value = (
            layer(normed).unflatten(-1, (HEADS, -1)).transpose(-2, -3)
            for layer in (self.query, self.key, self.value)
        )
        met = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(met.transpose(-2, -3).flatten(-2))
        return x + self.down(torch.relu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Words (..., tokens) → scores (..., tokens, words)."""

    def __init__(self, blocks: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, FEATURES)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(FEATURES, WORDS, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x)
        return scores


def some_words(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(seed))


class Encoder(nn.Module):
    """Words (n, tokens) → features (n, tokens, features). It is causal: what only fills up, at the
    end, changes nothing before it."""

    def __init__(self, blocks: int = 2, seed: int = 0) -> None:
        super().__init__()
        whole = Transformer(blocks, seed)
        self.embedding, self.blocks = whole.embedding, whole.blocks

    def forward(self, words: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x: Tensor = self.embedding(words)
        for block in self.blocks:
            x = block(x)
        return x
