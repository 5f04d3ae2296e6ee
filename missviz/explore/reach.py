"""Which updates a method can reach: choose a target and a rank, see the share of it in reach."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.shards import shard_matrix
from missviz.adapters.trial import on_layer, randomise
from missviz.analysis.reach import seen, thin_factor
from missviz.analysis.reach_by_rank import Reach, reaches_of
from missviz.displays.reach import ReachDisplay
from missviz.experiments.tasks import TARGET_SIZE, dense, few_columns, low_rank, periodic
from missviz.explore.methods import beside, code, size_of
from missviz.explore.panel import Panel
from missviz.explore.view import check_choices
from missviz.explore.weights import LARGEST_SHOWN, load_weight, own_inputs
from missviz.randomness import generator_for, normal

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

OWN_RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
"""On a layer of another shape, up to half of it."""

LIMIT = 4
"""Colours saturate at so many times the root mean square of M's entries."""
LARGEST_SEARCHED = 128
"""Rows and columns, where the reach of a method is searched for at every rank."""
FILES = (".npy", ".safetensors")

Maker = Callable[[Float[Tensor, "out in_"], torch.Generator], Float[Tensor, "out in_"]]


def rank_one(weight: Tensor, generator: torch.Generator) -> Tensor:
    """A random column times a random row."""
    column, row = (normal((side, 1), 1.0, generator) for side in weight.shape)
    return column @ row.mT


