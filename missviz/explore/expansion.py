"""What copying D does: the cells of ΔW by the column of D that they are in, and two ways to y."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.miss import MiSS, MiSSAdapter
from missviz.displays.shards import COLORS, HUES, ShardDisplay
from missviz.explore.panel import Panel
from missviz.randomness import generator_for, uniform
from missviz.testing import random_linear

LAYOUTS = ("tiled", "block", "rows")
X = (1, 2, -2, 1, -2, -3, 1, 3, 1, 2, -3, 1)
"""x, of which a layer of size k takes the first k. On 8 features no sum is 0, and at r = 2, 3 and 4
tiled and block have different sums."""
LARGEST = len(X)
LARGEST_ENTRY = 0.9
"""Of D, in magnitude."""


def expansion(
    size: int = 8,
    rank: int = 2,
    layout: str = "tiled",
    trace: int = 1,
    *,
    color: str = "entry",
    reveal: bool = True,
) -> Panel:
    """MiSS on a size × size layer: D, ΔW = expand(D), and y as D S and as ΔW x.

    x stays, and D at rank r is
    the first r columns (or rows) of one matrix. Controls: rank, layout, trace.

    Args:
        size: of the layer, 2 to 12; up to 8 there are digits in the cells.
        rank: r, at most 8. The slider has the divisors of size, the first r that does not divide,
            and the one given.
        layout: "tiled" (Eq. 4, and PEFT), "block" (the prose after Eq. 7), or "rows" (Eq. 3:
            rows of D are copied in blocks, and columns not at all).
        trace: a column of ΔW (or row), from 0; its copies are outlined, and with them the places
            of x that are summed.
        color: "entry" colours the cells of D and ΔW by the column (or row) of D that they are in,
            "value" by their value.
        reveal: False hides S, ΔW and y until `panel.reveal()`.
    """
    size = validation.positive_int("size", size)
    if size not in range(2, LARGEST + 1):
        raise ValueError(f"size={size} is not shown; choose from 2 to {LARGEST}")
    rank = validation.positive_int("rank", rank)
    most = min(size, len(HUES))
    validation.at_most("rank", rank, "what is shown", most)
    divisors = [r for r in range(1, most + 1) if size % r == 0]
    others = [r for r in range(1, most + 1) if size % r]
    choices: dict[str, list[Any]] = {
        "rank": sorted({*divisors, *others[:1], rank}),
        "layout": list(LAYOUTS),
        "trace": list(range(size)),
    }
    values = {"rank": rank, "layout": layout, "trace": trace}
    validation.one_of("color", color, COLORS)
    show = functools.partial(_display, size, color)
    fixed = {"size": size, **({} if color == "entry" else {"color": color})}
    return Panel("expansion", show, choices, values, fixed=fixed, reveal=reveal)


def _display(size: int, color: str, rank: int, layout: str, trace: int) -> ShardDisplay:
    adapter, x = _adapter(size, rank, layout), _numbers(size)[1]
    return ShardDisplay.from_adapter(
        adapter, x, trace=trace, limits=_limits(size), color=color, largest=LARGEST_ENTRY
    )


@functools.lru_cache(maxsize=256)
def _adapter(size: int, rank: int, layout: str) -> MiSSAdapter:
    method = MiSS(rank, share="rows") if layout == "rows" else MiSS(rank, layout=layout)  # type: ignore[arg-type]
    adapter = method.on(random_linear(size, size, torch.float64))
    assert isinstance(adapter, MiSSAdapter)
    rows, columns = adapter.D.shape
    with torch.no_grad():
        adapter.D.copy_(_numbers(size)[0][:rows, :columns])
    return adapter


@functools.lru_cache
def _numbers(size: int) -> tuple[Float[Tensor, "size size"], Float[Tensor, " size"]]:
    """What D has its columns or rows from, and x; so round that one decimal shows all of y."""
    D = uniform((LARGEST, LARGEST), LARGEST_ENTRY, generator_for("explore.expansion")).round(
        decimals=1
    )
    return D[:size, :size], torch.tensor(X[:size], dtype=torch.float64)


@functools.lru_cache
def _limits(size: int) -> tuple[float, float]:
    """Room for all x and S, and for all y, that the panel can show."""
    shown = [
        ShardDisplay.from_adapter(_adapter(size, rank, layout), _numbers(size)[1])
        for rank in range(1, min(size, len(HUES)) + 1)
        for layout in LAYOUTS
    ]
    return max(one.limits[0] for one in shown), max(one.limits[1] for one in shown)
