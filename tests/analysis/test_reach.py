"""Closed-form reach against brute force: least squares over every parameter, or alternating fits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_under_test import methods_and_shapes

import missviz as mv
from missviz.adapters.base import Method
from missviz.testing import random_linear


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def least_squares(method: Method, target: torch.Tensor, base: torch.Tensor) -> float:
    """For methods whose ΔW is linear in the trained numbers: fit all of them at once."""
    linear = torch.nn.Linear(*reversed(target.shape), bias=False).double()
    linear.weight.data = base
    adapter = method.on(linear)
    (parameter,) = [p for p in adapter.parameters() if p.requires_grad]
    columns = []
    for index in range(parameter.numel()):
        parameter.data.zero_()
        parameter.data.view(-1)[index] = 1.0
        columns.append(adapter.delta().detach().flatten().clone())
    A, M = torch.stack(columns, dim=1), target.flatten()
    fitted = A @ torch.linalg.lstsq(A, M, driver="gelsd").solution
    return 1 - float((M - fitted).square().sum() / M.square().sum())


def alternating(rank: int, target: torch.Tensor, offset: torch.Tensor) -> float:
    """Best B A − offset for `target`: fit B and A in turns (from several starts)."""
    wanted, best = target + offset, -math.inf
    for start in range(4):
        A = random(rank, target.shape[1], seed=start)
        for _ in range(1500):
            B = torch.linalg.lstsq(A.mT, wanted.mT, driver="gelsd").solution.mT
            A = torch.linalg.lstsq(B, wanted, driver="gelsd").solution
        missed = float((wanted - B @ A).square().sum())
        best = max(best, 1 - missed / float(target.square().sum()))
    return best


def is_linear(method: Method) -> bool:
    return not (
        isinstance(method, mv.PiSSA | mv.FullFineTuning)
        or (isinstance(method, mv.LoRA) and not method.freeze_a)
    )


@settings(max_examples=80)
@given(case=methods_and_shapes().filter(lambda case: is_linear(case[0])), seed=st.integers(0, 3))
def test_linear_methods(case: tuple[Method, int, int], seed: int) -> None:
    method, out_features, in_features = case
    target, base = (
        random(out_features, in_features, seed=seed),
        random(out_features, in_features, seed=9),
    )
    assert mv.reach(method, target, base) == pytest.approx(
        least_squares(method, target, base), abs=1e-9
    )


@pytest.mark.parametrize(("out_features", "in_features", "rank"), [(6, 5, 2), (4, 7, 1), (5, 5, 4)])
def test_lora_and_pissa(out_features: int, in_features: int, rank: int) -> None:
    target = random(out_features, in_features)
    linear = random_linear(out_features, in_features, torch.float64)
    base = linear.weight.detach()
    found = alternating(rank, target, torch.zeros_like(target))
    assert mv.reach(mv.LoRA(rank), target) == pytest.approx(found, abs=1e-6)
    adapter = mv.PiSSA(rank).on(linear)
    found = alternating(rank, target, (adapter.B0 @ adapter.A0).detach())
    assert mv.reach(mv.PiSSA(rank), target, base) == pytest.approx(found, abs=1e-6)


@given(case=methods_and_shapes(), seed=st.integers(0, 3))
def test_a_methods_own_updates_are_in_reach(case: tuple[Method, int, int], seed: int) -> None:
    from missviz.testing import randomise

    method, out_features, in_features = case
    linear = random_linear(out_features, in_features, torch.float64)
    adapter = method.on(linear)
    randomise(adapter, seed)
    share = mv.reach(method, adapter.delta().detach(), linear.weight.detach())
    assert share == pytest.approx(1, abs=1e-9)


def test_rank_is_not_reach() -> None:
    """Alternating signs within each owner's columns: rank 1, and MiSS touches nothing of it."""
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(4).repeat(2)
    target = random(8, 1) * signs
    assert torch.linalg.matrix_rank(target) == 1
    assert mv.reach(mv.MiSS(4), target) < 1e-12
    assert mv.reach(mv.LoRA(1), target) == pytest.approx(1)


def test_iid_target_keeps_r_over_k() -> None:
    target = random(4000, 24)
    assert mv.reach(mv.MiSS(6), target) == pytest.approx(6 / 24, rel=0.05)
    assert mv.reach(mv.FixedFactor(6, "orthogonal"), target) == pytest.approx(6 / 24, rel=0.05)


class Unknown(mv.LoRA.__bases__[0]):  # type: ignore[misc]
    name = "unknown"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return 0

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return 0

    def adapter(self, base, generator):
        raise AssertionError


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: mv.reach(mv.MiSS(2), torch.ones(4)),
            ValueError,
            r"target of shape \(out, in\), got \(4,\)",
        ),
        (lambda: mv.reach(mv.MiSS(2), torch.zeros(4, 4)), ValueError, "target is zero"),
        (
            lambda: mv.reach(mv.MiSS(2), torch.full((4, 4), math.nan)),
            ValueError,
            "16 values that are NaN",
        ),
        (
            lambda: mv.reach(mv.MiSS(9), torch.ones(4, 4)),
            ValueError,
            "rank=9 exceeds in_features=4",
        ),
        (
            lambda: mv.reach(mv.Bat(3), torch.ones(4, 4), torch.ones(4, 4)),
            ValueError,
            "block_size=3 does not",
        ),
        (lambda: mv.reach(mv.Bat(2), torch.ones(4, 4)), ValueError, "depends on W₀; give base"),
        (lambda: mv.reach(mv.PiSSA(2), torch.ones(4, 4)), ValueError, "depends on W₀; give base"),
        (
            lambda: mv.reach(mv.Bat(2), torch.ones(4, 4), torch.ones(4, 2)),
            ValueError,
            r"base is \(4, 2\)",
        ),
        (lambda: mv.reach(Unknown(), torch.ones(4, 4)), TypeError, "has no closed form"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
