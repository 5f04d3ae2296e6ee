"""What an update is: choose a method and a rank, see W₀ + ΔW."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.displays.update import UpdateDisplay
from missviz.explore.panel import Panel
from missviz.randomness import generator_for, normal
from missviz.testing import randomise

METHODS: dict[str, Callable[[int], Method]] = {
    "LoRA": LoRA,
    "PiSSA": PiSSA,
    "MiSS": MiSS,
    "MiSS rows": lambda rank: MiSS(rank, share="rows"),
    "columns": lambda rank: FixedFactor(rank, "columns"),
    "Bat": Bat,
    "full fine-tuning": lambda rank: FullFineTuning(),
}
RANKS = (1, 2, 3, 4, 8)
"""The divisors of 8, and 3, which is none: a short last shard, and no Bat."""

SIZE, WEIGHT_STD, STEP_STD = 8, 0.35, 0.5
LIMIT = 2.0
"""Colours saturate beyond it; the digits still say how far."""


def update(method: str = "MiSS", rank: int = 2, *, reveal: bool = True) -> Panel:
    """W₀, ΔW and W₀ + ΔW of an 8 × 8 layer as squares with digits; controls: method, rank.

    The trained numbers of each method were moved off their start by N(0, 0.5²), as if a few steps
    of training had been done. Colours mean the same at every setting. With reveal=False ΔW stays
    hidden until `panel.reveal()`.
    """
    choices: dict[str, list[Any]] = {"method": list(METHODS), "rank": list(RANKS)}
    return Panel("update", _display, choices, {"method": method, "rank": rank}, reveal=reveal)


def _display(method: str, rank: int) -> UpdateDisplay:
    linear = nn.Linear(SIZE, SIZE, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(normal((SIZE, SIZE), WEIGHT_STD, generator_for("explore.update")))
    chosen = METHODS[method](rank)
    try:
        adapter = chosen.on(linear)
    except ValueError as error:
        weight: np.ndarray = linear.weight.detach().numpy()
        return UpdateDisplay(base=weight, delta=None, name=f"{chosen}: {error}", limit=LIMIT)
    randomise(adapter, std=STEP_STD)
    return UpdateDisplay.from_adapter(adapter, limit=LIMIT)
