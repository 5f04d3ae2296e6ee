"""Reach: how much of a wanted update a method can express at all. No training."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Method, checked_method
from missviz.adapters.bat import BatAdapter, InputBatAdapter, LeftBatAdapter, OutputBatAdapter
from missviz.adapters.disha import DiSHAAdapter
from missviz.adapters.dora import DoRA
from missviz.adapters.fixed_factor import FixedFactorAdapter
from missviz.adapters.full import FrozenFineTuningAdapter, FullFineTuningAdapter
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import FrozenALoRAAdapter, LoRAAdapter, LoRAPlusAdapter
from missviz.adapters.miss import MiSSAdapter
from missviz.adapters.s2ft import ColumnsS2FTAdapter, RowsS2FTAdapter, S2FTAdapter
from missviz.adapters.shards import shard_owner, shard_sums
from missviz.adapters.started import StartedProductAdapter
from missviz.analysis.reach_search import STARTS, STEPS, search, update_of
from missviz.randomness import generator_for, normal

Matrix = Float[Tensor, "out in_"]
Inputs = Float[Tensor, "n in_"]
Seen = Float[Tensor, "out n"]
"""What a matrix makes of n inputs; the matrix itself where there are none."""

ROUNDING = 1e-12
"""Of ‖M‖ ‖X‖: an M Xᵀ that is no larger counts as zero."""
BESIDE_START = 1e-12
"""Of ‖B₀A₀‖: a smaller M leaves no digit in their sum."""


class Share(float):
    """A share of ‖M‖², 0 to 1: a float that knows whether it is only *at least* that much."""

    lower_bound: bool
    """True where the method has no closed form and a search found it; the reach may be larger."""

    def __new__(cls, value: float, lower_bound: bool = False) -> "Share":
        share = super().__new__(cls, value)
        share.lower_bound = lower_bound
        return share


def reach(
    method: Method,
    target: Matrix,
    base: Matrix | None = None,
    *,
    generator: torch.Generator | None = None,
    gradient: Matrix | None = None,
    x: Inputs | None = None,
) -> Share:
    """The largest share of ‖M‖² that ΔW can capture: max over ΔW of 1 − ‖M − ΔW‖² / ‖M‖².

    On inputs x = X it is the share of what M makes of them: max over ΔW of
    1 − ‖(M − ΔW) Xᵀ‖² / ‖M Xᵀ‖². With XᵀX = RᵀR (QR) that is the norm after · Rᵀ: below, M Rᵀ,
    A₀ Rᵀ and F Rᵀ then stand in the place of M, A₀ and F.

    | method                       | how                                                        |
    |------------------------------|------------------------------------------------------------|
    | full and frozen fine-tuning  | 1                                                          |
    | LoRA                         | Σ of the r largest σ²(M) (Eckart-Young)                    |
    | PiSSA, OLoRA, LoRA-GA        | the same of M + s B₀A₀: what BA would have to be           |
    | FixedFactor, LoRA-FA         | projection of M on the rows of F                           |
    | MiSS, DiSHA                  | the same with copied columns as F, copied rows on the      |
    |                              | other side, or both (mini, DiSHA)                          |
    | S2FT                         | the chosen rows of M; the chosen columns are such an F     |
    | Bat                          | least squares per D block; on inputs, where D belongs to   |
    |                              | an input block, it is of the next kind                     |
    | another, linear in all       | least squares over all trained numbers                     |
    | any other, the reader's too  | a **lower bound**: it searches, in float64, by L-BFGS from |
    |                              | several starts (`missviz.analysis.reach_search`)           |

    Args:
        method: any Method; random factors come from `generator` as in `method.on`.
        target: M (out, in): a tensor, an array, or lists of numbers.
        base: W₀ (out, in), likewise, where ΔW depends on it: Bat, DoRA, and all that start at B₀A₀.
        generator: None means `method.on`'s default.
        gradient: ∂L/∂W₀ (out, in), which LoRA-GA starts from.
        x: X (n, in), inputs of your own. Only XᵀX matters, and its scale does not; None means any
            with XᵀX = 1, such as the identity.

    Returns a number from 0 to 1, whose `lower_bound` says whether it was searched for. A search
    takes about a second on 64 × 64. On a layer with more than 2**18 weights it makes fewer starts
    and steps (`reach_search.search`), and so may find less: about ten seconds on 1024 × 1024.

    Raises:
        TypeError: `method` is no Method, `target` or `base` no matrix of real numbers, `x` no
            tensor of floating-point numbers.
        ValueError: M is not 2-D, not finite, zero, or lost in rounding beside B₀A₀; the method does
            not fit its shape; its `delta()` raises something or is not finite; `base` or `gradient`
            is missing, not finite or of another shape; `x` is not (n, in) or not finite, or M Xᵀ is
            zero.
    """
    checked_method("method", method)
    target = _matrix("target", target)
    if target.dim() != 2 or target.numel() == 0:
        raise ValueError(f"expected a target of shape (out, in), got {tuple(target.shape)}")
    if base is not None:
        base = _matrix("base", base)
        if base.shape != target.shape:
            raise ValueError(f"base is {tuple(base.shape)}, the target {tuple(target.shape)}")
    (share,) = reaches(method, target[None], base, generator=generator, gradient=gradient, x=x)
    return share


def _matrix(name: str, value: Any) -> Tensor:
    """A tensor of real numbers from a tensor, an array or lists of numbers."""
    if not isinstance(value, Tensor):
        try:
            array = np.asarray(value)
        except ValueError:  # rows of different lengths
            array = np.array(None)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{name} of type {type(value).__name__} is no matrix of real numbers")
        return torch.from_numpy(array.astype(np.float64))
    if value.layout is not torch.strided or value.is_quantized:
        raise TypeError(f"{name} is sparse or quantised; give a plain tensor")
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} of dtype {value.dtype} does not hold real numbers")
    return value


def reaches(
    method: Method,
    targets: Float[Tensor, "target out in_"],
    base: Matrix | None = None,
    *,
    generator: torch.Generator | None = None,
    gradient: Matrix | None = None,
    x: Inputs | None = None,
    starts: int = STARTS,
    steps: int = STEPS,
) -> list[Share]:
    """`reach` of several targets on one layer; a search takes little longer than for one.

    Args:
        starts, steps: of the search, where there is one.
    """
    checked_method("method", method)
    validation.finite("target", targets)
    if base is not None:
        validation.finite("base", base)
    wanted = targets.detach().double()
    if not all(map(_largest, wanted)):
        raise ValueError("target is zero: there is no energy to capture")
    if base is None and depends_on_weight(method, wanted[0], generator, gradient):
        raise ValueError(f"{method}: what ΔW can be depends on W₀; give base")
    inputs = None if x is None else thin_factor(x, wanted)
    units = [_unit(M) for M in wanted]
    in_units = (M if unit == 1 else M / unit for M, unit in zip(wanted, units, strict=True))
    asked = [seen(M, inputs) for M in in_units]
    adapter = _bound(method, wanted[0], base, generator, gradient)
    captured = _closed_form(adapter)
    # Each input meets all D blocks then: no block has a problem of its own.
    joint = inputs is not None and isinstance(adapter, InputBatAdapter)
    if captured is None or joint:
        found = search([adapter], wanted[:, None], inputs, starts=starts, steps=steps)
        return [Share(share, found.lower_bound) for share in found.shares.tolist()]
    for name, numbers in adapter.named_parameters():
        if not name.startswith("base."):
            validation.finite(f"{name} of {method.name}", numbers)
    with torch.no_grad():
        shares = [
            captured(adapter, M, inputs, unit) / _energy(M)
            for M, unit in zip(asked, units, strict=True)
        ]
    return [Share(min(1.0, max(0.0, share))) for share in shares]


def _unit(M: Matrix) -> float:
    """1, or for entries whose squares leave the range of numbers a power of two of their size,
    which changes no digit."""
    size = _largest(M)
    return 1.0 if 1e-100 < size < 1e100 else 2.0 ** math.frexp(size)[1]


def _largest(M: Matrix) -> float:
    """The largest magnitude, without a table of magnitudes."""
    return max(-float(M.min()), float(M.max()))


def thin_factor(x: Inputs, like: Float[Tensor, "*target out in_"]) -> Inputs:
    """R with RᵀR ∝ XᵀX and no more rows than X has rows or columns, in `like`'s type.

    Raises TypeError or ValueError where X is not what `reach` takes.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError("x is not a tensor of floating-point numbers")
    if x.dim() != 2 or len(x) == 0 or x.shape[1] != like.shape[-1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; inputs of this layer are (n, {like.shape[-1]})"
        )
    validation.finite("x", x)
    inputs = x.detach().to(like)
    largest = inputs.abs().max()
    if not largest:
        raise ValueError("x is zero: M makes nothing of it")
    # By the largest entry, so that no square leaves the range of numbers.
    factor: Tensor = torch.linalg.qr(inputs / largest, mode="r").R
    return factor


