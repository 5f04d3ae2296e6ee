"""The exercises of lesson 08 know right answers in several forms, and every wrong one by name."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import missviz as mv
from missviz import check, published
from missviz.analysis.cost import cost
from missviz.check.cost import SENTENCES, TOKEN_CASES, TOKEN_MISTAKES

RIGHT = {letter: letter == "E" for letter in "ABCDE"}
TOKENS_RIGHT = {
    "as in the lesson": lambda d, k, r: d * k / (d + k),
    "with the rank": lambda d, k, r: r * d * k / (r * (d + k)),
    "harmonic": lambda d, k, r: 1 / (1 / d + 1 / k),
    "tensor": lambda d, k, r: torch.tensor(d * k / (d + k), dtype=torch.float64),
}
TOKENS_WRONG = {
    "'efficient' is always cheaper": [lambda d, k, r: math.inf, lambda d, k, r: float("inf")],
    "building is free of r": [lambda d, k, r: d * k / (r * d + r * k)],
    "the efficient form is free of r": [lambda d, k, r: r * d * k / (d + k)],
    "the additions counted": [lambda d, k, r: (d * k * r + d * k) / (d * r + k * r)],
    "MiSS for LoRA": [lambda d, k, r: d * k / (k + d * r)],
    "rounded": [lambda d, k, r: round(d * k / (d + k))],
    "rounded down": [lambda d, k, r: d * k // (d + k)],
    "rounded up": [lambda d, k, r: -(-d * k // (d + k))],
    "the next whole token": [lambda d, k, r: d * k // (d + k) + 1],
    "square layers only": [lambda d, k, r: k / 2],
    "square layers only, by d": [lambda d, k, r: d / 2],
    "the rank that is possible": [lambda d, k, r: min(d, k)],
    "W₀ x counted on one side": [lambda d, k, r: d * k / (d + k - d * k / r)],
}


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        {letter: np.bool_(verdict) for letter, verdict in RIGHT.items()},
        {"E"},
        ["E"],
        "E",
        ("E",),
    ],
)
def test_right_sentences(answer) -> None:
    feedback = check.survives_the_noise(answer)
    assert feedback.right is True, feedback
    assert feedback.misconception is None


@pytest.mark.parametrize("letter", SENTENCES)
def test_each_wrong_verdict_is_named(letter: str) -> None:
    feedback = check.survives_the_noise({**RIGHT, letter: not RIGHT[letter]})
    assert feedback.right is False
    assert feedback.misconception == SENTENCES[letter][1]
    assert feedback.message.startswith(f"{letter}: ")
    assert "more of your" not in feedback.message


def test_misconceptions_are_those_of_the_lesson() -> None:
    named = {misconception for _, misconception, _ in SENTENCES.values()}
    assert named == {
        "a difference inside the noise",
        "fewer parameters is less memory",
        "on the front is accurate",
        "membership as fact",
        "all is noise",
    }


def test_letters_and_several_mistakes() -> None:
    assert check.survives_the_noise("ABCDE").misconception == "a difference inside the noise"
    assert "3 more of your verdicts" in check.survives_the_noise("ABCDE").message
    assert check.survives_the_noise([]).misconception == "all is noise"


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (None, "A, B, C, D, E"),
        (..., "A, B, C, D, E"),
        (dict.fromkeys("ABCDE", ...), "A, B, C, D, E"),
        ({**RIGHT, "B": ...}, "for B."),
        ({"A": False}, "for B, C, D, E."),
    ],
)
def test_unanswered_sentences(answer, hint: str) -> None:
    feedback = check.survives_the_noise(answer)
    assert feedback.right is None
    assert hint in feedback.message


@pytest.mark.parametrize(
    "answer", [5, 0.5, True, {**RIGHT, "A": "no"}, {**RIGHT, "F": True}, ["Z"]]
)
def test_sentences_never_raise(answer) -> None:
    feedback = check.survives_the_noise(answer)
    assert feedback.right is False
    assert feedback.misconception is None


@pytest.mark.slow
def test_the_verdicts_are_what_the_tables_say() -> None:
    table = published.table("peft_benchmark")
    rows = table.set_index("method")

    def chance(name: str, cost: str, noise: str = "reruns") -> float:
        shown = mv.explore.pareto(cost, noise).drawn()
        return float(shown.front.probability[shown.names.index(name)])

    # A: one question, of which repeated runs of one configuration differ by more than ten.
    c3a = table.set_index("experiment").loc["c3a-default"]
    assert round(c3a.accuracy * 1319) == 643
    assert round(rows.accuracy["MiSS r=64"] * 1319) == 642
    runs = published.table("peft_reruns").query("experiment == 'miss-default'").accuracy
    assert (runs.max() - runs.min()) * 1319 > 10
    # B
    assert rows.num_parameters["VeRA r=256"] < rows.num_parameters["MiSS r=64"]
    assert rows.memory_bytes["VeRA r=256"] > rows.memory_bytes["MiSS r=64"]
    # C
    assert chance("MiSS mini 64×64", "memory") == 1
    assert (table.accuracy > rows.accuracy["MiSS mini 64×64"]).sum() > 30
    assert rows.accuracy["MiSS mini 64×64"] == pytest.approx(0.38, abs=0.005)
    cheapest = table.loc[table.memory_bytes.idxmin()]
    assert cheapest.accuracy < 0.02
    # D: one question, and about every second time.
    assert c3a.file_bytes < rows.file_bytes["MiSS r=64"]
    assert chance("MiSS r=64", "file size", "none") == 0
    assert 0.4 < chance("MiSS r=64", "file size") < 0.55
    # E
    for noise in ("none", "reruns", "questions", "both"):
        assert chance("MiSS r=64", "memory", noise) > 0.999
    cheaper = table[table.memory_bytes < rows.memory_bytes["MiSS r=64"]]
    assert cheaper.accuracy.max() < rows.accuracy["MiSS r=64"] - 0.1


@pytest.mark.parametrize("answer", TOKENS_RIGHT.values(), ids=TOKENS_RIGHT)
def test_right_tokens(answer) -> None:
    feedback = check.crossover(answer)
    assert feedback.right is True, feedback


@pytest.mark.parametrize(
    ("key", "answer"), [(key, a) for key, answers in TOKENS_WRONG.items() for a in answers]
)
def test_wrong_tokens(key: str, answer) -> None:
    feedback = check.crossover(answer)
    assert feedback.right is False
    assert feedback.misconception == key, feedback


def test_every_listed_mistake_is_tested_and_tells_itself_apart() -> None:
    assert set(TOKENS_WRONG) == set(TOKEN_MISTAKES)
    rules = [TOKENS_RIGHT["as in the lesson"], *(rule for rule, _ in TOKEN_MISTAKES.values())]
    answers = [tuple(rule(*case) for case in TOKEN_CASES) for rule in rules]
    for n, one in enumerate(answers):
        for other in answers[:n]:
            assert not all(map(math.isclose, one, other))


@pytest.mark.parametrize("case", TOKEN_CASES)
def test_the_right_count_is_what_the_counter_sees(case) -> None:
    """Per token the efficient form's products; once the product B A."""
    d, k, r = case
    counted: pd.Series = cost([mv.LoRA(r)], d, k, tokens=1).iloc[1]
    per_token = counted["extra_forward_flops"] / 2
    assert r * d * k / per_token == pytest.approx(TOKENS_RIGHT["as in the lesson"](d, k, r))


@pytest.mark.parametrize("answer", [None, ..., lambda *_: ..., lambda *_: None])
def test_unanswered_tokens(answer) -> None:
    assert check.crossover(answer).right is None


@pytest.mark.parametrize("answer", [3, "dk", lambda *_: 1 / 0, lambda: 1, lambda *_: "many"])
def test_tokens_never_raise(answer) -> None:
    feedback = check.crossover(answer)
    assert feedback.right is False
    assert feedback.misconception is None
