"""A classifier: a network's features, and a linear head on them."""

import math

from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.linear import linear_with
from missviz.randomness import generator_for, uniform

MASK = "attention_mask"
"""The input that says which tokens there are: 1, or 0 for what only fills up."""


class Features(nn.Module):
    """What the head sees of each example: the network's output, or the mean of it over the tokens
    that there are.

    The network may give a tensor (n, features) or (n, tokens, features), a tuple that begins with
    one, or something with `last_hidden_state`, as Hugging Face's do. There is no dropout, so that
    all members see the same network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        for part in network.modules():
            # Else torch's own layer, where it need not learn, reads weights past the adapters. What
            # is in it does not train: neither does its dropout.
            if isinstance(part, nn.TransformerEncoderLayer):
                part.training = True

    def forward(self, **inputs: Tensor) -> Float[Tensor, "n features"]:
        given = self.network(**inputs)
        output = getattr(given, "last_hidden_state", given)
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, Tensor) or output.dim() not in (2, 3):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"network gives {shape} for a batch; a head needs (n, features) or "
                "(n, tokens, features)"
            )
        if output.dim() == 2:
            return output
        mask = inputs.get(MASK)
        if mask is None:
            return output.mean(dim=1)
        there = mask.to(output).unsqueeze(-1)
        return (output * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)


class Classifier(nn.Module):
    """Inputs by keyword → scores (n, classes)."""

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.features = Features(network)
        self.head = head

    def forward(self, **inputs: Tensor) -> Float[Tensor, "n classes"]:
        scores: Tensor = self.head(self.features(**inputs))
        return scores


def new_head(features: int, outputs: int, seed: int, like: Tensor) -> nn.Linear:
    """nn.Linear with its usual start, U(±1/√features), from `seed`."""
    generator, bound = generator_for(seed, "head"), 1 / math.sqrt(features)
    weight, bias = (uniform(shape, bound, generator) for shape in ((outputs, features), (outputs,)))
    return linear_with(weight.to(like), bias.to(like))
