"""S2FT and DiSHA: identities, and cases by hand."""

import math

import hypothesis.strategies as st
import pytest
import torch
from adapters.test_identities import F64, IN, OUT, gradients, on
from helpers import close, raises_one_sentence, random
from hypothesis import given, settings

import missviz as mv
from missviz.adapters.shards import shard_matrix
from missviz.testing import check_method, random_linear


def change(adapter: mv.Adapter, x: torch.Tensor) -> torch.Tensor:
    """ΔW x, as forward has it."""
    y: torch.Tensor = adapter(x) - adapter.base(x)
    return y.round(decimals=9)


# --- S2FT ---------------------------------------------------------------------------------------


def test_s2ft_by_hand() -> None:
    columns, rows = on(mv.S2FT(1, order="given"), 2, 2), on(mv.S2FT(1, "rows", "given"), 2, 2)
    columns.M.data, rows.M.data = (
        torch.tensor([[3.0], [4.0]], **F64),
        torch.tensor([[3.0, 4.0]], **F64),
    )
    assert columns.delta().tolist() == [[3.0, 0.0], [4.0, 0.0]]
    assert rows.delta().tolist() == [[3.0, 4.0], [0.0, 0.0]]
    x = torch.tensor([1.0, 10.0], **F64)
    assert change(columns, x).tolist() == [3.0, 4.0]
    assert change(rows, x).tolist() == [43.0, 0.0]


@pytest.mark.parametrize("order", ["random", "given"])
def test_s2fts_gradient_is_the_selected_part_of_the_full_one(order: str) -> None:
    columns = on(mv.S2FT(5, "columns", order), moved=False)
    G, found = gradients(columns)
    assert found["M"].shape == (OUT, 5)
    assert close(found["M"], G[:, columns.idx])
    rows = on(mv.S2FT(5, "rows", order), moved=False)
    G, found = gradients(rows)
    assert found["M"].shape == (5, IN)
    assert close(found["M"], G[rows.idx])


@given(d=st.integers(1, 9), k=st.integers(1, 9), data=st.data(), seed=st.integers(0, 9))
def test_s2ft_changes_what_it_selects_and_nothing_else(
    d: int, k: int, data: st.DataObject, seed: int
) -> None:
    select = data.draw(st.sampled_from(["columns", "rows"]))
    size = k if select == "columns" else d
    rank = data.draw(st.integers(1, size))
    linear = random_linear(d, k, torch.float64)
    adapter = mv.S2FT(rank, select).on(linear, generator=torch.Generator().manual_seed(seed))
    assert adapter.idx.tolist() == sorted(set(adapter.idx.tolist()))
    assert len(adapter.idx) == rank
    assert 0 <= int(adapter.idx.min()) <= int(adapter.idx.max()) < size
    adapter.M.data = random(*adapter.M.shape)
    wanted = torch.zeros(d, k, **F64)
    if select == "columns":
        wanted[:, adapter.idx] = adapter.M.detach()
    else:
        wanted[adapter.idx] = adapter.M.detach()
    assert torch.equal(adapter.delta(), wanted)
    x = random(3, k)
    assert close(adapter(x) - linear(x), x @ wanted.mT)


def test_s2ft_selection_follows_the_generator() -> None:
    linear = random_linear(OUT, IN, torch.float64)
    drawn = {
        tuple(mv.S2FT(5).on(linear, generator=torch.Generator().manual_seed(seed)).idx.tolist())
        for seed in range(20)
    }
    assert len(drawn) > 15
    assert {index for chosen in drawn for index in chosen} == set(range(IN))


def test_given_columns_are_the_fixed_factor() -> None:
    s2ft, fixed = on(mv.S2FT(5, order="given")), on(mv.FixedFactor(5, "columns"))
    fixed.D.data = s2ft.M.data.clone()
    assert torch.equal(s2ft.delta(), fixed.delta())
    assert torch.equal(s2ft.factors()[1], fixed.F)


def test_rows_are_columns_of_the_transpose() -> None:
    rows, columns = on(mv.S2FT(5, "rows"), 20, 24), on(mv.S2FT(5), 24, 20)
    columns.M.data, columns.idx = rows.M.data.mT.clone(), rows.idx
    assert torch.equal(rows.delta(), columns.delta().mT)


def test_s2ft_sees_its_share_of_an_isotropic_gradient() -> None:
    adapter = on(mv.S2FT(8), 4, 64)
    G = random(4000, 64)
    measured = torch.linalg.norm(G[:, adapter.idx]) / torch.linalg.norm(G)
    assert measured == pytest.approx(math.sqrt(8 / 64), rel=0.02)


def test_s2ft_counts() -> None:
    assert mv.S2FT(3).num_parameters(20, 24) == 60
    assert mv.S2FT(3, "rows").num_parameters(20, 24) == 72
    assert mv.S2FT(24).rank_bound(20, 24) == 20


