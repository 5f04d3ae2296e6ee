"""Which updates a method can reach: choose a target and a rank, see the share of it in reach."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters.base import Method, linear_with
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.shards import shard_matrix
from missviz.displays.reach import Reach, ReachDisplay, reaches_of
from missviz.experiments.tasks import TARGET_SIZE, dense, few_columns, low_rank, periodic
from missviz.explore.panel import Panel
from missviz.randomness import generator_for, normal
from missviz.testing import randomise

METHODS: dict[str, Callable[[int], Method]] = {
    "LoRA": LoRA,
    "PiSSA": PiSSA,
    "MiSS": MiSS,
    "MiSS block": lambda rank: MiSS(rank, layout="block"),
    "MiSS rows": lambda rank: MiSS(rank, share="rows"),
    "fixed columns": lambda rank: FixedFactor(rank, "columns"),
    "fixed orthogonal": lambda rank: FixedFactor(rank, "orthogonal"),
    "Bat": Bat,
}
SIZE = 24
RANKS = (1, 2, 3, 4, 5, 6, 8, 12)
"""The divisors of 24 at which LoRA trains no more numbers than there are cells; and 5, which
divides nothing: MiSS pads, Bat does not exist."""

WHOLE = 24
"""At this rank whatever shares or fixes one side is full fine-tuning; LoRA trains 1152 numbers."""

LIMIT = 0.4
"""Colours saturate beyond it."""

Maker = Callable[[Float[Tensor, "out in_"], torch.Generator], Float[Tensor, "out in_"]]


def rank_one(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random column times a random row."""
    column, row = (normal((SIZE, 1), 1.0, generator) for _ in range(2))
    return column @ row.mT


def invisible_to_miss(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Rank one; the row repeats with period 4 in the inputs and changes its sign each time."""
    quarter = normal((4,), 1.0, generator)
    return normal((SIZE, 1), 1.0, generator) * torch.cat([quarter, -quarter]).repeat(SIZE // 8)


def blocks(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Four random columns, each six times in a row."""
    return normal((SIZE, 4), 1.0, generator) @ shard_matrix(SIZE, 4, "block", weight)


def update_of(method: Method) -> Maker:
    """An update that `method` itself can be: its trained numbers moved at random.

    PiSSA's updates, other than the others', are not its own any more once they are scaled. So how
    far the numbers move is chosen such that the norm is right as it is: with every number moved by
    t times its draw, ‖ΔW‖² is at² + bt³ + ct⁴ (PiSSA multiplies two of them).
    """

    def make(weight: Tensor, generator: torch.Generator) -> Tensor:
        def moved(t: float) -> Tensor:
            adapter = method.on(linear_with(weight))
            randomise(adapter, "explore.reach", std=t)
            return adapter.delta().detach()

        powers = np.array([[t**2, t**3, t**4] for t in (0.5, 1.0, 2.0)])
        squares = [float(moved(t).square().sum()) for t in (0.5, 1.0, 2.0)]
        a, b, c = np.linalg.solve(powers, squares)
        wanted = float((TARGET_SIZE * torch.linalg.norm(weight)) ** 2)
        roots = np.roots([c, b, a, 0.0, -wanted])
        return moved(min(root.real for root in roots if abs(root.imag) < 1e-9 < root.real))

    return make


TARGETS: dict[str, Maker] = {
    "rank one": rank_one,
    "invisible to MiSS": invisible_to_miss,
    "low rank": low_rank,
    "periodic": periodic,
    "blocks": blocks,
    "columns": few_columns,
    "dense": dense,
    "one of Bat's": update_of(Bat(4)),
    "one of PiSSA's": update_of(PiSSA(4)),
}


def reach(target: str = "rank one", rank: int = 4, *, reveal: bool = True) -> Panel:
    """How much of a target M each method's ΔW can be, on a 24 × 24 layer; controls: target, rank.

    The share of ‖M‖² at best, in closed form (`mv.reach`): no training. All targets have half the
    norm of the layer's random W₀. Bat's block size is the rank; its last two targets are updates
    of Bat b = 4 and of PiSSA r = 4. With reveal=False the shares stay hidden until
    `panel.reveal()`.
    """
    choices: dict[str, list[Any]] = {"target": list(TARGETS), "rank": list(RANKS)}
    for name in TARGETS:
        _computed(name)
    return Panel("reach", _display, choices, {"target": target, "rank": rank}, reveal=reveal)


def _display(target: str, rank: int) -> ReachDisplay:
    wanted, reaches = _computed(target)
    return ReachDisplay(target=wanted.numpy(), name=target, reaches=reaches, rank=rank, limit=LIMIT)


@functools.lru_cache(maxsize=len(TARGETS))
def _computed(name: str) -> tuple[Tensor, dict[str, Reach]]:
    weight = normal((SIZE, SIZE), SIZE**-0.5, generator_for("explore.reach", "weight"))
    wanted = TARGETS[name](weight, generator_for("explore.reach", name))
    wanted = wanted * (TARGET_SIZE * torch.linalg.norm(weight) / torch.linalg.norm(wanted))
    return wanted, reaches_of(wanted, METHODS, (*RANKS, WHOLE), weight)
