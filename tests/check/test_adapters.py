"""The exercise of lesson 07: right answers, and each wrong idea by its name."""

import itertools

import pytest
import torch

import missviz as mv
from missviz import check
from missviz.analysis.comparison import random_like
from missviz.check.adapters import BLIND, KINDS, LETTERS, MEASURES, SWAPPED, TELLING
from missviz.testing import random_linear, randomise

KEY = {"W": "noise", "X": "labels", "Y": "scaled", "Z": "task"}


def swapped(one: str, other: str) -> dict[str, str]:
    turn = {one: other, other: one}
    return {letter: turn.get(kind, kind) for letter, kind in KEY.items()}


def test_right() -> None:
    feedback = check.anonymous_adapters(KEY, TELLING, KEY)
    assert feedback.right
    assert check.anonymous_adapters(dict(KEY), dict(reversed(TELLING.items())), KEY).right


@pytest.mark.parametrize(
    ("names", "evidence"),
    [
        (dict.fromkeys(KEY, ...), dict.fromkeys(TELLING, ...)),
        (KEY, ...),
        (None, TELLING),
        ({**KEY, "W": ...}, TELLING),
        (KEY, {**TELLING, "labels": None}),
    ],
)
def test_unanswered(names, evidence) -> None:
    assert check.anonymous_adapters(names, evidence, KEY).right is None


@pytest.mark.parametrize(
    ("names", "evidence", "misconception"),
    [
        (swapped("task", "scaled"), TELLING, "α is cosmetic"),
        (swapped("task", "labels"), TELLING, "low rank means a task"),
        (swapped("noise", "labels"), TELLING, "no likeness means no training"),
        (swapped("noise", "task"), TELLING, "size shows training"),
        (swapped("noise", "scaled"), TELLING, "size shows training"),
        (swapped("labels", "scaled"), TELLING, "size means a task"),
        ({**KEY, "W": "labels"}, TELLING, None),
        (KEY, {**TELLING, "scaled": "stable rank"}, "α judged by stable rank"),
        (KEY, {**TELLING, "scaled": "cosine"}, "α judged by direction"),
        (KEY, {**TELLING, "labels": "stable rank"}, "low rank means a task"),
        (KEY, {**TELLING, "labels": "norm"}, "size means a task"),
        (KEY, {**TELLING, "noise": "norm"}, "size shows training"),
        (KEY, {**TELLING, "noise": "cosine"}, "no likeness means no training"),
    ],
)
def test_wrong_ideas_are_named(names, evidence, misconception) -> None:
    feedback = check.anonymous_adapters(names, evidence, KEY)
    assert feedback.right is False
    assert feedback.misconception == misconception


def test_every_pair_of_folders_taken_for_each_other_gets_a_hint() -> None:
    pairs = list(itertools.combinations(KINDS, 2))
    assert set(SWAPPED) == {frozenset(pair) for pair in pairs}
    said = {check.anonymous_adapters(swapped(*pair), TELLING, KEY).message for pair in pairs}
    assert len(said) == len(pairs)
    assert all(message.startswith("Two are the other way round, ") for message in said)


def test_every_wrong_evidence_has_an_answer() -> None:
    wrong = {pair for pair in itertools.product(TELLING, MEASURES) if TELLING[pair[0]] != pair[1]}
    assert wrong == set(BLIND)


@pytest.mark.parametrize(
    ("names", "evidence", "message"),
    [
        ({"W": "task"}, TELLING, "`names` must be a dictionary with the keys W, X, Y, Z"),
        (["task"], TELLING, "`names` must be a dictionary"),
        (KEY, {}, "`evidence` must be a dictionary with the keys scaled, labels, noise"),
        ({**KEY, "W": "random"}, TELLING, r"names\['W'\] must be one of: task, scaled"),
        (KEY, {**TELLING, "noise": "rank"}, r"evidence\['noise'\] must be one of: norm"),
        ({**KEY, "W": []}, TELLING, r"names\['W'\] must be one of"),
    ],
)
def test_form(names, evidence, message) -> None:
    feedback = check.anonymous_adapters(names, evidence, KEY)
    assert feedback.right is False
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(feedback.message)


def test_the_folders_are_what_the_key_says(tmp_path) -> None:
    model = torch.nn.ModuleDict({"fc": random_linear(12, 16, torch.float32)})
    trained = {}
    for name in ("task", "labels"):
        trained[name] = mv.attach(model, mv.LoRA(4), seed=len(name))
        randomise(trained[name], name)
        mv.write_peft(trained[name], tmp_path / name)
    noise = random_like(trained["task"])
    places = {name: tmp_path / name for name in trained}
    key = check.anonymous_folders(tmp_path, **places, noise=noise)
    assert key == check.anonymous_folders(tmp_path, **places, noise=noise)
    assert tuple(key) == LETTERS
    assert sorted(key.values()) == ["labels", "noise", "scaled", "task"]
    opened = {kind: mv.read_peft(tmp_path / letter)["fc"].delta() for letter, kind in key.items()}
    task = trained["task"].fc.delta().detach()
    assert torch.allclose(opened["task"], task)
    assert torch.allclose(opened["scaled"], 8 * task)
    assert torch.allclose(opened["labels"], trained["labels"].fc.delta().detach())
    assert torch.linalg.norm(opened["noise"]) == pytest.approx(
        float(torch.linalg.norm(task)), rel=1e-5
    )
