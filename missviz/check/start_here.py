"""Lesson 00: LoRA's update in one line."""

import math
from collections.abc import Callable
from types import EllipsisType

import torch
from torch import Tensor

from missviz.check.feedback import Feedback, equal, raised, unanswered
from missviz.randomness import generator_for, normal

LORA_MISTAKES: dict[str, tuple[Callable[[Tensor, Tensor, float, int], Tensor], str]] = {
    "A @ B": (
        lambda A, B, alpha, r: A @ B,
        "A @ B is r × r: it maps nothing of the layer. ΔW takes k inputs to d outputs, so x meets "
        "A first: ΔW x = B (A x).",
    ),
    "α/r forgotten": (
        lambda A, B, alpha, r: B @ A,
        "The product is right and the scaling is missing: ΔW = (α/r) B A. Adapters loaded "
        "without it are α/r times too weak or too strong.",
    ),
    "not divided by r": (
        lambda A, B, alpha, r: alpha * B @ A,
        "α is divided by the rank: s = α/r. Otherwise a larger rank would also mean larger steps.",
    ),
    "r/α": (
        lambda A, B, alpha, r: r / alpha * B @ A,
        "The scaling is upside down: s = α/r, not r/α.",
    ),
    "α/√r": (
        lambda A, B, alpha, r: alpha / math.sqrt(r) * B @ A,
        "α/√r is rsLoRA's scaling; LoRA divides by r.",
    ),
    "α/k or α/d": (
        lambda A, B, alpha, r: alpha / A.shape[-1] * B @ A,
        "α is divided by the rank r, the small dimension that A and B share.",
    ),
    "transposed": (
        lambda A, B, alpha, r: alpha / r * (B @ A).mT,
        "That is ΔWᵀ, in × out. A weight here is out × in, as in nn.Linear.",
    ),
}


def lora_delta(answer: Callable[[Tensor, Tensor, float], Tensor] | EllipsisType | None) -> Feedback:
    """Exercise 00: `answer(A, B, alpha)` is LoRA's ΔW, for A (r, k) and B (d, r)."""
    hint = Feedback(
        None, "Fill in `lora_delta` and run again. Shapes help: A is r × k, B is d × r."
    )
    if unanswered(answer):
        return hint
    if not callable(answer):
        return Feedback(False, "`lora_delta` must be a function of A, B and alpha.")
    alpha, rank = 7.5, 3
    # A square layer lets every order of A and B run, so that each can be recognised.
    for out_features, in_features in ((7, 7), (5, 7)):
        generator = generator_for("check", out_features)
        A = normal((rank, in_features), 1.0, generator)
        B = normal((out_features, rank), 1.0, generator)
        try:
            got = answer(A.clone(), B.clone(), alpha)
            if unanswered(got):
                return hint
            got = torch.as_tensor(got, dtype=torch.float64)
        except Exception as error:
            return raised(error)
        if equal(got, alpha / rank * (B @ A)):
            continue
        for key, (mistake, message) in LORA_MISTAKES.items():
            wrong = mistake(A, B, alpha, rank)
            if equal(got, wrong) or (key == "A @ B" and got.shape == wrong.shape):
                return Feedback(False, message, key)
        if got.shape == (out_features, in_features):
            return Feedback(
                False,
                "The shape is right, the values are not (α/r) B A. Is a scale written as a number?",
            )
        shape = f"{tuple(got.shape)} for A {tuple(A.shape)} and B {tuple(B.shape)}"
        return Feedback(False, f"ΔW is d × k; yours is {shape}.")
    return Feedback(True, "ΔW = (α/r) B A, one line, and every figure of LoRA follows from it.")
