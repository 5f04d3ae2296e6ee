"""LoHa, MoRA and ProLoRA: identities, and cases by hand."""

import cmath
import math

import hypothesis.strategies as st
import pytest
import torch
from adapters.test_identities import F64, IN, OUT, gradients, on
from helpers import close, raises_one_sentence, random
from hypothesis import given, settings
from torch import Tensor

import missviz as mv
from missviz.testing import check_method, random_linear


def number_of_parameters(adapter: mv.Adapter) -> int:
    return sum(parameter.numel() for parameter in adapter.parameters() if parameter.requires_grad)


def rank_of(adapter: mv.Adapter) -> int:
    values = mv.spectrum(adapter)
    return int((values > 1e-10 * values[0]).sum())


# --- LoHa ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 12.0])
def test_loha_starts_with_a_gradient_in_one_factor_alone(alpha: float | None) -> None:
    adapter = on(mv.LoHa(3, alpha), moved=False)
    s = 1.0 if alpha is None else 4.0
    G, found = gradients(adapter)
    assert not any(found[name].any() for name in ("w1_a", "w1_b", "w2_a"))
    assert close(found["w2_b"], s * adapter.w2_a.mT @ (G * (adapter.w1_a @ adapter.w1_b)))


def test_loha_reaches_rank_r_squared_with_two_loras_numbers() -> None:
    adapter = on(mv.LoHa(3))
    assert rank_of(adapter) == 9
    assert number_of_parameters(adapter) == 2 * 3 * (OUT + IN)


def test_loha_entry_by_entry() -> None:
    adapter = on(mv.LoHa(2, alpha=6.0), 4, 5)
    w1_a, w1_b, w2_a, w2_b = (
        adapter.get_parameter(name) for name in ("w1_a", "w1_b", "w2_a", "w2_b")
    )
    delta = adapter.delta()
    for i in range(4):
        for j in range(5):
            assert close(delta[i, j], 3 * (w1_a[i] @ w1_b[:, j]) * (w2_a[i] @ w2_b[:, j]))


def test_loha_has_factors_only_while_they_are_thin() -> None:
    adapter = on(mv.LoHa(3, alpha=6.0), 10, 12)
    left, right = adapter.factors()
    assert (left.shape, right.shape) == ((10, 9), (9, 12))
    assert close(left @ right, adapter.delta())
    assert on(mv.LoHa(3), 9, 12).factors() is None


def test_loha_draws_each_matrix_by_its_own_fan_in() -> None:
    adapter = on(mv.LoHa(16), 400, 900, moved=False)
    for name, fan_in in (("w1_a", 16), ("w1_b", 900), ("w2_a", 16)):
        largest = float(getattr(adapter, name).detach().abs().max()) * math.sqrt(fan_in)
        assert 0.95 < largest <= 1
    assert not adapter.w2_b.any()


# --- MoRA ---------------------------------------------------------------------------------------


