"""The checks of lesson 01 know right answers in several forms, and every wrong one by name."""

import numpy as np
import pytest
import torch
from torch.nn.functional import linear, pad

from missviz import check
from missviz.check.expansion import INPUT_MISTAKES, MISS_MISTAKES


def padded(x, D):
    return pad(x, (0, -x.shape[-1] % D.shape[1]))


def by_index_add(x, D):
    places = torch.arange(x.shape[-1]) % D.shape[1]
    S = x.new_zeros(*x.shape[:-1], D.shape[1]).index_add(-1, places, x)
    return S @ D.T


def by_loop(x, D):
    r = D.shape[1]
    S = torch.zeros(*x.shape[:-1], r, dtype=x.dtype)
    for start in range(0, x.shape[-1], r):
        piece = x[..., start : start + r]
        S[..., : piece.shape[-1]] += piece
    return linear(S, D)


def in_numpy(x, D):
    x, D = x.numpy(), D.numpy()
    return np.stack([x[..., i :: D.shape[1]].sum(-1) for i in range(D.shape[1])], -1) @ D.T


RIGHT = {
    "pad and reshape": lambda x, D: (
        padded(x, D).reshape(*x.shape[:-1], -1, D.shape[1]).sum(-2) @ D.T
    ),
    "unflatten": lambda x, D: padded(x, D).unflatten(-1, (-1, D.shape[1])).sum(-2) @ D.mT,
    "strides": lambda x, D: (
        torch.stack([x[..., i :: D.shape[1]].sum(-1) for i in range(D.shape[1])], -1) @ D.T
    ),
    "split": lambda x, D: sum(padded(x, D).split(D.shape[1], -1)) @ D.T,
    "einsum": lambda x, D: torch.einsum(
        "...gr,dr->...d", padded(x, D).unflatten(-1, (-1, D.shape[1])), D
    ),
    "index_add": by_index_add,
    "loop": by_loop,
    "numpy": in_numpy,
}


def sums(x, D):
    return padded(x, D).unflatten(-1, (-1, D.shape[1])).sum(-2)