def seen(target: Matrix, inputs: Inputs | None) -> Seen:
    """M Rᵀ; ValueError where these inputs see nothing of M."""
    made = _on(target, inputs)
    if inputs is not None:
        most = torch.linalg.vector_norm(target) * torch.linalg.vector_norm(inputs)
        if torch.linalg.vector_norm(made) <= ROUNDING * most:
            raise ValueError("M Xᵀ is zero: the target makes nothing of the inputs x")
    return made


def _on(matrix: Float[Tensor, "rows in_"], inputs: Inputs | None) -> Float[Tensor, "rows n"]:
    return matrix if inputs is None else matrix @ inputs.mT


def _bound(
    method: Method,
    like: Matrix,
    base: Matrix | None,
    generator: torch.Generator | None,
    gradient: Matrix | None,
) -> Adapter:
    """The adapter in float64, with the gradient that its numbers have: DoRA's own is none."""
    if isinstance(method, DoRA):
        method = replace(method, norm_gradient=True)
    # Ones take no memory here, and nobody's norm is zero.
    weight = like.new_ones(()).expand(like.shape) if base is None else base.detach().to(like)
    bias = like.new_zeros(len(like))
    return method.on(linear_with(weight, bias), generator=generator, gradient=gradient)


def depends_on_weight(
    method: Method,
    like: Matrix,
    generator: torch.Generator | None = None,
    gradient: Matrix | None = None,
) -> bool:
    """Whether the same step away from the start gives another ΔW on another W₀."""
    adapter = _bound(method, like, None, generator, gradient)
    if (captured := _closed_form(adapter)) is not None:
        return captured in (_started, _bat)
    other = normal(tuple(like.shape), 1.0, generator_for("another W₀"))
    here = _moved(adapter).nan_to_num()
    there = _moved(_bound(method, like, other, generator, gradient)).nan_to_num()
    return not torch.allclose(here, there, rtol=0, atol=1e-9 * float(here.abs().max()))


