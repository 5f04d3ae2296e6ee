"""Are the shards copies, and what does Bat change? Scale W, and watch."""

import copy
import functools
import math
from typing import Any

import torch

from missviz.adapters.base import Adapter, Method
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.trial import on_layer, randomise
from missviz.displays.colinearity import SCALES, ColinearityDisplay
from missviz.experiments.snapshots import STEPS, adapter_snapshots
from missviz.experiments.tasks import WIDTH
from missviz.explore.methods import Choice, Menu
from missviz.explore.panel import Panel
from missviz.explore.weights import load_weight
from missviz.randomness import generator_for, normal

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
    method: Any = "Bat",
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
        method: "MiSS", "Bat", "LoRA" or "fixed orthogonal", or your own: a method object, or a list
            (`missviz.explore.methods` has the rule), with the size that you gave it. The law is
            Bat's.
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
    # There is no control for the size: only the names count.
    menu = Menu.of(dict.fromkeys(methods(BLOCK_SIZE), MiSS), method, sized=False)
    if weight is not None:
        return _on_own_weight(menu, scale, steps, weight, reveal)
    ready = dict(_trained())
    for one in menu.options:
        if isinstance(one, Method):
            random = normal((WIDTH, WIDTH), 1.0, generator_for("explore.colinearity"))
            _check_scalable(on_layer(one, linear_with(random)))
            ready |= _over_steps(one, one)

    def display(method: Choice, scale: float, steps: int) -> ColinearityDisplay:
        return copy.copy(ready[method, steps][scale])

    choices: dict[str, list[Any]] = {
        "method": menu.options,
        "scale": list(SCALES),
        "steps": list(STEPS),
    }
    values = {"method": menu.first, "scale": scale, "steps": STEPS[-1] if steps is None else steps}
    return Panel("colinearity", display, choices, values, reveal=reveal)


def _check_scalable(adapter: Adapter) -> None:
    """ValueError where the trained numbers are of W₀'s size: then they cannot be kept while W₀ is
    scaled."""
    scaled = copy.deepcopy(adapter)
    with torch.no_grad():
        scaled.base.weight.mul_(2)
        if (scaled.delta() - adapter.delta()).abs().max() > 1e-9 * adapter.base.weight.abs().max():
            raise ValueError(
                f"{adapter.method}: its trained numbers are of W₀'s size, so that W₀ cannot be "
                "scaled while they are kept; missviz.explore.rank takes it"
            )


Ready = dict[tuple[Choice, int], dict[float, ColinearityDisplay]]
"""For each method and step the displays over all scales."""


@functools.lru_cache(maxsize=1)
def _trained() -> Ready:
    """Of the methods that are always there: about 0.5 s."""
    ready: Ready = {}
    for name, method in methods(BLOCK_SIZE).items():
        ready |= _over_steps(name, method)
    return ready


def _over_steps(called: Choice, method: Method) -> Ready:
    ready: Ready = {}
    for step, adapter in adapter_snapshots(method, STEPS).items():
        origin = f"after {step} step{'s' * (step != 1)}"
        ready[called, step] = ColinearityDisplay.over_scales(adapter, BLOCK_SIZE, origin=origin)
    return ready


def _on_own_weight(menu: Menu, scale: float, steps: int | None, weight: Any, reveal: bool) -> Panel:
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
    ready: dict[Choice, dict[float, ColinearityDisplay]] = {}
    shipped = methods(block_size)
    for name in menu.options:
        chosen = shipped[name] if isinstance(name, str) else name
        adapter = on_layer(chosen, linear)
        _check_scalable(adapter)
        randomise(adapter)
        ready[name] = ColinearityDisplay.over_scales(
            adapter, block_size, origin="random D", notice=own.notice
        )

    def display(method: Choice, scale: float) -> ColinearityDisplay:
        return copy.copy(ready[method][scale])

    choices: dict[str, list[Any]] = {"method": list(ready), "scale": list(SCALES)}
    return Panel(
        "colinearity",
        display,
        choices,
        {"method": menu.first, "scale": scale},
        fixed={"weight": own.source},
        reveal=reveal,
    )


def _block_size(out_features: int, in_features: int) -> int:
    common = math.gcd(out_features, in_features)
    return max(
        (b for b in range(1, common + 1) if common % b == 0 and in_features // b >= FEWEST_SHARDS),
        default=1,
    )
