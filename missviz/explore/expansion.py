"""What copying D does: the cells of ΔW by the column of D that they are in, and two ways to y."""

import functools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.linear import linear_with
from missviz.adapters.miss import MiSS, MiSSAdapter
from missviz.displays.shards import COLORS, HUES, ShardDisplay
from missviz.explore.panel import Panel
from missviz.explore.weights import load_weight, own_input, with_digits
from missviz.randomness import generator_for, uniform

LAYOUTS = ("tiled", "block", "rows")
X = (1, 2, -2, 1, -2, -3, 1, 3, 1, 2, -3, 1)
"""x, of which a layer of size k takes the first k. On 8 features no sum is 0, and at r = 2, 3 and 4
tiled and block have different sums."""
LARGEST = len(X)
LARGEST_ENTRY = 0.9
"""Of D, in magnitude."""


def expansion(
    size: int | None = None,
    rank: int = 2,
    layout: str = "tiled",
    trace: int = 1,
    x: Any = None,
    weight: Any = None,
    *,
    color: str = "entry",
    reveal: bool = True,
) -> Panel:
    """MiSS on a size × size layer: D, ΔW = expand(D), and y as D S and as ΔW x.

    x stays, and D at rank r is the first r columns (or rows) of one matrix. Controls: rank, layout,
    trace.

    Args:
        size: of the layer, 2 to 12, with digits in the cells; None means 8.
        rank: r, at most 8. The slider has the divisors of the layer's inputs, the first r that does
            not divide, and the one given.
        layout: "tiled" (Eq. 4, and PEFT), "block" (the prose after Eq. 7), or "rows" (Eq. 3:
            rows of D are copied in blocks, and columns not at all).
        trace: a column of ΔW (or row), from 0; its copies are outlined, and with them the places
            of x that are summed. On a layer that is not square up to its smaller side.
        x: your own input, one number for each of the layer's.
        weight: your own matrix (out, in), 2 × 2 or larger: a tensor, an array, or a path (see
            `missviz.explore.weights.load_weight`), of which the first 12 × 12 are taken, since more
            cells cannot be told apart. The layer has its shape, and D is what comes nearest to it:
            each number the mean of the places where it stands.
        color: "entry" colours the cells of D and ΔW by the column (or row) of D that they are in,
            "value" by their value.
        reveal: False hides S, ΔW and y until `panel.reveal()`.

    Raises TypeError or ValueError, naming the argument.
    """
    notice, fixed = "", dict[str, Any]()
    if weight is None:
        size = validation.positive_int("size", 8 if size is None else size)
        if size not in range(2, LARGEST + 1):
            raise ValueError(f"size={size} is not shown; choose from 2 to {LARGEST}")
        numbers = uniform((LARGEST, LARGEST), LARGEST_ENTRY, generator_for("explore.expansion"))
        # So round that one decimal shows all of y.
        numbers = numbers.round(decimals=1)[:size, :size]
        largest, fixed["size"] = LARGEST_ENTRY, size
    elif size is not None:
        raise ValueError(f"size={size!r} and a weight: the layer has the weight's shape; give one")
    else:
        own = load_weight(weight, largest=LARGEST)
        numbers, units = with_digits(own.matrix)
        fixed["weight"] = own.source
        if min(numbers.shape) < 2:
            raise ValueError(f"weight of shape {tuple(numbers.shape)}; the smallest is 2 × 2")
        largest = float(numbers.abs().max()) or 1.0
        notice = ", ".join(filter(None, [f"D is nearest to {own.notice or 'your weight'}", units]))
    out_features, in_features = numbers.shape
    values_of_x = torch.tensor(X[:in_features], dtype=torch.float64)
    if x is not None:
        given, written = own_input(x, (out_features, in_features), LARGEST)
        values_of_x = torch.from_numpy(given)
        fixed |= written
    rank = validation.positive_int("rank", rank)
    most = min(out_features, in_features, len(HUES))
    validation.at_most("rank", rank, "what is shown", most)
    divisors = [r for r in range(1, most + 1) if in_features % r == 0]
    others = [r for r in range(1, most + 1) if in_features % r]
    choices: dict[str, list[Any]] = {
        "rank": sorted({*divisors, *others[:1], rank}),
        "layout": list(LAYOUTS),
        "trace": list(range(min(out_features, in_features))),
    }
    values = {"rank": rank, "layout": layout, "trace": trace}
    validation.one_of("color", color, COLORS)
    adapted = functools.cache(
        functools.partial(_nearest if weight is not None else _first, numbers)
    )
    shown = [
        ShardDisplay.from_adapter(adapted(rank, layout), values_of_x)
        for rank in range(1, most + 1)
        for layout in LAYOUTS
    ]
    # Room for all x and S, and for all y, that the panel can show.
    limits = max(one.limits[0] for one in shown), max(one.limits[1] for one in shown)

    def display(rank: int, layout: str, trace: int) -> ShardDisplay:
        return ShardDisplay.from_adapter(
            adapted(rank, layout),
            values_of_x,
            trace=trace,
            limits=limits,
            color=color,
            largest=largest,
            notice=notice,
        )

    fixed |= {} if color == "entry" else {"color": color}
    return Panel("expansion", display, choices, values, fixed=fixed, reveal=reveal)


def _method(rank: int, layout: str) -> MiSS:
    return MiSS(rank, share="rows") if layout == "rows" else MiSS(rank, layout=layout)  # type: ignore[arg-type]


def _first(numbers: Float[Tensor, "out in_"], rank: int, layout: str) -> MiSSAdapter:
    """D is the first columns (or rows) of these numbers."""
    adapter = _method(rank, layout).on(linear_with(torch.zeros_like(numbers)))
    assert isinstance(adapter, MiSSAdapter)
    rows, columns = adapter.D.shape
    with torch.no_grad():
        adapter.D.copy_(numbers[:rows, :columns])
    return adapter


def _nearest(numbers: Float[Tensor, "out in_"], rank: int, layout: str) -> MiSSAdapter:
    """ΔW comes nearest to these numbers: what shares an entry of D is its mean."""
    adapter = _method(rank, layout).on(linear_with(torch.zeros_like(numbers)))
    assert isinstance(adapter, MiSSAdapter)
    rows, columns = (nn.functional.one_hot(owner).to(numbers) for owner in adapter.owners())
    with torch.no_grad():
        sums, counts = (rows.mT @ part @ columns for part in (numbers, torch.ones_like(numbers)))
        adapter.D.copy_(sums / counts)
    return adapter
