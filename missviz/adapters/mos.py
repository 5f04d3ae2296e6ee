"""MoS, mixture of shards (arXiv 2410.00938): every layer takes its pieces from one trained pool."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.validation import (
    at_most,
    boolean,
    divides,
    non_negative_int,
    optional,
    positive_float,
    positive_int,
    store,
)
from missviz.randomness import generator_for, uniform


@dataclass(frozen=True)
class MoS(Method):
    """ΔW = s · B A, where A (r × k) and B (d × r) are put together from pools that layers share.

    The L layers of one shape have two trained pools: P_A of e·L·l pool shards of size k/l, random
    at first, and P_B of as many of size d/l, zero at first. A layer owns only which shards it
    takes: I_A and I_B (r × l), drawn once and kept. There is no router. With l shards per vector

        row i of A     = [P_A[I_A[i, 1]], …, P_A[I_A[i, l]]]
        column i of B  = [P_B[I_B[i, 1]], …, P_B[I_B[i, l]]]

    All layers together train e·L (d + k) numbers, as LoRA of rank e does, and each can have rank
    r > e. If every layer takes the whole pool, all get the same ΔW: that is pure sharing,
    `MoS(None, e, dissociate=False)`. Four switches make layers differ, each on its own:

        rank=r                subset selection: a layer takes r of the e·L pairs
        dissociate=True       pair dissociation: B's shards are drawn apart from A's
        shards_per_vector=l   vector sharding: pieces of different vectors are joined
        private=p             shard privatisation: p pairs belong to one layer alone; the other
                              r − p come from the (e − p)·L that are public

    Args:
        rank: r, at most p + (e − p)·L; None means everything that the layer may take.
        budget: e, how many pairs of vectors the pool holds per layer.
        shards_per_vector: l; must divide out_features and in_features.
        private: p, at most `budget` and `rank`. With p = e = r this is LoRA of rank r, exactly.
        dissociate: draw I_B by itself. Private pairs stay pairs.
        alpha: α in s = α / r; None means s = 1.

    Layers share if shape, dtype and device are the same. The authors have a pool for each kind of
    projection, though q and k may be alike: attach them one after the other for that. `on` alone
    means L = 1, and so do `num_parameters` and `rank_bound`; in `model.parameters()` a pool stands
    once.

    Raises (in `on` and `attach`): ValueError where the pool has too little for `rank`.
    Source: arXiv 2410.00938; `modules/Tied_LoRA.py` in Forence1999/MoS.
    """

    styles: ClassVar = {"MoS": ("cornflower", "P", "triples")}

    rank: int | None
    budget: int
    shards_per_vector: int = 1
    private: int = 0
    dissociate: bool = True
    alpha: float | None = None

    def __post_init__(self) -> None:
        store(self, rank=optional(positive_int), alpha=optional(positive_float))
        store(self, budget=positive_int, shards_per_vector=positive_int)
        store(self, private=non_negative_int, dissociate=boolean)
        at_most("private", self.private, "budget", self.budget)
        if self.rank is not None:
            at_most("private", self.private, "rank", self.rank)

    @property
    def name(self) -> str:
        rank = "all" if self.rank is None else f"r={self.rank}"
        shards = "" if self.shards_per_vector == 1 else f" l={self.shards_per_vector}"
        private = "" if self.private == 0 else f" p={self.private}"
        pairs = "" if self.dissociate else " paired"
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        return f"MoS {rank} e={self.budget}{shards}{private}{pairs}{alpha}"

    def with_rank(self, rank: int) -> "MoS":
        """At another rank; budget and private pairs keep their proportion to it."""
        before = self.rank or self.budget
        return replace(
            self,
            rank=None if self.rank is None else rank,
            budget=-(-self.budget * rank // before),
            private=self.private * rank // before,
        )

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.budget * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank or self.budget, out_features, in_features)

    def check_shape(self, out_features: int, in_features: int) -> None:
        divides(
            "shards_per_vector",
            self.shards_per_vector,
            out_features=out_features,
            in_features=in_features,
        )

    def shared(
        self, layers: Sequence[nn.Linear], generator: torch.Generator
    ) -> dict[nn.Linear, tuple[nn.Parameter, nn.Parameter, int, int]]:
        """For each layer P_A and P_B, its place among the layers that have them, and their
        number L."""
        alike: dict[tuple[object, ...], list[nn.Linear]] = {}
        for layer in layers:
            kind = layer.weight.shape, layer.weight.dtype, layer.weight.device
            alike.setdefault(kind, []).append(layer)
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        members: dict[nn.Linear, tuple[nn.Parameter, nn.Parameter, int, int]] = {}
        for same in alike.values():
            # A generator per shape, so that a pool does not depend on what other shapes there are.
            own = generator_for(seed, same[0].out_features, same[0].in_features)
            pools = self.pools(same[0], len(same), own)
            members |= {layer: (*pools, place, len(same)) for place, layer in enumerate(same)}
        return members

    def pools(
        self, like: nn.Linear, layers: int, generator: torch.Generator
    ) -> tuple[nn.Parameter, nn.Parameter]:
        """P_A (e·L·l × k/l) and P_B (e·L·l × d/l) for L layers like this one."""
        public = (self.budget - self.private) * layers
        if self.rank is not None and self.rank - self.private > public:
            most = self.private + public
            raise ValueError(
                f"rank={self.rank} exceeds what budget={self.budget} with private={self.private} "
                f"offers to {layers} layer{'s' * (layers > 1)} of shape "
                f"{like.out_features} × {like.in_features}; the largest is {most}"
            )
        shards = self.budget * layers * self.shards_per_vector
        # A row of A has k entries, however many shards it is made of: LoRA's bound.
        A = uniform(
            (shards, like.in_features // self.shards_per_vector),
            like.in_features**-0.5,
            generator,
        )
        B = like.weight.new_zeros(shards, like.out_features // self.shards_per_vector)
        return nn.Parameter(A.to(like.weight)), nn.Parameter(B)

    def draw(
        self, place: int, layers: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "r l"], Int[Tensor, "r l"]]:
        """I_A and I_B of the layer at `place` among L: the public shards, then its private ones."""
        public = (self.budget - self.private) * layers * self.shards_per_vector
        own = self.private * self.shards_per_vector
        first = public + place * own
        private = torch.arange(first, first + own, device=generator.device)
        taken = public
        if self.rank is not None:
            taken = (self.rank - self.private) * self.shards_per_vector

        def drawn() -> Tensor:
            order = torch.randperm(public, generator=generator, device=generator.device)
            return torch.cat([order[:taken], private]).unflatten(0, (-1, self.shards_per_vector))

        I_A = drawn()
        return I_A, drawn() if self.dissociate else I_A.clone()

    def adapter(
        self, base: nn.Linear, generator: torch.Generator, shared: Any = None
    ) -> "MoSAdapter":
        P_A, P_B, place, layers = shared[base]
        return MoSAdapter(self, base, P_A, P_B, *self.draw(place, layers, generator))


class MoSAdapter(Adapter):
    """P_A and P_B, trained, which its layers' adapters all hold, and its own I_A and I_B, fixed."""

    stackable = True
    method: MoS
    I_A: Tensor
    I_B: Tensor

    def __init__(
        self,
        method: MoS,
        base: nn.Linear,
        P_A: nn.Parameter,
        P_B: nn.Parameter,
        I_A: Int[Tensor, "r l"],
        I_B: Int[Tensor, "r l"],
    ) -> None:
        super().__init__(method, base)
        self.P_A, self.P_B = P_A, P_B
        self.register_buffer("I_A", I_A.to(base.weight.device))
        self.register_buffer("I_B", I_B.to(base.weight.device))

    @property
    def scaling(self) -> float:
        """s = α / r."""
        alpha = self.method.alpha
        return 1.0 if alpha is None else alpha / self.I_A.shape[-2]

    def factors(self) -> tuple[Float[Tensor, "*member out r"], Float[Tensor, "*member r in_"]]:
        A, B = joined(self.P_A, self.I_A), joined(self.P_B, self.I_B).mT
        return (B if self.scaling == 1 else self.scaling * B), A


def joined(
    pool: Float[Tensor, "*member n size"], indices: Int[Tensor, "*member r l"]
) -> Float[Tensor, "*member r l*size"]:
    """Row i is [pool[indices[i, 1]], …, pool[indices[i, l]]]."""
    places = indices.flatten(-2)
    # Whole rows, where that is possible: up to four times as fast as number by number.
    if places.dim() == 1:
        shards = pool.index_select(-2, places)
    elif pool.shape[:-2] == places.shape[:-1]:
        members = math.prod(pool.shape[:-2])
        first = pool.shape[-2] * torch.arange(members, device=places.device)
        rows = (places.reshape(members, -1) + first.unsqueeze(-1)).flatten()
        shards = pool.flatten(0, -2).index_select(0, rows).unflatten(0, places.shape)
    else:
        shards = torch.take_along_dim(pool, places.unsqueeze(-1), dim=-2)
    return shards.unflatten(-2, indices.shape[-2:]).flatten(-2)
