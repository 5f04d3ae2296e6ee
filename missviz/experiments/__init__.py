"""WHAT TRAINING DOES: runs in, tidy tables out; many runs trained as one."""

from missviz.experiments.ensemble import Ensemble, train
from missviz.experiments.fine_tuning.experiment import fine_tune
from missviz.experiments.no_free_lunch import no_free_lunch
from missviz.experiments.runs import Runs
from missviz.experiments.snapshots import adapter_snapshots
from missviz.experiments.tasks_on_networks import Split, Task
from missviz.experiments.timings import adapter_timings

__all__ = [
    "Ensemble",
    "Runs",
    "Split",
    "Task",
    "adapter_snapshots",
    "adapter_timings",
    "fine_tune",
    "no_free_lunch",
    "train",
]
