"""Whether members fit into memory, before they are trained."""

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor

from missviz.experiments.ensemble import LARGEST

SHARE = 0.8
"""Of the memory that is free, what a run may take."""

CACHE = 1 << 28
"""On a CPU, bytes that the members of a chunk may take together, unless they are two: beyond it
they leave its caches, and each takes longer."""

PER_NUMBER = 5
"""Each trained number, its gradient, Adam's two averages, and its value at the best step."""


def free_bytes(device: str) -> int | None:
    """Memory that can be had on `device`; None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            sizes = dict(line.split(":", 1) for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def kept_for_backward(loss: Callable[[], Tensor]) -> int:
    """Bytes that the forward pass of `loss` keeps for its backward pass, weights apart."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = loss()
    del result
    return sum(kept.values())


def members_that_fit(per_member: int, fixed: int, at_once: int, device: str) -> int:
    """How many members a chunk may have: 32, 16, 8, 4 or 2, so that free memory that varies a
    little makes no other chunks.

    Args:
        per_member: bytes of one member while it trains.
        fixed: bytes that are there once: the network, the examples, what is known of them.
        at_once: chunks that are trained at a time.

    Raises ValueError where not even two fit.
    """
    free, members = free_bytes(device), LARGEST
    room = math.inf if free is None else SHARE * free - fixed
    cached = CACHE if device == "cpu" else math.inf
    while members > 2 and members * per_member > min(cached, room / at_once):
        members //= 2
    if free is not None and at_once * members * per_member > room:
        raise ValueError(
            f"too large for {device}: {shown(fixed)} for the network and its examples and "
            f"{shown(per_member)} for each of {at_once * members} members, of {shown(free)} that "
            "are free; give a smaller batch_size, shorter inputs or fewer targets"
        )
    return members


def shown(size: float) -> str:
    """ "1.5 GB"."""
    return f"{size / 1e9:.2g} GB" if size >= 1e8 else f"{size / 1e6:.2g} MB"
