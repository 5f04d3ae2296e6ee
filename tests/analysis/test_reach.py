"""Closed-form reach against brute force: least squares over every parameter, or alternating fits."""

import math

import pytest
import torch
from helpers import raises_one_sentence, random
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_under_test import VARIANTS, methods_and_shapes

import missviz as mv
from missviz.adapters.base import Method
from missviz.testing import random_linear, randomise


def least_squares(
    method: Method, target: torch.Tensor, base: torch.Tensor, x: torch.Tensor | None = None
) -> float:
    """For methods whose ΔW is linear in the trained numbers: fit all of them at once."""
    x = torch.eye(target.shape[1], dtype=torch.float64) if x is None else x
    linear = torch.nn.Linear(*reversed(target.shape), bias=False).double()
    linear.weight.data = base
    adapter = method.on(linear)
    (parameter,) = [p for p in adapter.parameters() if p.requires_grad]
    columns = []
    for index in range(parameter.numel()):
        parameter.data.zero_()
        parameter.data.view(-1)[index] = 1.0
        columns.append((adapter.delta().detach() @ x.mT).flatten())
    A, M = torch.stack(columns, dim=1), (target @ x.mT).flatten()
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


def has_reach(method: Method) -> bool:
    """VeRA's and MoS's updates are products of what they train with what is drawn or shared."""
    return not isinstance(method, mv.VeRA | mv.MoS)