@torch.no_grad()
def _moved(adapter: Adapter) -> Matrix:
    """ΔW after a random step of each trained number."""
    update_of(adapter)
    for name, parameter in adapter.named_parameters():
        if parameter.requires_grad:
            step = normal(tuple(parameter.shape), 1.0, generator_for("reach", name))
            parameter.add_(step.to(parameter))
    return adapter.delta().detach()


def _energy(matrix: Matrix) -> float:
    """‖M‖²: as the square of a norm, which needs no table of squares."""
    return float(torch.linalg.vector_norm(matrix)) ** 2


def _all(adapter: Adapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    return _energy(wanted)


def _low_rank(adapter: LoRAAdapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    return float(torch.linalg.svdvals(wanted)[: len(adapter.A)].square().sum())


def _started(
    adapter: StartedProductAdapter, wanted: Seen, inputs: Inputs | None, unit: float
) -> float:
    start = adapter.method.scaled(adapter.B0) @ _on(adapter.A0, inputs) / unit
    if not BESIDE_START * torch.linalg.vector_norm(start) <= torch.linalg.vector_norm(wanted):
        raise ValueError(
            f"target is lost in rounding beside the B₀A₀ that {adapter.method.name} starts from; "
            "give a larger target or a smaller base"
        )
    missed = torch.linalg.svdvals(wanted + start)[len(adapter.A) :].square().sum()
    return float(wanted.square().sum() - missed)


def _fixed_rows(adapter: Adapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    thin = adapter.factors()
    assert thin is not None
    return _energy(_onto_rows(wanted, _on(thin[1], inputs)))


def _chosen(adapter: S2FTAdapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    if adapter.method.select == "rows":
        return _energy(wanted.index_select(0, adapter.idx))
    if inputs is None:
        return _energy(wanted.index_select(1, adapter.idx))
    return _energy(_onto_rows(wanted, inputs.index_select(1, adapter.idx).mT))


def _miss(adapter: MiSSAdapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    return _copies(adapter.D, wanted, inputs, str(adapter.method.layout))


def _disha(adapter: DiSHAAdapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    return _copies(adapter.D, wanted, inputs, "tiled")


def _copies(D: Tensor, wanted: Seen, inputs: Inputs | None, layout: str) -> float:
    rows, columns = D.shape
    if inputs is None:
        wanted = _shared(wanted, columns, layout)
    else:
        wanted = _onto_rows(wanted, shard_sums(inputs, columns, layout).mT)
    return _energy(_shared(wanted.mT, rows, layout))


def _shared(
    wanted: Float[Tensor, "other size"], count: int, layout: str
) -> Float[Tensor, "other count"]:
    """With the energy of `wanted` where places that share an entry are their mean: the sum over n
    of them, divided by √n, has the energy of n means. A side that is not shared has n = 1."""
    if count == wanted.shape[1]:
        return wanted
    owner = shard_owner(wanted.shape[1], count, layout, wanted.device)
    return shard_sums(wanted, count, layout) / owner.bincount().to(wanted).sqrt()


def _bat(adapter: BatAdapter, wanted: Seen, inputs: Inputs | None, unit: float) -> float:
    b = adapter.method.block_size
    # [o, i, a, c]: entry (a, c) of block (o, i). ΔW_oi is (W_oi + I) D, or D (W_oi + I).
    known = adapter.blocks().transpose(-3, -2) + torch.eye(b).to(wanted)
    if inputs is not None:
        return _bat_on(inputs, known, wanted, left=adapter.method.side == "left")
    asked = wanted.unflatten(-1, (-1, b)).unflatten(-3, (-1, b)).transpose(-3, -2)
    if adapter.method.index == "input":
        known, asked = known.transpose(0, 1), asked.transpose(0, 1)
    if adapter.method.side == "left":
        known, asked = known.mT, asked.mT
    # One D block per leading index; all blocks that it serves are stacked as rows.
    return _fitted(known.flatten(1, 2), asked.flatten(1, 2))


def _bat_on(inputs: Inputs, known: Float[Tensor, "o i b b"], wanted: Seen, *, left: bool) -> float:
    """Each block row o has a D of its own: Σ_i (W_oi + I) D R_iᵀ, or D Σ_i (W_oi + I) R_iᵀ."""
    b = known.shape[-1]
    parts = inputs.unflatten(-1, (-1, b))
    captured = 0.0
    # One block row after the other: the system of all is b² times as large as M Rᵀ.
    for row, asked in zip(known, wanted.unflatten(0, (-1, b)), strict=True):
        if left:
            captured += _fitted(torch.einsum("iac,qic->qa", row, parts), asked.mT)
        else:
            system = torch.einsum("iac,qie->aqce", row, parts)
            captured += _fitted(system.flatten(2).flatten(0, 1), asked.reshape(-1, 1))
    return captured


def _fitted(system: Float[Tensor, "*batch m n"], asked: Float[Tensor, "*batch m columns"]) -> float:
    """The energy of what the columns of `system` can be of `asked`."""
    made = system @ torch.linalg.lstsq(system, asked, driver="gelsd").solution
    return _energy(asked) - _energy(asked - made)


def _onto_rows(
    wanted: Float[Tensor, "out n"], rows: Float[Tensor, "r n"]
) -> Float[Tensor, "out rank"]:
    """`wanted` with each row projected on the span of `rows`, in an orthonormal basis of it."""
    U, S, _ = torch.linalg.svd(rows.mT, full_matrices=False)
    return wanted @ U[:, 1e-10 * S.max() < S]


Captured = Callable[[Any, Seen, Inputs | None, float], float]
"""Of an adapter, a target in a unit, inputs, and the unit: the energy that is reached."""

_CAPTURED: dict[type[Adapter], dict[tuple[str, ...], Captured]] = {
    FullFineTuningAdapter: {("W",): _all, ("W", "b"): _all},
    FrozenFineTuningAdapter: {("M",): _all},
    LoRAAdapter: {("A", "B"): _low_rank, ("B",): _fixed_rows},
    FrozenALoRAAdapter: {("B",): _fixed_rows},
    LoRAPlusAdapter: {("A", "B"): _low_rank},
    StartedProductAdapter: {("A", "B"): _started},
    FixedFactorAdapter: {("D",): _fixed_rows},
    MiSSAdapter: {("D",): _miss},
    DiSHAAdapter: {("D",): _disha},
    ColumnsS2FTAdapter: {("M",): _chosen},
    RowsS2FTAdapter: {("M",): _chosen},
    OutputBatAdapter: {("D",): _bat},
    InputBatAdapter: {("D",): _bat},
    LeftBatAdapter: {("D",): _bat},
}
"""By the very class and what of it is trained: a subclass may have a formula of its own, and a
number that somebody froze is one that no closed form counts on."""


def _closed_form(adapter: Adapter) -> Captured | None:
    trained = sorted(name for name, p in adapter.named_parameters() if p.requires_grad)
    if not vars(adapter).keys().isdisjoint(("delta", "factors")):
        return None  # somebody gave this one adapter another formula
    return _CAPTURED.get(type(adapter), {}).get(tuple(trained))