# --- DiSHA --------------------------------------------------------------------------------------


def test_disha_by_hand() -> None:
    adapter = on(mv.DiSHA(2, 2), 4, 4)
    adapter.D.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]], **F64)
    assert adapter.delta().tolist() == [[1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 3.0, 4.0]] * 2
    x = torch.tensor([1.0, 10.0, 100.0, 1000.0], **F64)
    assert change(adapter, x).tolist() == [2121.0, 4343.0, 2121.0, 4343.0]


@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), up=st.integers(1, 3), along=st.integers(1, 3)
)
def test_disha_is_plain_repetition(rows: int, columns: int, up: int, along: int) -> None:
    adapter = on(mv.DiSHA(rows, columns), rows * up, columns * along)
    assert torch.equal(adapter.delta(), adapter.D.repeat(up, along))
    left, right = adapter.factors()
    assert left.shape[1] == right.shape[0] == min(rows, columns)
    scale = math.sqrt(up * along)
    smaller = min(rows, columns)
    assert close(mv.spectrum(adapter)[:smaller], scale * torch.linalg.svdvals(adapter.D))


@pytest.mark.parametrize(
    ("disha", "other"),
    [
        (mv.DiSHA(OUT, 6), mv.MiSS(6)),
        (mv.DiSHA(4, 6), mv.MiSS(6, mini=4)),
        (mv.DiSHA(5, IN), mv.MiSS(5, share="rows", layout="tiled")),
        (mv.DiSHA(OUT, IN), mv.MiSS(IN)),
    ],
    ids=str,
)
def test_miss_is_a_disha(disha: mv.DiSHA, other: mv.MiSS) -> None:
    left, right = on(disha), on(other)
    assert disha.num_parameters(OUT, IN) == other.num_parameters(OUT, IN)
    assert disha.rank_bound(OUT, IN) == other.rank_bound(OUT, IN)
    right.D.data = left.D.data.clone()
    assert torch.equal(left.delta(), right.delta())
    x = random(3, IN)
    assert close(left(x), right(x))


def test_disha_as_large_as_w_is_frozen_fine_tuning() -> None:
    G, found = gradients(on(mv.DiSHA(OUT, IN), moved=False))
    assert close(found["D"], G)


def test_dishas_gradient_sums_over_the_copies() -> None:
    G, found = gradients(on(mv.DiSHA(4, 6), moved=False))
    wanted = shard_matrix(OUT, 4, "tiled", G) @ G @ shard_matrix(IN, 6, "tiled", G).mT
    assert close(found["D"], wanted)
    assert close(found["D"], G.reshape(OUT // 4, 4, IN // 6, 6).sum(dim=(0, 2)))


# --- Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.S2FT(0), ValueError, "rank=0 is not positive"),
        (lambda: mv.S2FT(2, "column"), ValueError, "select='column' is unknown; choose from 'columns', 'rows'"),
        (lambda: mv.S2FT(2, order=[1, 2]), ValueError, "order=[1, 2] is unknown; choose from 'random', 'given'"),
        (lambda: mv.S2FT(25).on(random_linear(OUT, IN, torch.float64)), ValueError, "rank=25 exceeds in_features=24"),
        (lambda: mv.S2FT(21, "rows").on(random_linear(OUT, IN, torch.float64)), ValueError, "rank=21 exceeds out_features=20"),
        (lambda: mv.DiSHA(2, True), TypeError, "columns=True is not an integer"),
        (lambda: mv.DiSHA(0, 2), ValueError, "rows=0 is not positive"),
        (lambda: mv.DiSHA(3, 4).on(random_linear(OUT, IN, torch.float64)), ValueError, "rows=3 does not divide out_features=20; nearest: 2, 4"),
        (lambda: mv.DiSHA(4, 5).on(random_linear(OUT, IN, torch.float64)), ValueError, "columns=5 does not divide in_features=24; nearest: 4, 6"),
    ],
)  # fmt: skip
def test_one_clear_sentence(call, error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)


# --- The contract on random settings ------------------------------------------------------------


@st.composite
def methods_and_shapes(draw: st.DrawFn) -> tuple[mv.Method, int, int]:
    d, k = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    kind = draw(st.sampled_from(["columns", "rows", "disha"]))
    if kind == "disha":
        rows = draw(st.sampled_from([n for n in range(1, d + 1) if d % n == 0]))
        columns = draw(st.sampled_from([n for n in range(1, k + 1) if k % n == 0]))
        return mv.DiSHA(rows, columns), d, k
    rank = draw(st.integers(1, k if kind == "columns" else d))
    return mv.S2FT(rank, kind, draw(st.sampled_from(["random", "given"]))), d, k


@settings(max_examples=30)
@given(
    case=methods_and_shapes(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_contract_on_random_settings(case: tuple[mv.Method, int, int], dtype: torch.dtype) -> None:
    method, d, k = case
    check_method(method, [(d, k)], [dtype])