def invisible_to_miss(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Rank one; the row repeats with period 4 in the inputs and changes its sign each time."""
    out_features, in_features = weight.shape
    validation.divides("period", 8, in_features=in_features)
    quarter = normal((4,), 1.0, generator)
    row = torch.cat([quarter, -quarter]).repeat(in_features // 8)
    return normal((out_features, 1), 1.0, generator) * row


def blocks(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Four random columns, each many times in a row."""
    out_features, in_features = weight.shape
    validation.at_most("blocks", 4, "in_features", in_features)
    columns = normal((out_features, 4), 1.0, generator)
    return columns @ shard_matrix(in_features, 4, "block", weight)


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


def reach(
    target: Any = "rank one",
    rank: int | None = None,
    weight: Any = None,
    method: Any = None,
    x: Any = None,
    *,
    reveal: bool = True,
) -> Panel:
    """How much of a target M each method's ΔW can be, on a 24 × 24 layer; controls: target, rank.

    The share of ‖M‖² at best (`mv.reach`): no training. All targets have half the norm of the
    layer's random W₀. Bat's block size is the rank; its last two targets are updates of Bat b = 4
    and of PiSSA r = 4.

    Args:
        target: one of the menu, or your own M (out, in): a tensor, an array, or a path (see
            `missviz.explore.weights.load_weight`). The layer then has its shape, and the other
            targets have its norm; those that do not fit the shape are not in the menu.
        rank: of all methods; None means that of your own method, or 4.
        weight: your own W₀ (out, in), likewise; without it W₀ is random. Of a larger weight or
            target the first 512 × 512 are taken, beside methods of yours 128 × 128.
        method: your own beside the eight that are drawn: a method object, or a list
            (`missviz.explore.methods` has the rule). Where a reach has no closed form it is
            searched for, and the line below says "at least". One that starts from the gradient
            gets that of ½‖M − ΔW‖² at ΔW = 0, which is −M.
        x: your own inputs (n, in), as lists of numbers, an array or a tensor: the share is then of
            what M makes of them, ‖M Xᵀ‖². Targets that make nothing of them are not in the menu.
        reveal: False hides the shares until `panel.reveal()`.

    Raises TypeError or ValueError, naming the argument; also where target and weight have different
    shapes, a method of yours does not fit them, or your target makes nothing of your inputs.
    """
    own = beside(METHODS, method)
    fixed: dict[str, Any] = {}
    notices, base, wanted, name = [], None, None, target
    largest = LARGEST_SEARCHED if own else LARGEST_SHOWN
    if weight is not None:
        loaded = load_weight(weight, largest=largest)
        base, fixed["weight"] = loaded.matrix, loaded.source
        notices.append(loaded.notice)
    if not isinstance(target, str) or Path(target.partition(":")[0]).suffix in FILES:
        loaded = load_weight(target, "target", largest)
        wanted, name = loaded.matrix, loaded.source
        notices.append(loaded.notice)
    if own:
        fixed["method"] = code(method)
    inputs = None
    if x is not None:
        in_features = next((m.shape[1] for m in (base, wanted) if m is not None), SIZE)
        inputs, written = own_inputs(x, in_features)
        fixed |= written
    plain = base is None and wanted is None
    usual = plain and not own and inputs is None
    layer = _default_layer() if usual else _Layer(base, wanted, name, own, inputs)
    size = next((size_of(one) for one in own.values()), None) or min(4, max(layer.ranks))
    size = size if rank is None else rank
    ranks = sorted({*layer.ranks, *([size] if rank is None or not plain else [])})
    choices: dict[str, list[Any]] = {"target": layer.targets, "rank": ranks}
    values = check_choices("reach", choices, {"target": name, "rank": size})
    layer.add_rank(values["rank"])
    for one in own.values():
        on_layer(one.with_rank(values["rank"]), linear_with(layer.weight))
    for known in layer.targets if layer is _default_layer() else [values["target"]]:
        layer.computed(known)
    notice = "; ".join(dict.fromkeys(filter(None, notices)))

    def display(target: str, rank: int) -> ReachDisplay:
        matrix, reaches = layer.computed(target)
        return ReachDisplay(
            target=matrix.numpy(),
            name=Path(target).name,
            reaches=reaches,
            rank=rank,
            limit=layer.limit,
            notice=notice,
            on_inputs=inputs is not None,
        )

    return Panel("reach", display, choices, values, fixed=fixed, reveal=reveal, work=layer.work())


class _Layer:
    """W₀, the targets that fit it, and the reach of all methods, computed when it is asked for.

    Args:
        weight: W₀; None means a random one, 24 × 24 or twice as large as the reader's target.
        wanted: the reader's own target, if there is one.
        name: of it.
        own: the reader's methods beside METHODS.
        inputs: the reader's, if there are any.
    """

    def __init__(
        self,
        weight: Float[Tensor, "out in_"] | None,
        wanted: Float[Tensor, "out in_"] | None,
        name: str,
        own: Mapping[str, Method],
        inputs: Float[Tensor, "n in_"] | None = None,
    ) -> None:
        shape = (SIZE, SIZE) if wanted is None else tuple(wanted.shape)
        if weight is None:
            weight = normal(shape, shape[1] ** -0.5, generator_for("explore.reach", "weight"))
            if wanted is not None and wanted.any():
                weight *= torch.linalg.norm(wanted) / TARGET_SIZE / torch.linalg.norm(weight)
        elif wanted is not None and weight.shape != wanted.shape:
            raise ValueError(
                f"weight is {tuple(weight.shape)} and target {shape}: they must be of one shape"
            )
        if wanted is not None and not wanted.any():
            raise ValueError("target is zero: there is nothing to reach; give another")
        if not weight.any():
            raise ValueError("weight is zero: Bat and PiSSA have nothing to start from")
        self.weight = weight
        self.inputs = None if inputs is None else thin_factor(inputs, weight)
        if wanted is not None:
            seen(wanted, self.inputs)
        size = TARGET_SIZE * torch.linalg.norm(weight)
        self.size = float(size if wanted is None else torch.linalg.norm(wanted))
        self.limit = LIMIT * self.size / weight.numel() ** 0.5
        self.methods = METHODS | {called: one.with_rank for called, one in own.items()}
        self.made: dict[str, Tensor] = {} if wanted is None else {name: wanted}
        for known, make in TARGETS.items():
            try:
                made = make(weight, generator_for("explore.reach", known))
                seen(made, self.inputs)
            except ValueError:
                continue  # this layer has no room for it, or these inputs see nothing of it
            self.made[known] = made * (self.size / torch.linalg.norm(made))
        usual = weight.shape == (SIZE, SIZE)
        room = max(1, min(weight.shape) // 2)
        self.ranks = list(RANKS) if usual else [n for n in OWN_RANKS if n <= room]
        self.computed_at = [*self.ranks, WHOLE] if usual else list(self.ranks)
        self.found: dict[str, dict[str, Reach]] = {}

    @property
    def targets(self) -> list[str]:
        return list(self.made)

    def add_rank(self, rank: int) -> None:
        """Compute it too."""
        if rank not in self.computed_at:
            self.computed_at = sorted([*self.computed_at, rank])

    def computed(self, name: str) -> tuple[Tensor, dict[str, Reach]]:
        """A target, and the reach of every method."""
        wanted = self.made[name]
        if name not in self.found:
            self.found[name] = reaches_of(
                wanted, self.methods, self.computed_at, self.weight, self.inputs
            )
        return wanted, self.found[name]

    def work(self) -> Iterator[str]:
        """The other targets, one by one."""
        for done, name in enumerate(self.targets, 1):
            if name not in self.found:
                self.computed(name)
                yield f"reach: {done} of {len(self.targets)} targets"


@functools.cache
def _default_layer() -> _Layer:
    return _Layer(None, None, "", {})


def _computed(name: str) -> tuple[Tensor, dict[str, Reach]]:
    return _default_layer().computed(name)
