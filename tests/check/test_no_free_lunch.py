"""Right answers, written in several ways, and every known wrong one by name."""

import math

import pytest
import torch

from missviz import check
from missviz.check.no_free_lunch import _too_close


def blocks(W0, generator):
    return torch.randn(64, 4, generator=generator).repeat_interleave(16, dim=1)


def blocks_through_a_matrix(W0, generator):
    copies = torch.block_diag(*[torch.ones(1, 16) for _ in range(4)])
    return 0.3 * torch.randn(64, 4, generator=generator) @ copies


@pytest.mark.slow
@pytest.mark.parametrize("answer", [blocks, blocks_through_a_matrix])
def test_task_right(answer) -> None:
    feedback = check.task_won_by_block_miss(answer)
    assert feedback.right is True
    assert "MiSS block r=4 100%" in feedback.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "answer", "rates"),
    [
        ("rate on the grid's edge", blocks, [1e-5, 1e-4]),
        ("M = 0", lambda W0, generator: torch.zeros(64, 64), None),
        ("rival wins", lambda W0, generator: torch.randn(64, 64, generator=generator), None),
        (
            "rival wins",
            lambda W0, generator: torch.randn(64, 4, generator=generator).repeat(1, 16),
            None,
        ),
    ],
)
def test_task_wrong(key: str, answer, rates) -> None:
    feedback = check.task_won_by_block_miss(answer, rates)
    assert feedback.right is False
    assert feedback.misconception == key


def test_undecided_says_who_can_reach_less() -> None:
    shares = {"LoRA r=2": 0.25, "MiSS r=4": 0.31, "MiSS block r=4": 0.28}
    less = _too_close(["LoRA r=2"], shares)
    assert "LoRA r=2 can reach less of M, 25.0% against 28.0%" in less
    assert "cannot be beaten" not in less
    more = _too_close(["MiSS r=4"], shares)
    assert "MiSS r=4 can reach as much of M, or more, and cannot be beaten clearly" in more
    assert "undecided, not equal" in more


@pytest.mark.parametrize("answer", [None, ..., lambda W0, generator: ...])
def test_task_unanswered(answer) -> None:
    assert check.task_won_by_block_miss(answer).right is None


@pytest.mark.parametrize(
    ("answer", "rates"),
    [
        (7, None),
        (lambda W0, generator: 1 / 0, None),
        (lambda W0, generator: torch.ones(3), None),
        (lambda W0, generator: W0 * math.nan, None),
        (blocks, [-1.0]),
    ],
)
def test_task_never_raises(answer, rates) -> None:
    assert check.task_won_by_block_miss(answer, rates).right is False
