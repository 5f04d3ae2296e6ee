"""Where ΔW is a product of thin factors, nothing of its size is made on the way to its numbers.

What PyTorch allocates is recorded by its own profiler, workspace inside of operations included.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import close
from methods_under_test import VARIANTS
from torch import nn
from torch.profiler import ProfilerActivity, profile

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.adapters.linear import linear_with
from missviz.analysis.inspection import PART
from missviz.testing import bound, random_linear, randomise

OUT, IN, RANK = 768, 1024, 16
MOST = 4
"""How many times the bytes of the factors may be in memory beside them."""


class Allocated(NamedTuple):
    """Bytes: the largest piece, and the most at one time beyond what was there before."""

    largest: int
    peak: int


def allocated(work: Callable[[], Any]) -> Allocated:
    work()  # what is made at first use, and kept
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    del kept
    now = peak = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak, largest = max(peak, now), max(largest, event.nbytes())
    return Allocated(largest, peak)


def adapted(method: Method, linear: nn.Linear) -> Adapter:
    adapter = bound(method, linear)
    randomise(adapter)
    return adapter


def holder(adapter: Adapter) -> nn.Module:
    model = nn.Module()
    model.add_module("fc", adapter)
    return model


def size_of_factors(adapter: Adapter) -> int | None:
    thin = adapter.factors()
    return None if thin is None else sum(4 * factor.numel() for factor in thin)


def at_rank(method: Method) -> Method:
    """With a ΔW of rank 16, where it has a rank; LoHa's is the square of what it is set to."""
    return method.with_rank(math.isqrt(RANK) if isinstance(method, mv.LoHa) else RANK)


AT_RANK = {method.name: method for method in map(at_rank, VARIANTS)}


@pytest.mark.parametrize("method", AT_RANK.values(), ids=str)
def test_nothing_of_the_size_of_delta_is_built(method: Method) -> None:
    adapter = adapted(method, random_linear(OUT, IN, torch.float32))
    factors = size_of_factors(adapter)
    if factors is None:
        full = method.rank_bound(OUT, IN) == min(OUT, IN)
        assert full or method.name.startswith("DoRA"), "thin, and without factors"
        return
    model = holder(adapter)
    # What does not grow with the factors: all singular values, and their shares.
    few = 8 * 8 * min(OUT, IN)
    for work, more in (
        (adapter.factors, 0),
        (lambda: mv.spectrum(adapter), few),
        (lambda: mv.spectra(model), few),
        (lambda: mv.inspect_adapter(model), few + 8 * PART),
    ):
        made = allocated(work)
        assert made.peak <= MOST * factors + more
        # A factor in float64, or less than a byte for each cell of d × d: no mask of that size.
        assert made.largest < max(OUT**2, 2 * factors)


STORED = [mv.LoRA(RANK), mv.LoHa(4), mv.MiSS(RANK), mv.MiSS(RANK, mini=4), mv.AdaLoRA(RANK)]


@pytest.mark.parametrize("method", [*STORED, mv.VeRA(RANK)], ids=str)
def test_nor_from_a_folder(method: Method, tmp_path: Path) -> None:
    model = nn.ModuleDict({"fc": random_linear(OUT, IN, torch.float32)})
    attached = mv.attach(model, method)
    randomise(attached)
    mv.write_peft(attached, tmp_path)
    adapter = mv.read_peft(tmp_path, base=model)
    delta = attached["fc"].delta().detach()
    assert close(torch.linalg.multi_dot(adapter["fc"].factors()), delta, 1e-5)
    factors = size_of_factors(attached["fc"])
    assert factors is not None
    few = 8 * 8 * min(OUT, IN)
    for work, more in (
        (lambda: mv.spectrum(adapter["fc"]), few),
        (lambda: mv.inspect_adapter(adapter), few + 8 * PART),
    ):
        made = allocated(work)
        assert made.peak <= MOST * factors + more
        assert made.largest < OUT**2


BIG = [
    mv.LoRA(64),
    mv.PiSSA(64, niter=2),
    mv.MiSS(64),
    mv.MiSS(64, layout="block"),
    mv.MiSS(64, share="rows"),
    mv.MiSS(64, mini=64),
    mv.DiSHA(4096, 64),
    mv.DiSHA(64, 4096),
    mv.S2FT(64, "rows"),
    mv.MoS(64, 64),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", BIG, ids=str)
def test_a_large_layer_takes_four_times_the_factors_at_most(method: Method) -> None:
    adapter = adapted(method, linear_with(torch.ones(1).expand(4096, 4096)))
    factors = size_of_factors(adapter)
    assert factors is not None
    assert allocated(lambda: mv.spectrum(adapter)).peak <= MOST * factors


FIXED = [mv.FixedFactor(RANK, "orthogonal"), mv.LoRA(RANK, freeze_a=True), mv.MiSS(RANK)]
FIXED += [mv.MiSS(RANK, share="rows"), mv.MiSS(RANK, mini=4), mv.DiSHA(768, 4)]
FIXED += [mv.S2FT(RANK), mv.S2FT(RANK, "rows")]


@pytest.mark.parametrize("method", FIXED, ids=str)
def test_reach_by_projection_builds_nothing_as_large_as_its_target(method: Method) -> None:
    """The others need singular values of the target, or of W₀, whose size that is."""
    target = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert allocated(lambda: mv.reach(method, target)).largest < 8 * OUT * IN / 10


def test_the_watch_sees_a_table_that_is_thrown_away() -> None:
    made = allocated(lambda: torch.eye(OUT, dtype=torch.bool).sum())
    assert made.largest >= OUT**2
    assert made.peak >= OUT**2
