"""Lesson 07: four folders without a name, and what tells one from another."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from missviz.adapters.update import Update
from missviz.check.feedback import Feedback, unanswered
from missviz.files import write_whole
from missviz.peft_folder import write_peft
from missviz.randomness import generator_for

KINDS = ("task", "scaled", "labels", "noise")
"""Trained on the task; the same with another α; trained on random labels; never trained."""
MEASURES = ("norm", "stable rank", "cosine")
"""What `evidence` may name: the size of ΔW, its stable rank, its cosine to a known adapter."""
TELLING = {"scaled": "norm", "labels": "cosine", "noise": "stable rank"}
"""The measure that sets each of the three apart from the adapter trained on the task."""
BLIND = {
    ("scaled", "stable rank"): (
        "α judged by stable rank",
        "Another α multiplies ΔW by a number, and Σσ²/σ₁² does not change by that. What does?",
    ),
    ("scaled", "cosine"): (
        "α judged by direction",
        "Another α multiplies ΔW by a number, and a cosine does not change by that. What does?",
    ),
    ("labels", "stable rank"): (
        "low rank means a task",
        "Stable rank is about as low after training on random labels: it shows that something "
        "was fitted, not what. Which measure knows what was learnt?",
    ),
    ("labels", "norm"): (
        "size means a task",
        "The norm is larger here, but so it would be with another α, or after more steps. Which "
        "measure knows what was learnt?",
    ),
    ("noise", "norm"): (
        "size shows training",
        "This control was given the norms of a trained adapter. What did nobody give it?",
    ),
    ("noise", "cosine"): (
        "no likeness means no training",
        "Its cosine to the known adapter is near 0, but so is that of training on random labels. "
        "What do both trained adapters have, and this one lacks?",
    ),
}


LETTERS = ("W", "X", "Y", "Z")
LOUDER = 8
"""What "scaled" multiplies α by."""


SWAPPED = {
    frozenset({"task", "scaled"}): (
        "the same update at two sizes. The adapter you know was trained with α = r; which of the "
        "two has its norms?",
        "α is cosmetic",
    ),
    frozenset({"task", "labels"}): (
        "both were trained, only one on the task. Look at what you can compare with the adapter "
        "that you know.",
        "low rank means a task",
    ),
    frozenset({"task", "noise"}): (
        "one of them has the norms of the other, and nothing else of it. Which of the two is close "
        "to the adapter that you know, and has a stable rank as low?",
        "size shows training",
    ),
    frozenset({"scaled", "labels"}): (
        "both norms are larger than those of the adapter you know. Only one of the two points its "
        "way: look at the cosine.",
        "size means a task",
    ),
    frozenset({"scaled", "noise"}): (
        "another α changes all norms by one number, and nothing else. Which of the two keeps the "
        "stable rank, and the cosine to the adapter that you know?",
        "size shows training",
    ),
    frozenset({"labels", "noise"}): (
        "neither is like the adapter you know, and one of them was trained nevertheless. What does "
        "training leave in ΔW, whatever it was trained on? Look at the stable rank.",
        "no likeness means no training",
    ),
}
"""Of two kinds that were taken for each other: what to say, and the wrong idea behind it."""


def anonymous_folders(
    folder: str | Path, *, task: str | Path, labels: str | Path, noise: Mapping[str, Update]
) -> dict[str, str]:
    """Exercise 07: write four LoRA folders W, X, Y, Z into `folder`, in an order that is always the
    same: copies of `task` and `labels`, `task` again with eight times its α, and `noise`.

    Returns {letter: "task", "scaled", "labels" or "noise"}, for `anonymous_adapters`.
    """
    order = torch.randperm(len(KINDS), generator=generator_for("lesson 07")).tolist()
    key = {letter: KINDS[place] for letter, place in zip(LETTERS, order, strict=True)}
    for letter, kind in key.items():
        place = Path(folder) / letter
        if kind == "noise":
            write_peft(noise, place)
            continue
        shutil.copytree(labels if kind == "labels" else task, place, dirs_exist_ok=True)
        if kind == "scaled":
            path = place / "adapter_config.json"
            config = json.loads(path.read_text(encoding="utf-8"))
            config["lora_alpha"] *= LOUDER
            write_whole(path, json.dumps(config, indent=2) + "\n")
    return key


def anonymous_adapters(names: Any, evidence: Any, key: Mapping[str, str]) -> Feedback:
    """Exercise 07: `names` says for each folder which of "task", "scaled", "labels", "noise" it
    is; `evidence` says which of "norm", "stable rank", "cosine" tells "scaled", "labels" and
    "noise" from "task". `key` is the truth, {folder: kind}.
    """
    if any(unanswered(part) for part in (names, evidence)) or _gaps(names) or _gaps(evidence):
        return Feedback(
            None,
            "Fill in both dictionaries and run again. The tables above have all you need: compare "
            "each folder with the adapter that you know, and with the other three.",
        )
    for what, answer, wanted, valid in (
        ("names", names, tuple(key), KINDS),
        ("evidence", evidence, tuple(TELLING), MEASURES),
    ):
        if problem := _form_problem(what, answer, wanted, valid):
            return problem
    return _judge_names(names, key) or _judge_evidence(evidence)


def _gaps(answer: Any) -> bool:
    return isinstance(answer, Mapping) and any(unanswered(value) for value in answer.values())


def _form_problem(
    what: str, answer: Any, wanted: tuple[str, ...], valid: tuple[str, ...]
) -> Feedback | None:
    if not isinstance(answer, Mapping) or set(answer) != set(wanted):
        return Feedback(False, f"`{what}` must be a dictionary with the keys {', '.join(wanted)}.")
    for name, value in answer.items():
        if value not in valid:
            return Feedback(False, f"{what}[{name!r}] must be one of: {', '.join(valid)}.")
    return None


def _judge_names(names: Mapping[str, str], key: Mapping[str, str]) -> Feedback | None:
    wrong = [folder for folder in key if names[folder] != key[folder]]
    if not wrong:
        return None
    mixed = frozenset(key[folder] for folder in wrong)
    if mixed in SWAPPED:
        hint, misconception = SWAPPED[mixed]
        two = " and ".join(sorted(wrong))
        return Feedback(False, f"Two are the other way round, {two}: {hint}", misconception)
    return Feedback(
        False,
        f"{len(wrong)} of {len(key)} are wrong: {', '.join(sorted(wrong))}. Begin with the one "
        "that was never trained: its stable rank is not low.",
    )


def _judge_evidence(evidence: Mapping[str, str]) -> Feedback:
    for kind, measure in TELLING.items():
        if evidence[kind] != measure:
            misconception, message = BLIND[kind, evidence[kind]]
            return Feedback(False, f"The names are right. {kind!r}: {message}", misconception)
    return Feedback(
        True,
        "The norm knows α, the cosine knows the task, and stable rank knows that something was "
        "fitted. No one of them knows all three.",
    )
