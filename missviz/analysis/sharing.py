"""Sharing: how much of what several layers want one pool of numbers can be. Nothing is trained."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.attach import attach
from missviz.adapters.base import Adapter, Method, checked_method
from missviz.adapters.linear import linear_with
from missviz.adapters.mos import MoS, MoSAdapter, joined
from missviz.analysis.reach import depends_on_weight, reaches
from missviz.analysis.reach_search import Found, search
from missviz.intervals import half_width
from missviz.machine import one_thread
from missviz.randomness import generator_for, normal

Targets = Float[Tensor, "problem layer out in_"]

HOLD = 1e-9
"""How strongly a least-squares step is held to where it comes from, beside the mean square of what
it multiplies. A pool shard that no layer takes then stays, and the system has one solution."""


def layer_targets(
    alike: float,
    *,
    layers: int = 6,
    size: int = 24,
    rank: int = 4,
    generator: torch.Generator,
) -> Float[Tensor, "layer size size"]:
    """What `layers` layers want: M_t = √c · common + √(1−c) · own_t, with c = `alike`.

    The common part and the own parts have energy 1 each, and `rank` equal singular values in
    directions drawn at random. So c is about the cosine of two layers' targets: 0 is nothing in
    common, 1 the same. The draws do not depend on c.

    Raises ValueError where `alike` is not between 0 and 1, or `rank` exceeds `size`.
    """
    if not 0 <= alike <= 1:
        raise ValueError(f"alike={alike} is not between 0 and 1")
    layers, size = (validation.positive_int(*n) for n in (("layers", layers), ("size", size)))
    validation.at_most("rank", validation.positive_int("rank", rank), "size", size)
    left, right = (normal((layers + 1, size, rank), 1.0, generator) for _ in range(2))
    parts = torch.linalg.qr(left).Q @ torch.linalg.qr(right).Q.mT / rank**0.5
    return alike**0.5 * parts[0] + (1 - alike) ** 0.5 * parts[1:]


@dataclass(frozen=True)
class Wiring:
    """Which pool shard stands where, in A and in B of each layer; none of the pool's numbers."""

    I_A: Int[Tensor, "layer r l"]
    I_B: Int[Tensor, "layer r l"]
    shards: int
    """In each of the two pools: e·L·l."""

    @classmethod
    def of(
        cls, method: MoS, layers: int, out_features: int, in_features: int, *, seed: int = 0
    ) -> "Wiring":
        """As `missviz.attach(…, seed=seed)` draws it for so many layers of one shape."""
        linears = [linear_with(torch.zeros(out_features, in_features)) for _ in range(layers)]
        attached = attach(nn.ModuleList(linears), method, seed=seed)
        adapters = [adapter for adapter in attached if isinstance(adapter, MoSAdapter)]
        I_A, I_B = (torch.stack([getattr(a, name) for a in adapters]) for name in ("I_A", "I_B"))
        return cls(I_A, I_B, len(adapters[0].P_A))


def shared_reach(
    method: Method,
    targets: Targets,
    *,
    seeds: Sequence[int] | None = None,
    starts: int = 4,
    steps: int = 100,
) -> Float[Tensor, " problem"]:
    """The share of Σ_t ‖M_t‖² that `method`, on all L layers at once, can be.

    | method                               | how                                                 |
    |--------------------------------------|-----------------------------------------------------|
    | one without sharing, such as LoRA    | `missviz.reach` of each M_t                         |
    | pure sharing: the same ΔW everywhere | Eckart-Young of the mean of all M_t, at rank e·L    |
    | any other MoS                        | `wired_reach`, a **lower bound**: it searches       |
    | another that shares, the reader's    | all layers in one `reach_search`, a lower bound too |

    Args:
        method: `MoS(None, e, dissociate=False)` is pure sharing. α does not matter: the numbers
            are free.
        targets: M (n, L, out, in), n problems of L layers each.
        seeds: n of them, for what a method that shares draws (as in `attach`), such as MoS's
            indices; None: 0, 1, …, n − 1.
        starts, steps: of a search.

    Returns n numbers from 0 to 1.

    Raises:
        TypeError: `method` is no Method.
        ValueError: `targets` is not 4-D, not finite, or zero for one of the layers; `seeds` are
            not n; the method does not fit the layers, starts from the gradient of a loss, or its ΔW
            depends on W₀: here there is none.
    """
    return shared_found(method, targets, seeds=seeds, starts=starts, steps=steps).shares