def mora_by_definition(adapter: mv.Adapter, kind: str) -> Tensor:
    """ΔW row by row: complex numbers turn the pairs, and nothing is done in blocks."""
    d, k, M = adapter.out_features, adapter.in_features, adapter.M.detach()
    side = len(M)
    n, half = math.ceil(k / side), side // 2
    wanted = torch.zeros(d, k, **F64)
    for i in range(d):
        row, own = M[i % side], (i // side) % n
        for place in range(n * side):
            block, at = divmod(place, side)
            if kind == "sum":
                wanted[i, place % k] += row[at]
            elif block == own:
                pair = at % half
                turn = cmath.exp(1j * block * 10000 ** (-2 * pair / side))
                made = turn * (1 if at < half else 1j)
                wanted[i, place % k] += row[pair] * made.real + row[pair + half] * made.imag
    return wanted


@given(
    d=st.integers(1, 12),
    k=st.integers(1, 12),
    data=st.data(),
    kind=st.sampled_from(["sum", "rotate"]),
)
def test_mora_is_its_definition(d: int, k: int, data: st.DataObject, kind: str) -> None:
    method = mv.MoRA(data.draw(st.integers(1, min(d, k))), kind)
    adapter = on(method, d, k)
    assert number_of_parameters(adapter) == method.side(d, k) ** 2
    wanted = mora_by_definition(adapter, kind)
    assert close(adapter.delta(), wanted)
    x = random(3, k)
    assert close(adapter(x) - adapter.base(x), x @ wanted.mT)


def test_mora_by_hand() -> None:
    """r̂ = 2 on 3 × 3: x = (a, b, c) becomes the blocks (a, b) and (c, a)."""
    M = torch.tensor([[1.0, 2.0], [3.0, 4.0]], **F64)
    summed, rotated = on(mv.MoRA(1, "sum"), 3, 3), on(mv.MoRA(1), 3, 3)
    summed.M.data, rotated.M.data = M.clone(), M.clone()
    wanted = torch.tensor([[3.0, 2.0, 1.0], [7.0, 4.0, 3.0], [3.0, 2.0, 1.0]], **F64)
    assert close(summed.delta(), wanted)
    # The second block is turned by one radian: (c cos 1 − a sin 1, c sin 1 + a cos 1).
    cos, sin = math.cos(1), math.sin(1)
    third = [2 * cos - sin, 0.0, cos + 2 * sin]
    wanted = torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0], third], **F64)
    assert close(rotated.delta(), wanted)


def test_mora_repeats_its_output_where_the_layer_is_tall() -> None:
    adapter = on(mv.MoRA(1), 7, 3)
    assert adapter.M.shape == (2, 2)
    delta = adapter.delta()
    assert torch.equal(delta[4:], delta[:3])
    assert not torch.allclose(delta[2:4], delta[:2], atol=0.1)


@pytest.mark.parametrize(
    ("shape", "rank", "summed", "rotated"),
    [
        ((20, 24), 2, 9, 8),
        ((16, 16), 2, 8, 8),
        ((3, 3), 1, 2, 2),
        ((1, 1), 1, 1, 2),
        ((5, 3), 1, 3, 2),
    ],
)
def test_side_of_mora(shape: tuple[int, int], rank: int, summed: int, rotated: int) -> None:
    """⌊√((d + k) r) + ½⌋, and the even number below it."""
    assert mv.MoRA(rank, "sum").side(*shape) == summed
    assert mv.MoRA(rank).side(*shape) == rotated


def test_mora_has_loras_budget() -> None:
    assert mv.MoRA(8, "sum").num_parameters(4096, 4096) == 8 * (4096 + 4096)
    assert mv.MoRA(8).num_parameters(11008, 4096) == pytest.approx(8 * 15104, rel=0.01)


def test_mora_ranks() -> None:
    rotated, summed = on(mv.MoRA(1), 16, 16), on(mv.MoRA(1, "sum"), 16, 16)
    assert (rank_of(rotated), rank_of(summed)) == (16, 6)


@pytest.mark.parametrize(("out_features", "in_features"), [(16, 16), (24, 8), (8, 24)])
def test_mora_sum_is_square_mini_where_it_divides(out_features: int, in_features: int) -> None:
    mora = on(mv.MoRA(2, "sum"), out_features, in_features)
    mini = on(mv.MiSS(8, mini=8), out_features, in_features)
    mini.D.data = mora.M.data.clone()
    assert torch.equal(mora.delta(), mini.delta())
    x = random(3, in_features)
    assert close(mora(x), mini(x))


def test_mora_sum_is_not_mini_where_it_does_not_divide_in_features() -> None:
    """r̂ = 9 on k = 22: MoRA goes on with x_0 … x_4, MiSS with zeros."""
    mora, mini = on(mv.MoRA(2, "sum"), 18, 22), on(mv.MiSS(9, mini=9), 18, 22)
    mini.D.data = mora.M.data.clone()
    difference = (mora.delta() - mini.delta()).detach()
    assert (difference[:, :5].abs().amax(dim=0) > 0.1).all()
    assert close(difference[:, 5:], torch.zeros(18, 17, **F64))


