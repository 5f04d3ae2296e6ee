"""What an update is: choose a method and a rank, see W₀ + ΔW."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FullFineTuning
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.trial import on_layer, randomise
from missviz.displays.base import FROM_DATA
from missviz.displays.update import MOST_WITH_DIGITS, UpdateDisplay
from missviz.explore.methods import Choice, Menu
from missviz.explore.panel import Panel
from missviz.explore.weights import load_weight, own_input, size_of_entries, with_digits
from missviz.randomness import generator_for, normal

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

OWN_RANKS = (1, 2, 3, 4, 8, 16, 32)
"""On the reader's own weight."""

SIZE, WEIGHT_STD, STEP_STD = 8, 0.35, 0.5
MOST_WITH_X = 16
LIMIT = 2.0
"""Colours saturate beyond it; the digits still say how far."""


def update(
    method: Any = "MiSS",
    rank: int | None = None,
    weight: Any = None,
    x: Any = None,
    *,
    reveal: bool = True,
) -> Panel:
    """W₀, ΔW and W₀ + ΔW as squares, up to 8 × 8 with digits; controls: method, rank.

    The trained numbers of each method were moved off their start by N(0, 0.5²), as if a few steps
    of training had been done. Colours mean the same at every setting.

    Args:
        method: one of the menu, or your own: a method object, or a list (`missviz.explore.methods`
            has the rule). Where none of yours has a size there is no control rank.
        rank: of every method; Bat's block size. None means that of your own method, or 2.
        weight: your own W₀ (out, in) in place of a random 8 × 8: a tensor, an array, or a path (see
            `missviz.explore.weights.load_weight`). Of a larger one the first 512 × 512 are shown.
            The trained numbers then move by 1.4 times the size of W₀'s entries.
        x: your own input (in,), as numbers, an array or a tensor: it then stands above each square,
            and beside it what the square makes of it: W₀ x + ΔW x = y. On layers up to 16 × 16,
            where it can be seen.
        reveal: False hides ΔW and W₀ + ΔW until `panel.reveal()`.

    Raises TypeError or ValueError, naming the argument, also where your method does not fit the
    layer.
    """
    menu, fixed = Menu.of(METHODS, method), dict[str, Any]()
    if weight is None:
        linear = nn.Linear(SIZE, SIZE, bias=False).double()
        with torch.no_grad():
            linear.weight.copy_(normal((SIZE, SIZE), WEIGHT_STD, generator_for("explore.update")))
        notice, ranks = "", list(RANKS)
    else:
        own = load_weight(weight)
        matrix, notice = own.matrix, own.notice
        if max(matrix.shape) <= MOST_WITH_DIGITS:
            matrix, notice = with_digits(matrix)
        linear = linear_with(matrix)
        fixed["weight"] = own.source
        ranks = [n for n in OWN_RANKS if n <= min(own.matrix.shape)]
    shape = linear.out_features, linear.in_features
    vector, given = (None, {}) if x is None else own_input(x, shape, MOST_WITH_X)
    fixed |= given
    std = STEP_STD if weight is None else STEP_STD / WEIGHT_STD * size_of_entries(linear.weight)
    size = menu.size(rank, min(2, *shape))
    show = functools.partial(_display, menu, linear, std, notice, vector)
    choices: dict[str, list[Any]] = {"method": menu.options}
    values: dict[str, Any] = {"method": menu.first}
    if menu.sized:
        added = {} if weight is None and menu.first in METHODS else {size}
        choices["rank"] = sorted({*ranks, *added})
        values["rank"] = size
    else:
        show = functools.partial(show, rank=size)
        fixed |= {} if rank is None else {"rank": rank}
    if isinstance(menu.first, Method):
        on_layer(menu.at(menu.first, size), linear)
    # One range of colours for all settings; on a weight of one's own that of the first.
    limit = LIMIT if weight is None else show(**values).limit
    show = functools.partial(show, limit=limit)
    return Panel("update", show, choices, values, fixed=fixed, reveal=reveal)


def _display(
    menu: Menu,
    linear: nn.Linear,
    std: float,
    notice: str,
    x: np.ndarray | None,
    method: Choice,
    rank: int,
    limit: float = FROM_DATA,
) -> UpdateDisplay:
    try:
        adapter = on_layer(menu.at(method, rank), linear)
        randomise(adapter, std=std)
        validation.finite(f"{adapter.method}: ΔW after a few steps", adapter.delta())
    except ValueError as error:
        base: np.ndarray = linear.weight.detach().numpy()
        return UpdateDisplay(
            base=base, delta=None, name=str(error), limit=limit, notice=notice, x=x
        )
    return UpdateDisplay.from_adapter(adapter, limit=limit, notice=notice, x=x)