def shared_found(
    method: Method,
    targets: Targets,
    *,
    seeds: Sequence[int] | None = None,
    starts: int = 4,
    steps: int = 100,
) -> Found:
    """`shared_reach`, and whether it is a lower bound."""
    if targets.dim() != 4 or targets.numel() == 0:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} are not (problem, layer, out, in)"
        )
    validation.finite("targets", targets)
    wanted = targets.detach().double()
    problems, layers, out, in_ = wanted.shape
    energy = wanted.square().sum((2, 3))
    if not energy.all():
        raise ValueError("targets: one layer's is zero: there is no energy to capture")
    checked_method("method", method)
    if method.needs_gradient:
        raise ValueError(f"{method} starts from the gradient of a loss, and there is none here")
    if type(method).shared is Method.shared:
        if depends_on_weight(method, wanted[0, 0]):
            raise ValueError(f"{method}: what ΔW can be depends on W₀, and there is none here")
        found = reaches(method, wanted.flatten(0, 1), starts=starts, steps=steps)
        shares = (torch.tensor(found).view_as(energy) * energy).sum(1) / energy.sum(1)
        return Found(shares, any(share.lower_bound for share in found))
    seeds = range(problems) if seeds is None else seeds
    if len(seeds) != problems:
        raise ValueError(f"seeds has {len(seeds)} entries for {problems} problems")
    if not isinstance(method, MoS):
        return _searched(method, wanted, seeds, starts, steps)
    wirings = {seed: Wiring.of(method, layers, out, in_, seed=seed) for seed in set(seeds)}
    if is_pure_sharing(method):
        # Σ_t ‖M_t − ΔW‖² is least where ΔW is nearest to the mean of all M_t.
        values = torch.linalg.svdvals(wanted.mean(1))[:, : method.budget * layers]
        return Found(layers * values.square().sum(1) / energy.sum(1), lower_bound=False)
    drawn = [wirings[seed] for seed in seeds]
    return Found(wired_reach(wanted, drawn, starts=starts, steps=steps), lower_bound=True)


def is_pure_sharing(method: Method) -> bool:
    """Whether all layers have the same ΔW."""
    if not isinstance(method, MoS):
        return False
    return method == MoS(None, method.budget, dissociate=False, alpha=method.alpha)


def _searched(
    method: Method, targets: Targets, seeds: Sequence[int], starts: int, steps: int
) -> Found:
    """One search for all layers that share, and for all problems of one seed."""
    shares, lower_bound = targets.new_zeros(len(targets)), False
    for seed in dict.fromkeys(seeds):
        adapters = on_layers(method, *targets.shape[1:], seed=seed)
        own = torch.tensor([other == seed for other in seeds])
        found = search(adapters, targets[own], starts=starts, steps=steps)
        shares[own], lower_bound = found.shares, lower_bound or found.lower_bound
    return Found(shares, lower_bound)


def on_layers(
    method: Method, layers: int, out_features: int, in_features: int, *, seed: int = 0
) -> list[Adapter]:
    """The method on so many layers at once, in float64, as `missviz.attach(…, seed=seed)` does."""
    weight = torch.ones(out_features, in_features, dtype=torch.float64)
    linears = nn.ModuleList(linear_with(weight) for _ in range(layers))
    attached = attach(linears, method, seed=seed)
    return [adapter for adapter in attached if isinstance(adapter, Adapter)]


@one_thread()
def wired_reach(
    targets: Targets, wirings: Sequence[Wiring], *, starts: int = 4, steps: int = 100
) -> Float[Tensor, " problem"]:
    """The largest share of Σ_t ‖M_t‖² that was found for pools with these wirings, one per problem.

    The problem is not convex. So this is a lower bound, from the best of `starts` random starts.
    """
    validation.positive_int("starts", starts)
    validation.positive_int("steps", steps)
    size = targets.shape[-1] // wirings[0].I_A.shape[-1]
    missed = torch.stack(
        [
            # The same start for every problem: a result does not depend on the company.
            (targets - fitted_updates(targets, wirings, start, steps)).square().sum((1, 2, 3))
            for n in range(starts)
            for start in [normal((wirings[0].shards, size), 1.0, generator_for("pool", n))]
        ]
    )
    return 1 - missed.amin(0) / targets.square().sum((1, 2, 3))


