"""Reach: how much of a wanted update a method can express at all. No training, closed form."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Adapter, Method, checked_method, linear_with
from missviz.adapters.bat import Bat, BatAdapter
from missviz.adapters.disha import DiSHA, DiSHAAdapter
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FrozenFineTuning, FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS, MiSSAdapter
from missviz.adapters.s2ft import S2FT, S2FTAdapter
from missviz.adapters.shards import shard_owner, shard_sums
from missviz.adapters.started import StartedProduct

Matrix = Float[Tensor, "out in_"]


def reach(
    method: Method,
    target: Matrix,
    base: Matrix | None = None,
    *,
    generator: torch.Generator | None = None,
    gradient: Matrix | None = None,
) -> float:
    """The largest share of ‖M‖² that ΔW can capture: max over ΔW of 1 − ‖M − ΔW‖² / ‖M‖².

    | method                       | how                                                        |
    |------------------------------|------------------------------------------------------------|
    | full and frozen fine-tuning  | 1                                                          |
    | LoRA                         | Σ of the r largest σ²(M) (Eckart-Young)                    |
    | PiSSA, OLoRA, LoRA-GA        | the same of M + s B₀A₀: what BA would have to be           |
    | FixedFactor, LoRA-FA         | projection of M on the rows of F                           |
    | MiSS, DiSHA                  | projection on T (columns), R (rows), both (mini, DiSHA)    |
    | S2FT                         | the chosen columns or rows of M                            |
    | Bat                          | least squares per D block                                  |

    Args:
        method: one of the above; random factors come from `generator` as in `method.on`.
        target: M (out, in).
        base: W₀ (out, in), which Bat and all that start at B₀A₀ need.
        generator: None means `method.on`'s default.
        gradient: ∂L/∂W₀ (out, in), which LoRA-GA starts from.

    Returns a number from 0 to 1.

    Raises:
        TypeError: `method` is none of the above.
        ValueError: M is not 2-D, not finite or zero; the method does not fit its shape; `base` or
            `gradient` is missing or of another shape.
    """
    checked_method("method", method)
    if target.dim() != 2 or target.numel() == 0:
        raise ValueError(f"expected a target of shape (out, in), got {tuple(target.shape)}")
    validation.finite("target", target)
    wanted = target.detach().double()
    energy = _energy(wanted)
    if energy == 0:
        raise ValueError("target is zero: there is no energy to capture")
    captured = next((how for kind, how in _CAPTURED.items() if isinstance(method, kind)), None)
    if captured is None:
        raise TypeError(f"the reach of {method} has no closed form here")
    if base is None and isinstance(method, StartedProduct | Bat):
        raise ValueError(f"{method}: what ΔW can be depends on W₀; give base")
    if base is not None and base.shape != target.shape:
        raise ValueError(f"base is {tuple(base.shape)}, the target {tuple(target.shape)}")
    # Without W₀ one zero stands for all of it.
    weight = wanted.new_zeros(1).expand(wanted.shape) if base is None else base.detach().to(wanted)
    linear = linear_with(weight)
    with torch.no_grad():
        if isinstance(method, FullFineTuning):
            return 1.0
        adapter = method.on(linear, generator=generator, gradient=gradient)
        return min(1.0, max(0.0, captured(adapter, wanted) / energy))


def _energy(matrix: Matrix) -> float:
    """‖M‖²: as the square of a norm, which needs no table of squares."""
    return float(torch.linalg.vector_norm(matrix)) ** 2


def _all(adapter: Adapter, wanted: Matrix) -> float:
    return _energy(wanted)


def _low_rank(adapter: Adapter, wanted: Matrix) -> float:
    if adapter.method.freeze_a:  # type: ignore[attr-defined]
        return _fixed_rows(adapter, wanted)
    return float(torch.linalg.svdvals(wanted)[: adapter.method.rank].square().sum())  # type: ignore[attr-defined]


def _started(adapter: Adapter, wanted: Matrix) -> float:
    method = adapter.method
    assert isinstance(method, StartedProduct)
    start = method.scaling * (adapter.B0 @ adapter.A0)  # type: ignore[operator]
    missed = torch.linalg.svdvals(wanted + start)[method.rank :].square().sum()
    return float(wanted.square().sum() - missed)


def _fixed_rows(adapter: Adapter, wanted: Matrix) -> float:
    thin = adapter.factors()
    assert thin is not None
    return _energy(_onto_rows(wanted, thin[1]))


def _chosen(adapter: Adapter, wanted: Matrix) -> float:
    assert isinstance(adapter, S2FTAdapter)
    columns = adapter.method.select == "columns"
    return _energy(wanted.index_select(1 if columns else 0, adapter.idx))


def _copies(adapter: Adapter, wanted: Matrix) -> float:
    assert isinstance(adapter, MiSSAdapter | DiSHAAdapter)
    rows, columns = adapter.D.shape
    layout = str(adapter.method.layout) if isinstance(adapter, MiSSAdapter) else "tiled"
    # Places that share an entry become their mean. The sum over n of them, divided by √n, has the
    # energy of n means. A side that is not shared has n = 1.
    for count in (columns, rows):
        if count < wanted.shape[1]:
            owner = shard_owner(wanted.shape[1], count, layout, wanted.device)
            wanted = shard_sums(wanted, count, layout) / owner.bincount().to(wanted).sqrt()
        wanted = wanted.mT
    return _energy(wanted)


def _bat(adapter: Adapter, wanted: Matrix) -> float:
    assert isinstance(adapter, BatAdapter)
    b = adapter.method.block_size
    # [o, i, a, c]: entry (a, c) of block (o, i). ΔW_oi is (W_oi + I) D, or D (W_oi + I).
    known = adapter.blocks().transpose(-3, -2) + torch.eye(b).to(wanted)
    asked = wanted.unflatten(-1, (-1, b)).unflatten(-3, (-1, b)).transpose(-3, -2)
    if adapter.method.index == "input":
        known, asked = known.transpose(0, 1), asked.transpose(0, 1)
    if adapter.method.side == "left":
        known, asked = known.mT, asked.mT
    # One D block per leading index; all blocks that it serves are stacked as rows.
    known, asked = known.flatten(1, 2), asked.flatten(1, 2)
    fitted = known @ torch.linalg.lstsq(known, asked, driver="gelsd").solution
    return _energy(asked) - _energy(asked - fitted)


def _onto_rows(wanted: Matrix, rows: Float[Tensor, "r in_"]) -> Matrix:
    """`wanted` with each row projected on the span of `rows`, in an orthonormal basis of it."""
    U, S, _ = torch.linalg.svd(rows.mT, full_matrices=False)
    return wanted @ U[:, 1e-10 * S.max() < S]


_CAPTURED: dict[type[Method], Callable[[Adapter, Matrix], float]] = {
    FullFineTuning: _all,
    FrozenFineTuning: _all,
    LoRA: _low_rank,
    StartedProduct: _started,  # type: ignore[type-abstract]
    FixedFactor: _fixed_rows,
    MiSS: _copies,
    DiSHA: _copies,
    S2FT: _chosen,
    Bat: _bat,
}
