"""Exercise 04: right answers in several forms, and every wrong one by name."""

import math

import numpy as np
import pytest
import torch

import missviz as mv
from missviz import check
from missviz.check.gradients import ADAM_MISTAKES, GAIN_MISTAKES, SGD_MISTAKES
from missviz.experiments.gain_and_rate import compensated_rate


def gain(r, k):
    return math.sqrt(3 * k / r)


def rates(c, rate):
    return rate / c**2, rate / c


RIGHT_GAINS = [
    gain,
    lambda r, k: (3 * k / r) ** 0.5,
    lambda r, k: torch.tensor(3 * k / r, dtype=torch.float64).sqrt(),
    lambda r, k: np.sqrt(3 * np.float64(k) / r),
    lambda r, k: 1 / math.sqrt(r / (3 * k)),
]
RIGHT_RATES = [
    rates,
    lambda c, rate: [rate / c / c, rate / c],
    lambda c, rate: torch.tensor([rate / c**2, rate / c], dtype=torch.float64),
    lambda c, rate: np.array([rate * c**-2, rate * c**-1]),
    lambda c, rate: (
        compensated_rate(rate, c, "SGD"),
        compensated_rate(rate, c, "Adam"),
    ),
]


@pytest.mark.parametrize("my_gain", RIGHT_GAINS)
@pytest.mark.parametrize("my_rates", RIGHT_RATES)
def test_right(my_gain, my_rates) -> None:
    feedback = check.gain_and_rate(my_gain, my_rates, "A frozen")
    assert feedback.right is True
    assert feedback.misconception is None


def test_the_right_gain_gives_the_gradient_of_full_fine_tuning() -> None:
    """On a real adapter, as a root mean square over draws of A."""
    r, k = 8, 64
    linear = mv.testing.random_linear(16, k, torch.float64)
    G = torch.randn(16, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = []
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        adapter = mv.LoRA(r, alpha=r * gain(r, k), freeze_a=True).on(linear, generator=draw)
        loss = (adapter.delta() * G).sum()
        (of_b,) = torch.autograd.grad(loss, [adapter.B])
        squares.append((torch.linalg.norm(of_b) / torch.linalg.norm(G)).item() ** 2)
    assert math.sqrt(sum(squares) / len(squares)) == pytest.approx(1, rel=0.02)


WRONG_GAINS = {
    "c inverted": lambda r, k: math.sqrt(r / (3 * k)),
    "3 forgotten": lambda r, k: math.sqrt(k / r),
    "r forgotten": lambda r, k: math.sqrt(3 * k),
    "not the root": lambda r, k: 3 * k / r,
}
WRONG_SGD = {
    "rate/c for SGD": lambda c, rate: (rate / c, rate / c),
    "c inverted": lambda c, rate: (rate * c, rate / c),
    "c² inverted": lambda c, rate: (rate * c * c, rate / c),
    "rate left alone": lambda c, rate: (rate, rate / c),
}
WRONG_ADAM = {
    "rate/c² for Adam": lambda c, rate: (rate / c**2, rate / c**2),
    "c inverted": lambda c, rate: (rate / c**2, rate * c),
    "c² inverted": lambda c, rate: (rate / c**2, rate * c**2),
    "Adam undoes the gain": lambda c, rate: (rate / c**2, rate),
}


@pytest.mark.parametrize(("key", "answer"), WRONG_GAINS.items())
def test_wrong_gain(key: str, answer) -> None:
    feedback = check.gain_and_rate(answer, rates, "A frozen")
    assert (feedback.right, feedback.misconception) == (False, key)


@pytest.mark.parametrize(
    ("key", "answer", "optimiser"),
    [
        *((key, answer, "SGD") for key, answer in WRONG_SGD.items()),
        *((key, answer, "Adam") for key, answer in WRONG_ADAM.items()),
    ],
)
def test_wrong_rates(key: str, answer, optimiser: str) -> None:
    feedback = check.gain_and_rate(gain, answer, "A frozen")
    assert (feedback.right, feedback.misconception) == (False, key)
    assert feedback.message.startswith(f"{optimiser}: ")


@pytest.mark.parametrize("exact_for", ["A trained", "both"])
def test_a_trained(exact_for: str) -> None:
    feedback = check.gain_and_rate(gain, rates, exact_for)
    assert (feedback.right, feedback.misconception) == (False, "A trained")


@pytest.mark.parametrize(
    "answer",
    [lambda c, rate: rate / c, lambda c, rate: 1, lambda c, rate: torch.tensor(rate / c)],
)
def test_one_rate_instead_of_two_is_told_so(answer) -> None:
    feedback = check.gain_and_rate(gain, answer, "A frozen")
    assert feedback.right is False
    assert "`my_rates` returned one number" in feedback.message
    assert "It must return two rates" in feedback.message


def test_every_listed_mistake_is_tested() -> None:
    assert set(WRONG_GAINS) == set(GAIN_MISTAKES)
    assert set(WRONG_SGD) == set(SGD_MISTAKES)
    assert set(WRONG_ADAM) == set(ADAM_MISTAKES)


@pytest.mark.parametrize(
    "answer",
    [
        (...,),
        (None, None, None),
        (lambda r, k: ..., lambda c, rate: (..., ...), ...),
        (gain, ..., ...),
        (gain, lambda c, rate: (..., ...), ...),
        (gain, lambda c, rate: ..., ...),
        (gain, lambda c, rate: (rate / c**2, ...), ...),
        (gain, rates, ...),
        (gain, rates),
    ],
)
def test_unanswered(answer: tuple) -> None:
    assert check.gain_and_rate(*answer).right is None


@pytest.mark.parametrize(
    "answer",
    [
        (3.0, rates, "A frozen"),
        (lambda r: r, rates, "A frozen"),
        (lambda r, k: 1 / 0, rates, "A frozen"),
        (lambda r, k: "c", rates, "A frozen"),
        (lambda r, k: float("nan"), rates, "A frozen"),
        (lambda r, k: torch.ones(3), rates, "A frozen"),
        (lambda r, k: 1j, rates, "A frozen"),
        (gain, 0.1, "A frozen"),
        (gain, lambda c, rate: rate, "A frozen"),
        (gain, lambda c, rate: (rate, rate, rate), "A frozen"),
        (gain, lambda c, rate: (rate / c**3, rate / c), "A frozen"),
        (gain, rates, "frozen"),
        (gain, rates, ["A frozen"]),
        (gain, rates, 1),
    ],
)
def test_never_raises(answer: tuple) -> None:
    feedback = check.gain_and_rate(*answer)
    assert feedback.right is False
    assert feedback.misconception is None
