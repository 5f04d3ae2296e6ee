"""What a check says."""

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor


@dataclass(frozen=True)
class Feedback:
    """What a check has to say."""

    right: bool | None
    """True, False, or None while unanswered."""
    message: str
    misconception: str | None = None
    """A short key of the wrong idea that was recognised."""

    def __repr__(self) -> str:
        return {True: "Right. ", False: "Not yet. ", None: ""}[self.right] + self.message


def unanswered(answer: object) -> bool:
    """Whether the three dots are still there."""
    return answer is None or isinstance(answer, EllipsisType)


def equal(left: Tensor, right: Tensor) -> bool:
    """Whether two results are the same up to rounding."""
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-6, atol=1e-9)


def raised(error: Exception, what: str = "Your function") -> Feedback:
    """What to say of an answer that raises."""
    return Feedback(False, f"{what} raised {type(error).__name__}: {error}")