def fitted_updates(
    targets: Targets,
    wirings: Sequence[Wiring],
    start: Float[Tensor, "shards size"],
    steps: int,
) -> Targets:
    """Updates ΔW_t = B_t A_t near M_t that pools with these wirings can be.

    While P_A is fixed every A_t is known, and M_t ≈ B_t A_t is linear in P_B: least squares. The
    same holds for P_A while P_B is fixed. The two take turns, from P_A = `start`; no step makes
    Σ_t ‖M_t − ΔW_t‖² larger.
    """
    I_A, I_B = (torch.stack([getattr(w, name) for w in wirings]) for name in ("I_A", "I_B"))
    P_A = start.expand(len(wirings), -1, -1)
    P_B = start.new_zeros(len(wirings), wirings[0].shards, targets.shape[-2] // I_B.shape[-1])
    for _ in range(steps):
        P_B = _least_squares(P_B, I_B, _vectors(P_A, I_A), targets)
        P_A = _least_squares(P_A, I_A, _vectors(P_B, I_B), targets.mT)
    return _vectors(P_B, I_B).mT @ _vectors(P_A, I_A)


def _vectors(
    pool: Float[Tensor, "problem shards size"], indices: Int[Tensor, "problem layer r l"]
) -> Float[Tensor, "problem layer r l*size"]:
    return joined(pool.unsqueeze(1), indices)


def _least_squares(
    pool: Float[Tensor, "problem shards size"],
    indices: Int[Tensor, "problem layer r l"],
    other: Float[Tensor, "problem layer r n"],
    targets: Float[Tensor, "problem layer l*size n"],
) -> Float[Tensor, "problem shards size"]:
    """The pool P with Σ_j P[indices[t, j, c], i] · other[t, j] nearest to row i of slice c of M_t,
    over all layers t and slices c.

    Each i is a least-squares problem of its own, and all have the same normal equations but for
    their right-hand side.
    """
    slices, shards = indices.shape[-1], pool.shape[1]
    taken = nn.functional.one_hot(indices.movedim(-1, 2), shards).to(pool)  # [t, c, j, s]
    gram = taken.mT @ (other @ other.mT).unsqueeze(2) @ taken
    side = taken.mT @ (other @ targets.mT).unflatten(-1, (slices, -1)).movedim(3, 2)
    gram, side = gram.sum((1, 2)), side.sum((1, 2))
    hold = HOLD * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    return torch.linalg.solve(gram + hold * torch.eye(shards).to(gram), side + hold * pool)


def sharing_table(
    methods: Mapping[str, Method],
    alikes: Iterable[float],
    *,
    rank: int = 4,
    layers: int = 6,
    size: int = 24,
    seeds: Sequence[int] = range(10),
    starts: int = 4,
    steps: int = 100,
) -> pd.DataFrame:
    """`shared_reach` of each method on `layer_targets`: one row per method, alike and seed, with
    share, and at_least: whether a search found it, so that the reach may be larger.

    A seed decides both what the layers want and MoS's indices, the same at every c.
    """
    points = [(alike, seed) for alike in alikes for seed in seeds]
    targets = torch.stack(
        [
            layer_targets(
                alike, layers=layers, size=size, rank=rank, generator=generator_for("layers", seed)
            )
            for alike, seed in points
        ]
    )
    drawn = [seed for _, seed in points]
    tables = []
    for name, method in methods.items():
        found = shared_found(method, targets, seeds=drawn, starts=starts, steps=steps)
        table = pd.DataFrame(points, columns=["alike", "seed"])
        table.insert(0, "method", name)
        tables.append(table.assign(share=found.shares.numpy(), at_least=found.lower_bound))
    return pd.concat(tables, ignore_index=True)


def curves_of(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds with its 95 % interval (Student's t): method, alike, mean, low, high; and
    at_least, where one of the shares is that.

    `table` has method, alike, seed, share and at_least, as from `sharing_table`.
    """
    groups = table.groupby(["method", "alike"], sort=False)
    curves = groups["share"].agg(mean="mean", half=half_width)
    if "at_least" in table:
        curves["at_least"] = groups["at_least"].any()
    curves = curves.reset_index()
    half = curves.pop("half")
    return curves.assign(low=curves["mean"] - half, high=curves["mean"] + half)
