"""The exercises of lesson 06 know right answers in several forms, and every wrong one by name."""

import math

import pytest
import torch

import missviz as mv
from missviz import check
from missviz.check.sharing import POOL_CASES, POOL_MISTAKES, SHARE_CASES, SHARE_MISTAKES

POOL_RIGHT = {
    "as in the lesson": lambda e, L, r, pieces, d, k: e * L * (d + k),
    "shard by shard": lambda e, L, r, pieces, d, k: (
        e * L * pieces * (d // pieces) + e * L * pieces * (k / pieces)
    ),
    "as LoRA": lambda e, L, r, pieces, d, k: L * mv.LoRA(e).num_parameters(d, k),
    "tensor": lambda e, L, r, pieces, d, k: torch.tensor(e * L * (d + k)),
}
POOL_WRONG = {
    "multiplied by r": [lambda e, L, r, pieces, d, k: r * e * L * d + r * e * L * k],
    "r for e": [lambda e, L, r, pieces, d, k: L * mv.LoRA(r).num_parameters(d, k)],
    "L forgotten": [lambda e, L, r, pieces, d, k: e * (d + k)],
    "indices counted": [lambda e, L, r, pieces, d, k: e * L * (d + k) + 2 * L * r * pieces],
    "multiplied by l": [lambda e, L, r, pieces, d, k: e * L * pieces * (d + k)],
    "divided by l": [lambda e, L, r, pieces, d, k: e * L * (d + k) / pieces],
    "d·k instead of d+k": [lambda e, L, r, pieces, d, k: e * L * d * k],
    "one pool of two": [lambda e, L, r, pieces, d, k: e * L * k],
}
SHARE_RIGHT = {
    "solved": lambda share, L: (share * L - 1) / (L - 1),
    "another way": lambda share, L: 1 - (1 - share) / (1 - 1 / L),
}
SHARE_WRONG = {
    "own parts vanish": [lambda share, L: share],
    "1/L at every c": [lambda share, L: share - 1 / L],
    "1/L² kept": [lambda share, L: (share - L**-2) / (1 - L**-2)],
    "the other way round": [lambda share, L: share + (1 - share) / L],
    "1−c": [lambda share, L: (1 - share) / (1 - 1 / L)],
}
EXERCISES = [
    (check.pool_size, POOL_RIGHT, POOL_WRONG),
    (check.break_even, SHARE_RIGHT, SHARE_WRONG),
]


@pytest.mark.parametrize(
    ("judge", "answer"), [(judge, a) for judge, right, _ in EXERCISES for a in right.values()]
)
def test_right(judge, answer) -> None:
    feedback = judge(answer)
    assert feedback.right is True, feedback
    assert feedback.misconception is None


@pytest.mark.parametrize(
    ("judge", "key", "answer"),
    [
        (judge, key, answer)
        for judge, _, wrong in EXERCISES
        for key, answers in wrong.items()
        for answer in answers
    ],
)
def test_wrong(judge, key: str, answer) -> None:
    feedback = judge(answer)
    assert feedback.right is False
    assert feedback.misconception == key, feedback


def test_every_listed_mistake_is_tested() -> None:
    assert set(POOL_WRONG) == set(POOL_MISTAKES)
    assert set(SHARE_WRONG) == set(SHARE_MISTAKES)


@pytest.mark.parametrize(
    ("cases", "mistakes", "right"),
    [
        (POOL_CASES, POOL_MISTAKES, POOL_RIGHT["as in the lesson"]),
        (SHARE_CASES, SHARE_MISTAKES, SHARE_RIGHT["solved"]),
    ],
    ids=["pool", "share"],
)
def test_the_cases_tell_every_rule_from_every_other(cases, mistakes, right) -> None:
    rules = [right, *(rule for rule, _ in mistakes.values())]
    answers = [tuple(rule(*case) for case in cases) for rule in rules]
    for n, one in enumerate(answers):
        for other in answers[:n]:
            assert not all(map(math.isclose, one, other))


@pytest.mark.parametrize("case", POOL_CASES)
def test_the_right_count_is_what_attach_trains(case) -> None:
    e, L, r, pieces, d, k = case
    model = torch.nn.ModuleList(mv.testing.random_linear(d, k, torch.float32) for _ in range(L))
    attached = mv.attach(model, mv.MoS(r, e, pieces))
    trained = sum(p.numel() for p in attached.parameters() if p.requires_grad)
    assert trained == POOL_RIGHT["as in the lesson"](*case)


@pytest.mark.parametrize("judge", [check.pool_size, check.break_even])
@pytest.mark.parametrize("answer", [None, ..., lambda *_: ..., lambda *_: None])
def test_unanswered(judge, answer) -> None:
    assert judge(answer).right is None


@pytest.mark.parametrize("judge", [check.pool_size, check.break_even])
@pytest.mark.parametrize(
    "answer", [3, "e·L·(d+k)", lambda *_: 1 / 0, lambda: 1, lambda *_: "many", lambda *_: 7.5]
)
def test_never_raises(judge, answer) -> None:
    feedback = judge(answer)
    assert feedback.right is False
    assert feedback.misconception is None
    assert repr(feedback).startswith("Not yet.")
