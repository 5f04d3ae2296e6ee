"""The laws of first gradients against gradients themselves."""

import math

import pytest
import torch
from helpers import random
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import missviz as mv
from missviz.adapters.shards import shard_matrix
from missviz.analysis.gradient_laws import column_correlation, lora_law, miss_law, pissa_law
from missviz.testing import random_linear

F64 = {"dtype": torch.float64}


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.norm(matrix))


@given(columns=st.integers(2, 9), rows=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_correlation_is_the_mean_over_pairs_of_columns(columns: int, rows: int, seed: int) -> None:
    G = random(rows, columns, seed=seed)
    products = [float(G[:, i] @ G[:, j]) for i in range(columns) for j in range(columns) if i != j]
    squares = [float(G[:, i] @ G[:, i]) for i in range(columns)]
    wanted = (sum(products) / len(products)) / (sum(squares) / len(squares))
    assert column_correlation(G) == pytest.approx(wanted, abs=1e-12)
    assert -1 / (columns - 1) - 1e-12 <= column_correlation(G) <= 1 + 1e-12


@given(rank=st.sampled_from([1, 2, 3, 4, 6, 12]), seed=st.integers(0, 10_000))
def test_miss_law_is_exact_for_the_correlation_of_the_columns_that_meet(
    rank: int, seed: int
) -> None:
    """‖G Tᵀ‖² = ‖G‖² (1 + (g − 1) ρ), ρ over pairs of columns r, 2r, … apart."""
    k, g = 12, 12 // rank
    G = random(5, k, seed=seed)
    T = shard_matrix(k, rank, "tiled", G)
    if g == 1:
        rho = 0.3  # no pair meets, and ρ does not matter
    else:
        meeting = [
            float(G[:, i] @ G[:, j])
            for i in range(k)
            for j in range(k)
            if i != j and i % rank == j % rank
        ]
        rho = sum(meeting) / len(meeting) / (norm(G) ** 2 / k)
    assert miss_law(rank, k, rho) * norm(G) == pytest.approx(norm(G @ T.mT), rel=1e-9, abs=1e-7)


def test_equal_columns_and_opposite_ones() -> None:
    column = random(7, 1)
    equal = column.repeat(1, 16)
    assert column_correlation(equal) == pytest.approx(1)
    assert miss_law(4, 16, 1.0) == pytest.approx(2)  # √g
    signs = torch.tensor([1.0, -1.0], **F64).repeat(8)
    assert column_correlation(equal * signs) == pytest.approx(-1 / 15)
    T = shard_matrix(16, 1, "tiled", equal)
    assert norm(equal * signs @ T.mT) < 1e-12
    assert miss_law(1, 16, -1 / 15) == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 4, 32])
@pytest.mark.parametrize("kind", ["isotropic", "one column", "rank one"])
def test_lora_law_holds_for_every_gradient(rank: int, kind: str) -> None:
    """Over draws of A, the mean square of ‖G Aᵀ‖ is ‖G‖² r/3k whatever G is."""
    k, draws = 32, 400
    G = random(8, k)
    if kind == "one column":
        G = G * (torch.arange(k) == 3)
    if kind == "rank one":
        G = G[:, :1] @ G[:1, :]
    linear = random_linear(40, k, torch.float64)
    squares = [
        norm(
            G
            @ mv.LoRA(rank).on(linear, generator=torch.Generator().manual_seed(draw)).A.detach().mT
        )
        ** 2
        for draw in range(draws)
    ]
    measured = math.sqrt(sum(squares) / draws) / norm(G)
    assert measured == pytest.approx(lora_law(rank, k), rel=0.1 if rank == 1 else 0.04)
    assert lora_law(rank, k, scaling=2.5) == 2.5 * lora_law(rank, k)


@pytest.mark.parametrize("alpha", [None, 20.0])
def test_pissa_law(alpha: float | None) -> None:
    d, k, rank = 48, 32, 5
    linear = random_linear(d, k, torch.float64)
    method = mv.PiSSA(rank, alpha)
    adapter, s = method.on(linear), method.scaling
    squares = []
    for seed in range(200):
        G = random(d, k, seed=seed)
        of_b, of_a = s * G @ adapter.A.detach().mT, s * adapter.B.detach().mT @ G
        squares.append((norm(of_b) ** 2 + norm(of_a) ** 2) / norm(G) ** 2)
    measured = math.sqrt(sum(squares) / len(squares))
    sigma = torch.linalg.svdvals(linear.weight.detach())
    law = pissa_law(sigma, rank, d, k) * math.sqrt(s)
    assert measured == pytest.approx(law, rel=0.02)


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (torch.ones(3), r"gradient of shape \(3,\)"),
        (torch.ones(3, 1), r"gradient of shape \(3, 1\)"),
        (torch.tensor([[1.0, math.nan]]), "gradient has 1 values that are NaN"),
    ],
)
def test_correlation_bad_input(gradient: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        column_correlation(gradient)


def test_no_gradient_has_no_correlation() -> None:
    assert math.isnan(column_correlation(torch.zeros(3, 4)))
