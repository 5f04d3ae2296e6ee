"""Self-checks for the exercises: a hint while unanswered, and the misconception behind a wrong one.

One file per lesson. No check raises: an untouched lesson runs through. Each returns Feedback, which
a notebook shows.
"""

from missviz.check.adapters import anonymous_adapters, anonymous_folders
from missviz.check.colinearity import bat_is_linear, mean_cosine
from missviz.check.cost import crossover, survives_the_noise
from missviz.check.expansion import invisible_input, my_miss
from missviz.check.feedback import Feedback
from missviz.check.gradients import gain_and_rate
from missviz.check.no_free_lunch import task_won_by_block_miss
from missviz.check.reach import target_miss_cannot_touch
from missviz.check.sharing import break_even, pool_size
from missviz.check.start_here import lora_delta

__all__ = [
    "Feedback",
    "anonymous_adapters",
    "anonymous_folders",
    "bat_is_linear",
    "break_even",
    "crossover",
    "gain_and_rate",
    "invisible_input",
    "lora_delta",
    "mean_cosine",
    "my_miss",
    "pool_size",
    "survives_the_noise",
    "target_miss_cannot_touch",
    "task_won_by_block_miss",
]
