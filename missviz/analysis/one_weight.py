"""One weight w = w₀ + b a, which should be w₀ + 1: LoRA's two numbers, its loss and its descent."""

from typing import Any

import numpy as np
from jaxtyping import Float

from missviz.adapters import validation

TRAININGS = ("both trained", "a frozen")
RATE = 0.2


def loss(b: Any, a: Any) -> Any:
    """L = ½ (1 − b a)²."""
    return (1 - b * a) ** 2 / 2


def gradient(b: Any, a: Any) -> tuple[Any, Any]:
    """(∂L/∂b, ∂L/∂a) = −(1 − b a) (a, b)."""
    return -(1 - b * a) * a, -(1 - b * a) * b


def descent(
    start: float, training: str = "both trained", steps: int = 20, rate: float = RATE
) -> Float[np.ndarray, "steps1 2"]:
    """(b, a) after 0, 1, … steps of gradient descent from b = 0, a = `start`.

    Raises TypeError or ValueError, naming the argument.
    """
    validation.one_of("training", training, TRAININGS)
    rate = validation.positive_float("rate", rate)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps={steps!r} is not a whole number from 0 on")
    path = [(0.0, float(start))]
    for _ in range(steps):
        b, a = path[-1]
        along_b, along_a = gradient(b, a)
        path.append((b - rate * along_b, a - rate * along_a * (training != "a frozen")))
    return np.array(path)
