"""Lesson 03's checks know right answers in several forms, and every wrong one by name."""

import math

import numpy as np
import pytest
import torch

from missviz import check
from missviz.check.colinearity import ASKED, BLOCK_MISTAKES, COSINE_MISTAKES, _measured

RIGHT_COSINES = {
    "formula": lambda sigma, b: 1 / (1 + sigma**2 * b),
    "powers": lambda sigma, b: (1 + b * sigma * sigma) ** -1.0,
    "numpy": lambda sigma, b: np.float64(1) / (1 + np.square(sigma) * b),
    "torch": lambda sigma, b: 1 / (1 + torch.tensor(sigma, dtype=torch.float64) ** 2 * b),
    "shares": lambda sigma, b: 1 - sigma**2 * b / (1 + sigma**2 * b),
    "number": 0.2,
    "nearly": 0.199,
    "fraction": 1 / 5,
}
WRONG_COSINES = {
    "σ²b²": [lambda sigma, b: 1 / (1 + (sigma * b) ** 2), 1 / 257, 0.0039],
    "σb": [lambda sigma, b: 1 / (1 + sigma * b), 1 / 17, 0.0588],
    "ignores σ and b": [
        lambda sigma, b: 0.2,  # right where a number may be given, and nowhere else
        lambda sigma, b: "0.2",
        lambda sigma, b: 0.5,
        lambda sigma, b: math.inf,
    ],
    "σ√b": [lambda sigma, b: 1 / (1 + sigma * b**0.5), 1 / 3, 0.33],
    "σ²b alone": [lambda sigma, b: sigma**2 * b, 4],
    "the own part": [lambda sigma, b: sigma**2 * b / (1 + sigma**2 * b), 0.8],
    "b forgotten": [lambda sigma, b: 1 / (1 + sigma**2), 0.94],
    "square root": [lambda sigma, b: (1 + sigma**2 * b) ** -0.5, 0.447],
    "copies": [lambda sigma, b: 1, 1, 1.0],
    "nothing in common": [lambda sigma, b: 0, 0, 0.0],
}


@pytest.mark.parametrize("answer", RIGHT_COSINES.values(), ids=RIGHT_COSINES)
def test_mean_cosine_right(answer) -> None:
    feedback = check.mean_cosine(answer)
    assert feedback.right is True
    assert "σ = 0.25, b = 64" in feedback.message


@pytest.mark.parametrize(
    ("key", "answer"),
    [(key, answer) for key, several in WRONG_COSINES.items() for answer in several],
)
def test_mean_cosine_wrong(key: str, answer) -> None:
    feedback = check.mean_cosine(answer)
    assert feedback.right is False
    assert feedback.misconception == key


def test_a_constant_is_told_that_it_is_one() -> None:
    right_there = check.mean_cosine(lambda sigma, b: 0.2).message
    assert "Right there, and only there: your function returns 0.2 for every σ and b" in right_there
    assert "No: your function returns 0.5" in check.mean_cosine(lambda sigma, b: 0.5).message
    assert "σ counts twice" in check.mean_cosine(lambda sigma, b: 1 / (1 + sigma * b)).message


def test_what_a_random_layer_measures_is_the_law() -> None:
    sigma, b = ASKED
    assert _measured() == pytest.approx(1 / (1 + sigma**2 * b), abs=0.005)


@pytest.mark.parametrize("answer", [None, ..., lambda sigma, b: ..., lambda sigma, b: None])
def test_mean_cosine_unanswered(answer) -> None:
    assert check.mean_cosine(answer).right is None


@pytest.mark.parametrize(
    "answer",
    [
        "0.9",
        "one fifth",
        math.nan,
        -0.2,
        [0.2, 0.3],
        {},
        lambda sigma, b: sigma / 0,
        lambda sigma: 1,
        lambda sigma, b: np.zeros(2),
    ],
)
def test_mean_cosine_never_raises(answer) -> None:
    feedback = check.mean_cosine(answer)
    assert feedback.right is False
    assert feedback.misconception is None


RIGHT_BLOCKS = {
    "formula": lambda W, D: W @ D + D,
    "factored": lambda W, D: (W + torch.eye(len(W), dtype=W.dtype)) @ D,
    "einsum": lambda W, D: torch.einsum("ac,ce->ae", W, D) + D,
    "numpy": lambda W, D: W.numpy() @ D.numpy() + D.numpy(),
    "in place": lambda W, D: D.add_(W @ D),
}
WRONG_BLOCKS = {
    "W₀ included": [
        lambda W, D: W + W @ D + D,
        lambda W, D: W @ (torch.eye(3, dtype=W.dtype) + D) + D,
    ],
    "+ D forgotten": [lambda W, D: W @ D],
    "MiSS": [lambda W, D: D],
    "left": [lambda W, D: D @ W + D],
    "transposed": [lambda W, D: W @ D.T + D.T],
    "f(0) ≠ 0": [lambda W, D: W + D, lambda W, D: W @ D + D + 1],
    "not linear": [lambda W, D: W @ D + D @ D, lambda W, D: torch.relu(W @ D + D)],
}


@pytest.mark.parametrize("answer", RIGHT_BLOCKS.values(), ids=RIGHT_BLOCKS)
def test_bat_is_linear_right(answer) -> None:
    assert check.bat_is_linear(answer).right is True


@pytest.mark.parametrize(
    ("key", "answer"),
    [(key, answer) for key, several in WRONG_BLOCKS.items() for answer in several],
)
def test_bat_is_linear_wrong(key: str, answer) -> None:
    feedback = check.bat_is_linear(answer)
    assert feedback.right is False
    assert feedback.misconception == key


def test_the_weight_misses_linearity_by_twice_w() -> None:
    W, A, B = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    f, _ = BLOCK_MISTAKES["W₀ included"]
    assert torch.allclose(f(W, 2 * A - 3 * B) - (2 * f(W, A) - 3 * f(W, B)), 2 * W)


@pytest.mark.parametrize("answer", [None, ..., lambda W, D: ..., lambda W, D: None])
def test_bat_is_linear_unanswered(answer) -> None:
    assert check.bat_is_linear(answer).right is None


@pytest.mark.parametrize(
    "answer",
    [
        3,
        lambda W, D: 1 / 0,
        lambda W, D: "ΔW",
        lambda W: W,
        lambda W, D: D[0],
        lambda W, D: 2 * (W @ D + D),
        lambda W, D: np.full((3, 3), np.nan) * D.numpy(),
    ],
)
def test_bat_is_linear_never_raises(answer) -> None:
    assert check.bat_is_linear(answer).right is False


def test_every_listed_mistake_is_tested() -> None:
    assert set(WRONG_COSINES) - {"ignores σ and b"} == set(COSINE_MISTAKES)
    assert set(WRONG_BLOCKS) - {"f(0) ≠ 0", "not linear"} == set(BLOCK_MISTAKES)
