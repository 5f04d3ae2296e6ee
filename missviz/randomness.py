"""Random numbers that do not depend on what else ran: every draw has a generator of its own."""

import hashlib

import torch
from torch import Tensor


def seed_for(*key: object) -> int:
    """A 63-bit seed from anything that names a draw, such as (43, "layers.0.fc1")."""
    text = "/".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator that belongs to `key` alone."""
    return torch.Generator().manual_seed(seed_for(*key))


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """U(-bound, bound) in float64, so that every dtype and device starts from the same numbers."""
    empty = torch.empty(shape, dtype=torch.float64, device=generator.device)
    return empty.uniform_(-bound, bound, generator=generator)


def normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """N(0, std²) in float64, for the same reason as `uniform`."""
    empty = torch.empty(shape, dtype=torch.float64, device=generator.device)
    return empty.normal_(0.0, std, generator=generator)