# --- ProLoRA ------------------------------------------------------------------------------------


def test_prolora_by_hand() -> None:
    """r = 2 in 2 × 2 chunks on 2 × 4: the second chunk has the two ranks the other way round."""
    adapter = on(mv.ProLoRA(2, alpha=4.0), 2, 4)
    adapter.A_shared.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]], **F64)
    adapter.B_shared.data = torch.tensor([[5.0, 6.0]], **F64)
    left, right = adapter.factors()
    assert left.tolist() == [[10.0, 12.0], [12.0, 10.0]]
    assert right.tolist() == [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0]]
    assert adapter.delta().tolist() == [[46.0, 68.0, 42.0, 64.0], [42.0, 64.0, 46.0, 68.0]]


@given(d=st.integers(3, 12), k=st.integers(3, 12), data=st.data())
def test_prolora_is_its_definition(d: int, k: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    u, m, n = (data.draw(st.integers(low, 3)) for low in (0, 1, 1))
    u = min(u, rank)
    stride = data.draw(st.none() | st.integers(0, 4))
    method = mv.ProLoRA(rank, 5.0, u, m, n, stride)
    adapter = on(method, d, k)
    width, height, shared = math.ceil(k / m), math.ceil(d / n), rank - u
    assert number_of_parameters(adapter) == u * (d + k) + shared * (width + height)
    A, B = torch.zeros(rank, k, **F64), torch.zeros(d, rank, **F64)
    A[:u], B[:, :u] = adapter.A_unshared.detach(), adapter.B_unshared.detach()
    by_m, by_n = (max(shared // c, 1) if stride is None else stride for c in (m, n))
    for i in range(shared):
        for j in range(k):
            A[u + i, j] = adapter.A_shared[(i + j // width * by_m) % shared, j % width]
        for j in range(d):
            B[j, u + i] = adapter.B_shared[j % height, (i + j // height * by_n) % shared]
    assert close(adapter.delta(), 5.0 / rank * B @ A)


def test_prolora_without_sharing_is_lora() -> None:
    linear = random_linear(OUT, IN, torch.float64)
    for method in (mv.ProLoRA(4, 8.0, 0, 1, 1), mv.ProLoRA(4, 8.0, 4)):
        part = "unshared" if method.unshared else "shared"
        prolora = method.on(linear, generator=torch.Generator().manual_seed(1))
        lora = mv.LoRA(4, alpha=8.0).on(linear, generator=torch.Generator().manual_seed(1))
        assert torch.equal(getattr(prolora, f"A_{part}"), lora.A)
        assert number_of_parameters(prolora) == number_of_parameters(lora)
        lora.B.data = random(OUT, 4)
        getattr(prolora, f"B_{part}").data = lora.B.data.clone()
        assert torch.equal(prolora.delta(), lora.delta())


def test_a_single_shared_rank_cannot_rotate() -> None:
    rolled, plain = on(mv.ProLoRA(2, unshared=1)), on(mv.ProLoRA(2, unshared=1, stride=0))
    plain.load_state_dict(rolled.state_dict())
    assert torch.equal(rolled.delta(), plain.delta())


def test_without_rotation_the_chunks_are_copies() -> None:
    plain, rolled = on(mv.ProLoRA(4, stride=0)), on(mv.ProLoRA(4))
    rolled.load_state_dict(plain.state_dict())
    for adapter, copies in ((plain, True), (rolled, False)):
        delta = adapter.delta()
        left, right = delta.chunk(2, dim=1)
        upper, lower = delta.chunk(2, dim=0)
        assert torch.allclose(left, right, atol=0.1) == copies
        assert torch.allclose(upper, lower, atol=0.1) == copies


def test_prolora_counts_by_hand() -> None:
    assert mv.ProLoRA(2, unshared=1).num_parameters(64, 64) == 192
    assert mv.ProLoRA(5, None, 2, 3, 4).num_parameters(20, 24) == 2 * 44 + 3 * (8 + 5)


def test_prolora_starts_with_the_fan_in_of_the_whole_layer() -> None:
    adapter = on(mv.ProLoRA(8, unshared=2, input_chunks=4), 8, 2000, moved=False)
    for A in (adapter.A_unshared, adapter.A_shared):
        assert 0.95 < float(A.detach().abs().max()) * math.sqrt(2000) <= 1


def test_prolora_strides() -> None:
    assert [mv.ProLoRA(9, unshared=1).stride_of(chunks) for chunks in (1, 2, 3, 9)] == [8, 4, 2, 1]
    assert mv.ProLoRA(9, stride=0).stride_of(2) == 0


@given(d=st.integers(1, 10), k=st.integers(1, 10), data=st.data())
def test_prolora_attains_its_rank_bound(d: int, k: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(d, k)))
    method = mv.ProLoRA(
        rank,
        unshared=data.draw(st.integers(0, rank)),
        input_chunks=data.draw(st.integers(1, k)),
        output_chunks=data.draw(st.integers(1, d)),
        stride=data.draw(st.none() | st.integers(0, 4)),
    )
    assert rank_of(on(method, d, k)) == method.rank_bound(d, k)


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.LoHa(0), ValueError, "rank=0 is not positive"),
        (lambda: mv.LoHa(2, alpha=0), ValueError, "alpha=0 is not a positive finite number"),
        (lambda: mv.LoHa(7).on(random_linear(6, 8, torch.float64)), ValueError, "rank=7 exceeds min"),
        (lambda: mv.MoRA(1.5), TypeError, "rank=1.5 is not an integer"),
        (lambda: mv.MoRA(2, kind=6), ValueError, "kind=6 is unknown; choose from 'rotate', 'sum'"),
        (lambda: mv.MoRA(7).on(random_linear(6, 8, torch.float64)), ValueError, "rank=7 exceeds min"),
        (lambda: mv.ProLoRA(2, unshared=-1), ValueError, "unshared=-1 is negative; the smallest is 0"),
        (lambda: mv.ProLoRA(2, unshared=3), ValueError, "unshared=3 exceeds rank=2"),
        (lambda: mv.ProLoRA(2, unshared=False), TypeError, "unshared=False is not an integer"),
        (lambda: mv.ProLoRA(2, stride=0.5), TypeError, "stride=0.5 is not an integer"),
        (lambda: mv.ProLoRA(2, input_chunks=0), ValueError, "input_chunks=0 is not positive"),
        (lambda: mv.ProLoRA(2, input_chunks=9).on(random_linear(6, 8, torch.float64)), ValueError, "input_chunks=9 exceeds in_features=8"),
        (lambda: mv.ProLoRA(2, output_chunks=7).on(random_linear(6, 8, torch.float64)), ValueError, "output_chunks=7 exceeds out_features=6"),
    ],
)  # fmt: skip
def test_one_clear_sentence(call, error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)


# --- The contract on random settings ------------------------------------------------------------


@st.composite
def methods_and_shapes(draw: st.DrawFn) -> tuple[mv.Method, int, int]:
    d, k = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    rank, alpha = draw(st.integers(1, min(d, k))), draw(st.none() | st.floats(0.5, 32))
    kind = draw(st.sampled_from(["loha", "mora", "prolora"]))
    if kind == "loha":
        return mv.LoHa(rank, alpha), d, k
    if kind == "mora":
        return mv.MoRA(rank, draw(st.sampled_from(["rotate", "sum"]))), d, k
    u, stride = draw(st.integers(0, rank)), draw(st.none() | st.integers(0, 4))
    m, n = draw(st.integers(1, k)), draw(st.integers(1, d))
    return mv.ProLoRA(rank, alpha, u, m, n, stride), d, k


@pytest.mark.slow
@settings(max_examples=40)
@given(
    case=methods_and_shapes(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_contract_on_random_settings(case: tuple[mv.Method, int, int], dtype: torch.dtype) -> None:
    method, d, k = case
    check_method(method, [(d, k)], [dtype])
