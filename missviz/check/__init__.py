"""Self-checks for the exercises: a hint while unanswered, and the misconception behind a wrong one.

One file per lesson. No check raises: an untouched lesson runs through. Each returns Feedback, which
a notebook shows.
"""

from missviz.check.feedback import Feedback
from missviz.check.no_free_lunch import task_won_by_block_miss
from missviz.check.start_here import lora_delta

__all__ = ["Feedback", "lora_delta", "task_won_by_block_miss"]
