"""The exercise checks know right answers in several forms, and every wrong one by name."""

import math

import numpy as np
import pytest
import torch

from missviz import check
from missviz.check.start_here import LORA_MISTAKES

RIGHT = {
    "as in the paper": lambda A, B, alpha: alpha / A.shape[0] * (B @ A),
    "scaled first": lambda A, B, alpha: (B * (alpha / B.shape[1])) @ A,
    "einsum": lambda A, B, alpha: torch.einsum("dr,rk->dk", B, A) * alpha / len(A),
    "numpy": lambda A, B, alpha: alpha / len(A) * (B.numpy() @ A.numpy()),
    "outer products": lambda A, B, alpha: (
        sum(torch.outer(B[:, i], A[i]) for i in range(len(A))) * (alpha / len(A))
    ),
    "through linear": lambda A, B, alpha: torch.nn.functional.linear(B, A.mT) * alpha / A.size(0),
}
WRONG = {
    "A @ B": [lambda A, B, alpha: A @ B, lambda A, B, alpha: alpha / A.shape[0] * (A @ B)],
    "α/r forgotten": [lambda A, B, alpha: B @ A, lambda A, B, alpha: torch.matmul(B, A)],
    "not divided by r": [lambda A, B, alpha: alpha * B @ A],
    "r/α": [lambda A, B, alpha: A.shape[0] / alpha * B @ A],
    "α/√r": [lambda A, B, alpha: alpha / math.sqrt(len(A)) * B @ A],
    "α/k or α/d": [lambda A, B, alpha: alpha / A.shape[1] * B @ A],
    "transposed": [
        lambda A, B, alpha: alpha / len(A) * (B @ A).T,
        lambda A, B, alpha: alpha / len(A) * A.T @ B.T,
    ],
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_lora_delta_right(answer) -> None:
    feedback = check.lora_delta(answer)
    assert feedback.right is True
    assert repr(feedback).startswith("Right.")


@pytest.mark.parametrize(
    ("key", "answer"), [(key, answer) for key, answers in WRONG.items() for answer in answers]
)
def test_lora_delta_wrong(key: str, answer) -> None:
    feedback = check.lora_delta(answer)
    assert feedback.right is False
    assert feedback.misconception == key
    assert repr(feedback).startswith("Not yet.")


def test_every_listed_mistake_is_tested() -> None:
    assert set(WRONG) == set(LORA_MISTAKES)


@pytest.mark.parametrize("answer", [None, ..., lambda A, B, alpha: ..., lambda A, B, alpha: None])
def test_lora_delta_unanswered(answer) -> None:
    assert check.lora_delta(answer).right is None


@pytest.mark.parametrize(
    "answer",
    [
        3,
        lambda A, B, alpha: 1 / 0,
        lambda A, B, alpha: "ΔW",
        lambda A, B: A,
        lambda A, B, alpha: B @ A + 1,
        lambda A, B, alpha: alpha // len(A) * (B @ A),
        lambda A, B, alpha: alpha / 2 * (B @ A),
        lambda A, B, alpha: np.zeros(3),
    ],
)
def test_lora_delta_never_raises(answer) -> None:
    feedback = check.lora_delta(answer)
    assert feedback.right is False
    assert feedback.misconception is None