def is_linear(method: Method) -> bool:
    return has_reach(method) and not (
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


@pytest.mark.slow
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


@given(case=methods_and_shapes().filter(lambda case: has_reach(case[0])), seed=st.integers(0, 3))
def test_a_methods_own_updates_are_in_reach(case: tuple[Method, int, int], seed: int) -> None:
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


@settings(max_examples=40)
@given(out=st.integers(1, 6), in_=st.integers(1, 14), data=st.data())
def test_tiled_miss_is_a_projection(out: int, in_: int, data: st.DataObject) -> None:
    """Also where r does not divide k: P replaces columns that share by their mean."""
    r = data.draw(st.integers(1, in_))
    T = (torch.arange(in_) % r == torch.arange(r).unsqueeze(1)).double()
    P = T.mT @ torch.diag(1 / T.sum(1)) @ T
    torch.testing.assert_close(P @ P, P)
    target = random(out, in_, seed=in_)
    share = (target @ P).square().sum() / target.square().sum()
    assert mv.reach(mv.MiSS(r), target) == pytest.approx(share.item(), abs=1e-12)


@pytest.mark.slow
@settings(max_examples=25)
@given(
    case=methods_and_shapes().filter(lambda case: is_linear(case[0]) and case[1] * case[2] < 150)
)
def test_shares_of_all_cells_sum_to_the_trained_numbers(case: tuple[Method, int, int]) -> None:
    """A linear method's updates are a subspace, so a random target keeps numbers/cells on average:
    summed over any orthonormal basis of targets, reach is the trace of the projector. Rank is not in
    it: Bat's is full."""
    method, out_features, in_features = case
    base = random(out_features, in_features, seed=9)
    total = 0.0
    for cell in torch.eye(out_features * in_features, dtype=torch.float64):
        total += mv.reach(method, cell.reshape(out_features, in_features), base)
    numbers = method.num_parameters(out_features, in_features)
    assert total == pytest.approx(numbers, abs=1e-6)


def test_bat_of_block_size_1_has_full_rank_and_few_directions() -> None:
    """12 numbers, rank 12 of 12, and 12/144 of the targets."""
    linear = random_linear(12, 12, torch.float64)
    adapter = mv.Bat(1).on(linear)
    randomise(adapter)
    values = mv.spectrum(adapter)
    assert (values > 1e-9 * values[0]).sum() == 12
    targets = [random(12, 12, seed=seed) for seed in range(300)]
    shares = [mv.reach(mv.Bat(1), target, linear.weight.detach()) for target in targets]
    assert sum(shares) / 300 == pytest.approx(12 / 144, rel=0.1)


def test_more_numbers_may_reach_less() -> None:
    target = random(24, 4).repeat(1, 6)
    shares = {r: mv.reach(mv.MiSS(r), target) for r in (1, 2, 3, 4, 5, 6, 8, 12, 24)}
    whole = {r for r, share in shares.items() if share > 1 - 1e-12}
    assert whole == {4, 8, 12, 24}
    # Period 4 and period 6 have period 2 in common, so r = 6 is no better than r = 2.
    assert shares[6] == pytest.approx(shares[2])


def test_pissa_of_small_targets_is_its_tangent_space_and_of_large_ones_lora() -> None:
    """Near B₀ A₀ the products B A form a surface; its tangent leaves out what both of W₀'s top
    singular spaces miss. Far from it B₀ A₀ does not count."""
    linear = random_linear(10, 12, torch.float64)
    base, target = linear.weight.detach(), random(10, 12)
    U, _, Vh = torch.linalg.svd(base, full_matrices=False)
    left, right = U[:, :3] @ U[:, :3].mT, Vh[:3].mT @ Vh[:3]
    missed = (torch.eye(10) - left) @ target @ (torch.eye(12) - right)
    tangent = 1 - (missed.square().sum() / target.square().sum()).item()
    assert mv.reach(mv.PiSSA(3), 1e-5 * target, base) == pytest.approx(tangent, abs=1e-4)
    lora = mv.reach(mv.LoRA(3), target)
    assert mv.reach(mv.PiSSA(3), 1e6 * target, base) == pytest.approx(lora, abs=1e-4)
    assert tangent < lora


def test_twice_the_rank_wins_only_on_pissas_own_updates() -> None:
    linear = random_linear(16, 16, torch.float64)
    adapter = mv.PiSSA(2).on(linear)
    randomise(adapter)
    own, base = adapter.delta().detach(), linear.weight.detach()
    assert torch.linalg.matrix_rank(own) == 4
    assert mv.reach(mv.LoRA(2), own) < mv.reach(mv.PiSSA(2), own, base) == pytest.approx(1)
    other = random(16, 16) * base.norm() / 32
    assert mv.reach(mv.LoRA(2), other) > mv.reach(mv.PiSSA(2), other, base)


# --- On inputs ------------------------------------------------------------------------------------


def inputs(count: int, in_features: int, seed: int = 0) -> torch.Tensor:
    """Correlated, of very different sizes, and with a mean: not what rotations leave as it is."""
    mixed = random(count, in_features, seed=seed) @ random(in_features, in_features, seed=seed + 1)
    return mixed * torch.logspace(0, -2, in_features, dtype=torch.float64) + 0.3


@pytest.mark.slow
@settings(max_examples=80)
@given(
    case=methods_and_shapes().filter(lambda case: is_linear(case[0])),
    count=st.integers(1, 24),
    seed=st.integers(0, 3),
)
def test_linear_methods_on_inputs(case: tuple[Method, int, int], count: int, seed: int) -> None:
    method, out_features, in_features = case
    target, base = (random(out_features, in_features, seed=s) for s in (seed, 9))
    x = inputs(count, in_features, seed)
    share = mv.reach(method, target, base, x=x)
    assert not share.lower_bound
    assert share == pytest.approx(least_squares(method, target, base, x), abs=1e-7)


CLOSED = (mv.LoRA, mv.FixedFactor, mv.MiSS, mv.Bat, mv.S2FT, mv.DiSHA)
LINEAR = [m for m in VARIANTS if isinstance(m, CLOSED) and is_linear(m)]


@pytest.mark.parametrize("count", [1, 5, 30])
@pytest.mark.parametrize("method", LINEAR, ids=lambda method: method.name)
def test_every_linear_method_on_inputs(method: Method, count: int) -> None:
    """Each for certain, where the shapes above are drawn."""
    target, base, x = random(12, 16), random(12, 16, seed=9), inputs(count, 16)
    share = mv.reach(method, target, base, x=x)
    assert share == pytest.approx(least_squares(method, target, base, x), abs=1e-7)


@settings(max_examples=60)
@given(out=st.integers(1, 10), in_=st.integers(1, 10), count=st.integers(1, 16), data=st.data())
@pytest.mark.parametrize("make", [mv.LoRA, mv.PiSSA])
def test_products_on_inputs(make, out: int, in_: int, count: int, data: st.DataObject) -> None:
    """No product of rank r makes outputs nearer to M Xᵀ, by Eckart-Young of these outputs, and one
    makes them: M + B₀A₀, with its rows projected on their top left singular vectors."""
    rank = data.draw(st.integers(1, min(out, in_)))
    target, base, x = random(out, in_), random(out, in_, seed=9), inputs(count, in_)
    linear = torch.nn.Linear(in_, out, bias=False).double()
    linear.weight.data = base
    adapter = make(rank).on(linear)
    start = (adapter.B0 @ adapter.A0).detach() if make is mv.PiSSA else torch.zeros_like(target)
    U, S, _ = torch.linalg.svd((target + start) @ x.mT, full_matrices=False)
    energy = float((target @ x.mT).square().sum())
    share = mv.reach(make(rank), target, base, x=x)
    assert share == pytest.approx(1 - float(S[rank:].square().sum()) / energy, abs=1e-9)
    made = U[:, :rank] @ U[:, :rank].mT @ (target + start) - start
    assert share == pytest.approx(
        1 - float(((target - made) @ x.mT).square().sum()) / energy, abs=1e-9
    )


@settings(max_examples=60)
@given(case=methods_and_shapes().filter(lambda case: has_reach(case[0])), more=st.integers(0, 5))
def test_orthonormal_inputs_are_none(case: tuple[Method, int, int], more: int) -> None:
    method, out, in_ = case
    target, base = random(out, in_), random(out, in_, seed=9)
    usual = mv.reach(method, target, base)
    x = torch.linalg.qr(random(in_ + more, in_, seed=2)).Q
    for one in (torch.eye(in_, dtype=torch.float64), torch.eye(in_), x):
        assert mv.reach(method, target, base, x=one) == pytest.approx(usual, abs=1e-6)


@pytest.mark.slow
@settings(max_examples=40)
@given(case=methods_and_shapes().filter(lambda case: has_reach(case[0])), count=st.integers(1, 20))
def test_neither_the_scale_nor_the_order_nor_the_number_of_copies_of_inputs_matters(
    case: tuple[Method, int, int], count: int
) -> None:
    method, out, in_ = case
    target, base, x = random(out, in_), random(out, in_, seed=9), inputs(count, in_)
    share = mv.reach(method, target, base, x=x)
    for same in (1e-200 * x, 1e200 * x, -x, x.flip(0), x.repeat(3, 1)):
        assert mv.reach(method, target, base, x=same) == pytest.approx(share, abs=1e-6)


def test_of_one_input_rank_1_makes_everything() -> None:
    """And MiSS too, with any r, unless the input's sums over each owner's columns are all zero."""
    target, x = random(6, 8), random(1, 8, seed=1)
    assert mv.reach(mv.LoRA(1), target) < 0.6
    for method in (mv.LoRA(1), mv.MiSS(1), mv.FixedFactor(2), mv.LoRA(1, freeze_a=True)):
        assert mv.reach(method, target, x=x) == pytest.approx(1, abs=1e-12), method
    assert mv.reach(mv.MiSS(4), target, x=torch.tensor([[1.0, 2, 3, 4, -1, -2, -3, -4]])) < 1e-12
    assert mv.reach(mv.MiSS(8), target, x=x) == pytest.approx(1)


def test_inputs_that_repeat_with_period_r_hide_nothing_from_miss() -> None:
    """On x with x[j] = x[j + r], M x = D S with D the sums of the columns that share."""
    target, x = random(6, 8), random(30, 4).repeat(1, 2)
    assert mv.reach(mv.MiSS(4), target) < 0.7
    assert mv.reach(mv.MiSS(4), target, x=x) == pytest.approx(1, abs=1e-12)
    assert mv.reach(mv.MiSS(4, layout="block"), target, x=x) < 0.9


def test_columns_that_no_input_uses_are_chosen_in_vain() -> None:
    target, x = random(6, 8), random(30, 8, seed=1)
    used = (mv.S2FT(3).on(random_linear(6, 8, torch.float64))).idx
    x[:, used] = 0
    assert mv.reach(mv.S2FT(3), target, x=x) == 0
    assert mv.reach(mv.S2FT(3, "rows"), target, x=x) > 0


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0] * 4], TypeError, "x is not a tensor of floating-point numbers"),
        (torch.ones(2, 4, dtype=torch.int64), TypeError, "x is not a tensor of floating-point"),
        (torch.ones(4), ValueError, "x has shape (4,); inputs of this layer are (n, 4)"),
        (torch.ones(4, 3), ValueError, "x has shape (4, 3); inputs of this layer are (n, 4)"),
        (torch.ones(0, 4), ValueError, "x has shape (0, 4); inputs of this layer are (n, 4)"),
        (torch.full((2, 4), math.nan), ValueError, "x has 8 values that are NaN or infinite of 8"),
        (torch.zeros(2, 4), ValueError, "x is zero: M makes nothing of it"),
        (
            torch.tensor([[0.1, -0.1, 0, 0], [0.3, 0, 0, -0.3]]),
            ValueError,
            "M Xᵀ is zero: the target makes nothing of the inputs x",
        ),
    ],
)
@pytest.mark.parametrize("method", [mv.MiSS(2), mv.LoHa(2)], ids=lambda method: method.name)
def test_bad_inputs(method: Method, x, error: type[Exception], message: str) -> None:
    raises_one_sentence(lambda: mv.reach(method, torch.ones(3, 4), x=x), error, message)


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
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
