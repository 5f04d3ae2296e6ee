"""Are the shards copies, and what does Bat change? Scale W, and watch."""

import copy
import functools
import math
from typing import Any

from missviz.adapters.base import Method, linear_with
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.displays.colinearity import SCALES, ColinearityDisplay
from missviz.experiments.snapshots import STEPS, adapter_snapshots
from missviz.explore.panel import Panel
from missviz.explore.weights import load_weight
from missviz.testing import randomise

BLOCK_SIZE = 8
"""On the 64 × 64 layer: 8 shards, so that their cosines can be read."""
FEWEST_SHARDS = 8


def methods(block_size: int) -> dict[str, Method]:
    """Four with as many trained numbers, on a square layer.

    MiSS and the fixed orthogonal factor differ in F alone: equal counts, equal ranks, and one has
    copies where the other has none. LoRA is what most readers know.
    """
    return {
        "MiSS": MiSS(block_size),
        "Bat": Bat(block_size),
        "LoRA": LoRA(max(1, block_size // 2)),
        "fixed orthogonal": FixedFactor(block_size, "orthogonal"),
    }


def colinearity(
    method: str = "Bat",
    scale: float = 1,
    steps: int | None = None,
    weight: Any = None,
    *,
    reveal: bool = True,
) -> Panel:
    """Shards of ΔW, the cosine of every two, and their mean against the scale of W₀.

    Controls: method, scale of W₀ (the trained numbers are kept), steps of training. The layer is
    the first one (64 × 64) of the network of lesson 05, adapted by each method in the published
    race, which is run when the panel is made.

    Args:
        method: "MiSS", "Bat", "LoRA" or "fixed orthogonal".
        scale: what W₀ is multiplied by: 1/8 … 16; 1 leaves it as it is.
        steps: of Adam: 0, 1, 3, 10, 30, 100; None means 100.
        weight: your own W₀ (out, in) in place of that network: a tensor, an array, the path of a
            .npy or "path.safetensors:name" (`missviz.explore.weights`). Nothing is trained on it:
            the trained numbers are random, and there is no control `steps`. b is the largest
            divisor of out and in that leaves 8 shards.
        reveal: False hides cosines and means until `panel.reveal()`.

    Raises:
        TypeError, ValueError, FileNotFoundError: `weight` is no weight; it has a single column or
            only zeros; `steps` is given with it; a value is none of its control's choices.
    """
    if weight is not None:
        return _on_own_weight(method, scale, steps, weight, reveal)
    ready = _trained()

    def display(method: str, scale: float, steps: int) -> ColinearityDisplay:
        return copy.copy(ready[method, steps][scale])

    choices: dict[str, list[Any]] = {
        "method": list(methods(BLOCK_SIZE)),
        "scale": list(SCALES),
        "steps": list(STEPS),
    }
    values = {"method": method, "scale": scale, "steps": STEPS[-1] if steps is None else steps}
    return Panel("colinearity", display, choices, values, reveal=reveal)


@functools.lru_cache(maxsize=1)
def _trained() -> dict[tuple[str, int], dict[float, ColinearityDisplay]]:
    """For each method and step the displays over all scales: about 0.5 s."""
    ready = {}
    for name, method in methods(BLOCK_SIZE).items():
        for step, adapter in adapter_snapshots(method, STEPS).items():
            origin = f"after {step} step{'s' * (step != 1)}"
            ready[name, step] = ColinearityDisplay.over_scales(adapter, BLOCK_SIZE, origin=origin)
    return ready


def _on_own_weight(
    method: str, scale: float, steps: int | None, weight: Any, reveal: bool
) -> Panel:
    if steps is not None:
        raise ValueError(f"steps={steps!r}: nothing is trained on your own weight; leave it out")
    own = load_weight(weight)
    out_features, in_features = own.matrix.shape
    if in_features == 1:
        raise ValueError(
            f"weight of shape {(out_features, 1)} is one shard, which has nothing to be compared "
            "with; the smallest is (out, 2)"
        )
    if not own.matrix.any():
        raise ValueError("weight is zero: it has no scale; give one with other entries")
    block_size = _block_size(out_features, in_features)
    linear = linear_with(own.matrix)
    ready = {}
    for name, chosen in methods(block_size).items():
        adapter = chosen.on(linear)
        randomise(adapter)
        ready[name] = ColinearityDisplay.over_scales(
            adapter, block_size, origin="random D", notice=own.notice
        )

    def display(method: str, scale: float) -> ColinearityDisplay:
        return copy.copy(ready[method][scale])

    choices: dict[str, list[Any]] = {"method": list(ready), "scale": list(SCALES)}
    return Panel(
        "colinearity",
        display,
        choices,
        {"method": method, "scale": scale},
        fixed={"weight": own.source},
        reveal=reveal,
    )


def _block_size(out_features: int, in_features: int) -> int:
    common = math.gcd(out_features, in_features)
    return max(
        (b for b in range(1, common + 1) if common % b == 0 and in_features // b >= FEWEST_SHARDS),
        default=1,
    )
