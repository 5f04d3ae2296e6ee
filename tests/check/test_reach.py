"""The exercise of lesson 02 knows right answers in several forms, and every wrong one by name."""

import numpy as np
import pytest
import torch

from missviz import check
from missviz.randomness import generator_for, normal


def random(*shape: int) -> torch.Tensor:
    return normal(shape, 1.0, generator_for("test", shape))


u, v = random(64), random(64) + 0.1
GROUPS = torch.arange(64) % 4


def hidden(row: torch.Tensor) -> torch.Tensor:
    """`row` without its mean in each group of columns that share."""
    return row - torch.stack([row[group == GROUPS].mean() for group in range(4)])[GROUPS]


SIGNS = torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1]).repeat(8)
PAIR = torch.eye(64)[0] - torch.eye(64)[4]
MEANS_IN_BLOCKS = v.reshape(4, 16).mean(1).repeat_interleave(16)

RIGHT = {
    "signs": torch.outer(u, SIGNS.double()),
    "two columns": torch.outer(u, PAIR.double()),
    "a random row, its group means taken off": torch.outer(u, hidden(v)),
    "float32": torch.outer(u, hidden(v)).float(),
    "bfloat16": torch.outer(u, SIGNS.double()).bfloat16(),
    "numpy": np.outer(u.numpy(), hidden(v).numpy()),
    "lists": torch.outer(u, SIGNS.double()).tolist(),
    "trained": torch.nn.Parameter(torch.outer(u, hidden(v))),
    "integers": torch.outer(torch.arange(64), SIGNS.long()),
    "sparse": torch.outer(u, PAIR.double()).to_sparse(),
    "tiny numbers": 1e-200 * torch.outer(u, SIGNS.double()),
}
WRONG = {
    "another size": [
        torch.outer(u[:24], SIGNS.double()[:24]),
        torch.outer(u[:5], torch.tensor([1.0, 0, 0, 2, -1, 0, 0, -2]).double()),
        torch.outer(u, hidden(v).repeat(3)),
    ],
    "one column": [
        torch.outer(u, torch.eye(64)[0].double()),
        -torch.eye(64)[:, :1] @ torch.eye(64)[9:10],
    ],
    "random": [torch.outer(u, v), torch.outer(random(20), random(32)), random(64, 1) @ v[None]],
    "zero matrix": [torch.zeros(64, 64), np.zeros((8, 16))],
    "higher rank": [
        random(64, 64),
        random(64, 2) @ random(2, 64),
        torch.eye(64),
        torch.outer(u, SIGNS.double()) + torch.outer(random(64) + 1, PAIR.double()),
    ],
    "wrong layout": [
        torch.outer(u, v - MEANS_IN_BLOCKS),
        torch.outer(u, torch.tensor([1.0, -1, 0, 0, 0, 0, 0, 0] + [0] * 56).double()),
    ],
    "rows instead of columns": [torch.outer(hidden(v), u), torch.outer(SIGNS.double(), u)],
    "one sum instead of four": [
        torch.outer(u, v - v.mean()),
        torch.outer(u, (torch.eye(64)[0] - torch.eye(64)[63]).double()),
    ],
    "periodic": [torch.outer(u, v[:4].repeat(16)), torch.ones(64, 64)],
}


@pytest.mark.parametrize("answer", RIGHT.values(), ids=RIGHT)
def test_right(answer) -> None:
    feedback = check.target_miss_cannot_touch(answer)
    assert feedback.right is True, feedback
    assert feedback.misconception is None


@pytest.mark.parametrize(
    ("key", "answer"), [(key, answer) for key, answers in WRONG.items() for answer in answers]
)
def test_wrong(key: str, answer) -> None:
    feedback = check.target_miss_cannot_touch(answer)
    assert feedback.right is False
    assert feedback.misconception == key, feedback


def test_every_misconception_of_the_check_is_tested() -> None:
    import inspect

    from missviz.check import reach

    source = inspect.getsource(reach)
    for key in WRONG:
        assert f'"{key}"' in source


def test_what_it_says_of_a_single_column_and_of_another_size() -> None:
    said = check.target_miss_cannot_touch(torch.outer(u, torch.eye(64)[9].double())).message
    assert "Only column 9 of it is not zero" in said
    assert "random" not in said
    said = check.target_miss_cannot_touch(torch.outer(u[:24], SIGNS.double()[:24])).message
    assert "M is to be 64 × 64, and yours is 24 × 24" in said


def test_higher_rank_that_is_invisible_is_close() -> None:
    message = check.target_miss_cannot_touch(WRONG["higher rank"][3]).message
    assert "you are close" in message
    assert "you are close" not in check.target_miss_cannot_touch(torch.eye(64)).message


@pytest.mark.parametrize("answer", [None, ...])
def test_unanswered(answer) -> None:
    assert check.target_miss_cannot_touch(answer).right is None


@pytest.mark.parametrize(
    "answer",
    [
        3,
        "M",
        [],
        [[1, 2], [3]],
        [[...]],
        {"M": 1},
        lambda: torch.outer(u, v),
        torch.ones(64),
        torch.ones(3, 64, 64),
        torch.ones(0, 64),
        torch.ones(64, 4),
        torch.ones(2000, 64),
        torch.full((64, 64), torch.nan),
        torch.ones(64, 64) * 1j,
        torch.outer(u, v) + torch.inf,
        np.array([["a"] * 8] * 8),
    ],
    ids=lambda answer: repr(answer).partition(" at 0x")[0],  # the same in every process
)
def test_never_raises(answer) -> None:
    feedback = check.target_miss_cannot_touch(answer)
    assert feedback.right is False
    assert repr(feedback).startswith("Not yet.")