WRONG = {
    "block instead of tiled": [
        lambda x, D: padded(x, D).unflatten(-1, (D.shape[1], -1)).sum(-1) @ D.T,
        lambda x, D: torch.stack([s.sum(-1) for s in x.tensor_split(D.shape[1], -1)], -1) @ D.T,
        lambda x, D: x.reshape(*x.shape[:-1], D.shape[1], -1).sum(-1) @ D.T,
    ],
    "tail dropped": [
        lambda x, D: sum(x.unfold(-1, D.shape[1], D.shape[1]).unbind(-2)) @ D.T,
        lambda x, D: (
            x[..., : x.shape[-1] // D.shape[1] * D.shape[1]].unflatten(-1, (-1, D.shape[1])).sum(-2)
            @ D.T
        ),
    ],
    "mean instead of sum": [
        lambda x, D: padded(x, D).unflatten(-1, (-1, D.shape[1])).mean(-2) @ D.T,
        lambda x, D: (
            torch.stack([x[..., i :: D.shape[1]].mean(-1) for i in range(D.shape[1])], -1) @ D.T
        ),
        lambda x, D: sums(x, D) / (x.shape[-1] / D.shape[1]) @ D.T,
    ],
    "x wraps around": [
        lambda x, D: (
            torch.cat([x, x], -1)[..., : padded(x, D).shape[-1]]
            .unflatten(-1, (-1, D.shape[1]))
            .sum(-2)
            @ D.T
        ),
    ],
    "zeros in front": [
        lambda x, D: (
            pad(x, (-x.shape[-1] % D.shape[1], 0)).unflatten(-1, (-1, D.shape[1])).sum(-2) @ D.T
        ),
    ],
    "D transposed": [lambda x, D: sums(x, D) @ D, lambda x, D: linear(sums(x, D), D.T)],
    "S returned": [sums],
    "only where r divides k": [
        lambda x, D: x.unflatten(-1, (-1, D.shape[1])).sum(-2) @ D.T,
        lambda x, D: x.reshape(-1, D.shape[1]).sum(0) @ D.T,
    ],
    "ΔW built": [
        lambda x, D: x @ D.repeat(1, -(-x.shape[-1] // D.shape[1]))[:, : x.shape[-1]].T,
        lambda x, D: linear(x, D[:, torch.arange(x.shape[-1]) % D.shape[1]]),
    ],
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_my_miss_right(answer) -> None:
    feedback = check.my_miss(answer)
    assert feedback.right is True, feedback


@pytest.mark.parametrize(
    ("key", "answer"), [(key, answer) for key, answers in WRONG.items() for answer in answers]
)
def test_my_miss_wrong(key: str, answer) -> None:
    feedback = check.my_miss(answer)
    assert feedback.right is False
    assert feedback.misconception == key, feedback


def test_every_listed_mistake_is_tested() -> None:
    assert set(MISS_MISTAKES) <= set(WRONG)
    assert set(INPUT_MISTAKES) <= set(WRONG_INPUTS)


@pytest.mark.parametrize("answer", [None, ..., lambda x, D: ..., lambda x, D: None])
def test_my_miss_unanswered(answer) -> None:
    assert check.my_miss(answer).right is None


@pytest.mark.parametrize(
    "answer",
    [
        3,
        lambda x, D: 1 / 0,
        lambda x, D: "y",
        lambda x: x,
        lambda x, D: sums(x, D) @ D.T + 1,
        lambda x, D: padded(x, D).reshape(-1, D.shape[1]).sum(0) @ D.T,
        lambda x, D: sums(x, D) @ D.T if x.dim() < 3 else 1 / 0,
        lambda x, D: sums(x, D) @ D.T if x.shape[-1] < 100 else 1 / 0,
        lambda x, D: np.zeros(3),
    ],
)
def test_my_miss_never_raises(answer) -> None:
    feedback = check.my_miss(answer)
    assert feedback.right is False
    assert feedback.misconception is None


RIGHT_INPUTS = {
    "one pair": [0, 0, 1, 0, 0, 0, -1, 0, 0, 0],
    "three places": [1.0, 0, 0, 0, 1, 0, 0, 0, -2, 0],
    "all": torch.tensor([1, 2, 3, 4, 1, 2, -3, -4, -2, -4]),
    "tiny": np.array([1, 0, 0, 0, -1, 0, 0, 0, 0, 0]) * 1e-9,
    "rounded": torch.tensor([0.1, 0, 0, 0, 0.2, 0, 0, 0, -0.3, 0], requires_grad=True),
}
WRONG_INPUTS = {
    "x = 0": [[0] * 10, torch.zeros(10)],
    "sums to 0 only overall": [[1, 0, 0, 0, 0, 0, 0, -1, 0, 0], [9] + [-1] * 9],
    "block instead of tiled": [
        [1, -2, 1, 0, 0, 0, 2, -2, 3, -3],
        [1, 1, -2, 1, -1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, -2, 2, -1, -1, 0],
    ],
    "sum within a shard": [[1, 0, 0, -1, 0, 0, 0, 0, 0, 0], [1, 1, 1, -3, 2, 2, -2, -2, 1, -1]],
    "tail forgotten": [[1, 0, 0, 0, -1, 0, 0, 0, 5, 0], [1, 2, 3, 4, -1, -2, -3, -4, 5, -5]],
}


@pytest.mark.parametrize("answer", RIGHT_INPUTS.values(), ids=RIGHT_INPUTS)
def test_invisible_input_right(answer) -> None:
    feedback = check.invisible_input(answer)
    assert feedback.right is True, feedback


@pytest.mark.parametrize(
    ("key", "answer"),
    [(key, answer) for key, answers in WRONG_INPUTS.items() for answer in answers],
)
def test_invisible_input_wrong(key: str, answer) -> None:
    feedback = check.invisible_input(answer)
    assert feedback.right is False
    assert feedback.misconception == key, feedback


@pytest.mark.parametrize("answer", [None, ...])
def test_invisible_input_unanswered(answer) -> None:
    assert check.invisible_input(answer).right is None


@pytest.mark.parametrize(
    "answer", ["x", [1, -1], [float("nan")] * 10, lambda: 0, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 3]
)
def test_invisible_input_never_raises(answer) -> None:
    feedback = check.invisible_input(answer)
    assert feedback.right is False
    assert feedback.misconception is None
