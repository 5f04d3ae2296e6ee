"""The reach of several methods at several ranks, against the numbers that they train."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from missviz.adapters.base import Method
from missviz.adapters.linear import linear_with
from missviz.analysis.reach import reaches

STEPS = 100
"""Of a search: enough for what a picture can show."""


@dataclass(frozen=True)
class Reach:
    """One method at several ranks (Bat: block sizes), as far as they fit the layer."""

    ranks: Int[np.ndarray, " n"]
    num_parameters: Int[np.ndarray, " n"]
    shares: Float[np.ndarray, " n"]
    """Of ‖M‖², from 0 to 1."""
    lower_bound: bool = False
    """Whether a share was searched for: the reach is at least that."""

    def at(self, rank: int) -> int | None:
        """Where `rank` stands among the ranks, or None."""
        places = np.flatnonzero(self.ranks == rank)
        return int(places[0]) if len(places) else None


def reaches_of(
    target: Float[torch.Tensor, "out in_"],
    methods: Mapping[str, Callable[[int], Method]],
    ranks: Iterable[int],
    base: Float[torch.Tensor, "out in_"] | None = None,
    x: Float[torch.Tensor, "n in_"] | None = None,
) -> dict[str, Reach]:
    """The reach of each method at each rank that fits the layer; arguments as in
    `ReachDisplay.from_target`.

    Where it is searched for, within 100 steps: `mv.reach` may find a little more. A method that
    starts from the gradient gets −M XᵀX, that of ½‖(M − ΔW) Xᵀ‖² at ΔW = 0.

    Raises what `reaches` does for a method that fits the layer.
    """
    gradient = -target.detach() if x is None else -target.detach() @ (x.mT @ x).to(target)
    wanted, found = list(ranks), {}
    for name, make in methods.items():
        points = []
        for rank in wanted:
            method = make(rank)
            given = gradient if method.needs_gradient else None
            try:
                (share,) = reaches(method, target[None], base, x=x, steps=STEPS, gradient=given)
            except ValueError:
                if _fits(method, target, base, gradient):
                    raise
                continue
            points.append((rank, method.num_parameters(*target.shape), share))
        ranked, numbers, shares = zip(*points, strict=True) if points else ((), (), ())
        found[name] = Reach(
            np.array(ranked, dtype=int),
            np.array(numbers, dtype=int),
            np.array(shares, dtype=float),
            any(share.lower_bound for share in shares),
        )
    return found


def _fits(
    method: Method,
    target: Float[torch.Tensor, "out in_"],
    base: Float[torch.Tensor, "out in_"] | None,
    gradient: Float[torch.Tensor, "out in_"],
) -> bool:
    """Whether there is such a method on a layer of this shape."""
    linear = linear_with(torch.ones_like(target) if base is None else base.detach())
    given = gradient.to(linear.weight) if method.needs_gradient else None
    try:
        method.on(linear, gradient=given)
    except ValueError:
        return False
    return True
