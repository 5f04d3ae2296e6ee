"""Fine-tune a frozen network on a task, with every method and seed: `fine_tune`."""

import math
import platform
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import missviz
from missviz.adapters import validation
from missviz.adapters.attach import Targets
from missviz.adapters.base import Adapter, Method
from missviz.adapters.trial import on_layer
from missviz.experiments.arguments import (
    TUNING_SEED,
    checked_device,
    checked_disjoint,
    checked_executor,
    checked_rates,
    checked_seeds,
    listed_methods,
)
from missviz.experiments.fine_tuning.classifier import MASK, Classifier
from missviz.experiments.fine_tuning.memory import (
    free_bytes,
    members_that_fit,
)
from missviz.experiments.fine_tuning.subject import (
    Ready,
    Subject,
    adapted_layers,
    forget,
    ready,
)
from missviz.experiments.fine_tuning.training import (
    Chunk,
    Members,
    Settings,
    classifier,
    head_parameters,
    run_chunk,
)
from missviz.experiments.rates import Rates, runs_of, warn_of_edges
from missviz.experiments.runs import Runs
from missviz.experiments.sweep import Cell, Kept, Result, run_cells
from missviz.experiments.tasks import HALF_DECADES
from missviz.experiments.tasks_on_networks import NEEDED, Split, Task
from missviz.machine import one_thread

FOR_KNOWN = 0.4
"""Of the memory that is free, what may be taken by what is computed once."""

EQUAL = 0.1
"""Budgets that differ by more than this share of the first are named."""


def fine_tune(
    network: nn.Module,
    task: Task,
    methods: Sequence[Method],
    seeds: int | Iterable[int] = 10,
    learning_rates: Sequence[float] | None = None,
    *,
    targets: Targets = "*",
    tune_seeds: int | Iterable[int] = 5,
    steps: int = 200,
    batch_size: int = 32,
    evaluate_every: int = 20,
    weight_decay: float = 0.0,
    remembered: Sequence[Task] = (),
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    cache: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Runs:
    """Adapt a frozen network to a task by AdamW, with every method and seed, and a new linear head.

    The head, with a start of its own for each seed, is trained in every method; so it is in the
    linear probe, which trains nothing else and always stands beside them. Each method's rate is
    chosen on `tune_seeds` by validation loss; each run stops at the step whose validation loss is
    lowest; figures come from "test" and the transfer splits at that step, which nothing looks at
    before. A run depends on its seed, method and rate: on its company only by rounding.

    Batches are of examples of like length, cut to the longest; members of a seed see the same ones.
    There is no dropout. What the network does before its first adapted block is computed once.

    Args:
        network: any module with linear layers, called with a split's inputs by keyword. It gives
            (n, features) or (n, tokens, features), which is averaged over "attention_mask", or a
            Hugging Face output with a `last_hidden_state`. It stays as it is.
        task: splits "train", "valid" and "test", and any others to test transfer on.
        methods: any Methods, your own too. `FullFineTuning()` trains all of the same layers.
        seeds: the seeds, or how many from 43 on.
        learning_rates: the grid from which each method's rate is chosen. The default grid, half
            decades from 3e-4 to 3e-2, is widened while the best rate is on its edge; a grid that
            you give is not, and a best rate on its edge is flagged (`summary().rate_on_edge`) with
            a UserWarning. A single rate is taken as it is: nothing is tuned then.
        targets: the layers to adapt, as for `missviz.attach`.
        tune_seeds: seeds for that choice, or how many from 1000 on; none may be among `seeds`.
        steps: optimiser steps.
        batch_size: examples in each.
        evaluate_every: steps between two looks at the validation split.
        weight_decay: of all that is trained, as AdamW has it.
        remembered: tasks that the network could do before. At the step where a run stops, a linear
            probe is fitted to its features on each one's "train" (ridge logistic regression, the
            ridge chosen on "valid"); its figures on "test" stand under the task's name, and beside
            them ("unadapted") those of the network as it was: learning against forgetting.
        device: None means a GPU if there is one.
        dtype: torch.float32 or torch.float64, of network, adapters and floating-point inputs.
        cache: folder in which finished chunks (up to 32 members; fewer where memory is short) are
            kept and found again, as for `no_free_lunch`. The network is known by its numbers and by
            the source of its modules' classes. Read by pickle: not a folder of somebody else's.
        executor: any concurrent.futures.Executor; None means threads on this machine's cores. Every
            chunk that leaves this process takes network and task along.
        progress: show a progress bar.

    Returns:
        Runs: `summary()` and `summary(measure="accuracy")`, `to_frame()`, `plot()`, `notes`. Its
        target is the task. "train" is the loss before each step on that step's batch, "valid" is
        there at evaluated steps, the other splits at the step where the run stopped. Baselines:
        "constant" gives every class its share of the training split, so that its accuracy is the
        majority's; "unadapted" is the linear probe. `adapter_parameters` leaves the head out.

    Raises:
        TypeError, ValueError: naming the argument and what would be valid; also where memory is
        short. Whatever a chunk raises, with a note that says which chunk it was.
    """
    _check_network_and_task(network, task)
    remembered = _checked_remembered(remembered, task)
    methods = listed_methods(methods)
    report_seeds = checked_seeds("seeds", seeds)
    grid = checked_rates(HALF_DECADES, learning_rates)
    tuning = checked_seeds("tune_seeds", tune_seeds, TUNING_SEED) if len(grid) > 1 else ()
    checked_disjoint("tune_seeds", tuning, report_seeds)
    rates = Rates(grid, tuning, widen=learning_rates is None)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} is not torch.float32 or torch.float64")
    settings = Settings(
        validation.positive_int("steps", steps),
        validation.positive_int("batch_size", batch_size),
        validation.positive_int("evaluate_every", evaluate_every),
        validation.non_negative_float("weight_decay", weight_decay),
        dtype,
    )
    place = checked_device(device)
    checked_executor(executor)
    kept = Kept(cache)
    subject = Subject(network, task, remembered)
    report = tuple(split for split in task.splits if split not in ("train", "valid"))
    report += tuple(other.name for other in remembered)
    cores = torch.get_num_threads() if place == "cpu" else 1
    try:
        with (
            one_thread() if place == "cpu" else nullcontext(),
            ThreadPoolExecutor(cores) if executor is None else nullcontext(executor) as workers,
        ):
            plans = plan(
                Chunk(subject, None, targets, (), settings, place, report),
                methods,
                cores if executor is None else getattr(executor, "_max_workers", 1),
            )
            rounds = [len(report_seeds)]
            if len(grid) > 1:
                rounds.append(len(grid) * len(tuning))
            expected = sum(math.ceil(n / plan.members) for plan in plans for n in rounds)
            cells = [run_cell(plan, report_seeds, rates) for plan in plans]
            with tqdm(total=expected, desc=task.name, unit="chunk", disable=not progress) as bar:
                done = run_cells(cells, run_chunk, workers, kept, bar)
    finally:
        forget()
    probed, *adapted = [frame for frame, _ in done]
    tuned = [table for _, table in done if table is not None]
    losses = pd.concat(adapted, ignore_index=True)
    divergence = diverged(pd.concat([probed, losses]))
    runs = Runs(
        losses=losses,
        baselines=pd.concat(
            [constant(task, remembered, report_seeds), as_baseline(probed)], ignore_index=True
        ),
        settings={
            "protocol": {
                "name": "fine_tune",
                "learning_rates": list(grid),
                "steps": steps,
                "batch_size": batch_size,
                "evaluate_every": evaluate_every,
                "weight_decay": settings.weight_decay,
                "samples": {name: len(split) for name, split in subject.splits.items()},
                "network": type(network).__name__,
                "layers": list(plans[1].layers),
            },
            "methods": {method.name: repr(method) for method in methods},
            "targets": [task.name],
            "seeds": list(report_seeds),
            "tuning_seeds": list(tuning),
            "tune_on": "valid" if tuned else None,
            "dtype": str(dtype),
            "device": place,
            "threads": cores,
            "versions": {
                "missviz": missviz.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
        tuning=pd.concat(tuned, ignore_index=True) if tuned else None,
        notes=tuple(note for plan in plans for note in plan.notes)
        + unequal_budgets({plan.name: plan.trained for plan in plans[1:]})
        + divergence,
    )
    for note in divergence:
        warnings.warn(note, UserWarning, stacklevel=2)
    warn_of_edges(runs.tuning)
    return runs


# --- Plan -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How one method is run, found by trying it on two members."""

    chunk: Chunk
    """With no members yet."""
    members: int
    """Most in a chunk."""
    trained: int
    """Numbers per member, without the head."""
    layers: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.chunk.method_name


def plan(template: Chunk, methods: Sequence[Method], at_once: int) -> list[Plan]:
    """The linear probe's plan, and each method's, for as many chunks `at_once`.

    Raises ValueError where a method does not fit the network, or members do not fit into memory.
    """
    there = ready(template.subject, template.device, template.settings.dtype)
    return [
        plan_one(replace(template, method=method), there, at_once) for method in (None, *methods)
    ]


def plan_one(chunk: Chunk, there: Ready, at_once: int) -> Plan:
    model = classifier(chunk, there, seed=0)
    for part in model.modules():
        if isinstance(part, Adapter) and chunk.method is not None:
            on_layer(chunk.method, part.base)
            break
    notes, splits = [], chunk.subject.splits
    fixed = there.bytes_of_examples(splits)
    chunk, known = with_room(chunk, there, model)
    if known is None:
        notes.append(
            f"{chunk.method_name}: what its frozen layers give is too large to keep, so they "
            "run at every step"
        )
    pair = Members(chunk, there, [model, model], [(0, 1.0), (0, 1.0)])
    per_member, unreached = pair.tried()
    if unreached:
        notes.append(
            f"{chunk.method_name}: the features do not depend on {', '.join(unreached)}, whose "
            "numbers are counted and cannot learn"
        )
    return Plan(
        chunk,
        members_that_fit(per_member, fixed + (known or 0), at_once, chunk.device),
        pair.num_parameters - head_parameters(model),
        adapted_layers(model),
        tuple(notes),
    )


def with_room(chunk: Chunk, there: Ready, model: Classifier) -> tuple[Chunk, int | None]:
    """`chunk` so that what is known of all examples has room, and the bytes that this takes; None
    where there is none for it."""
    free, splits = free_bytes(chunk.device), chunk.subject.splits
    for keep in ("inside", "before"):
        found = there.constants(model, chunk.method_name, keep, chunk.settings.batch_size)
        size = there.bytes_known(found, model, splits)
        if free is None or size <= FOR_KNOWN * free:
            return replace(chunk, settings=replace(chunk.settings, keep=keep)), size
    return replace(chunk, settings=replace(chunk.settings, keep="nothing")), None


def run_cell(
    plan: Plan, seeds: Sequence[int], rates: Rates
) -> Cell[tuple[pd.DataFrame, pd.DataFrame | None]]:
    """One method: its rate chosen on seeds of their own, and then its runs."""
    subject = plan.chunk.subject

    def train(members: list[tuple[int, float]], *, blind: bool = False) -> Cell[pd.DataFrame]:
        report = () if blind else plan.chunk.report
        chunks = [
            replace(plan.chunk, members=tuple(members[start : start + plan.members]), report=report)
            for start in range(0, len(members), plan.members)
        ]
        results = yield chunks
        frame = pd.concat(map(tidy, chunks, results))
        # The order of rows does not tell how members were shared out to chunks.
        names = (*subject.task.splits, *(other.name for other in subject.remembered))
        places = {split: place for place, split in enumerate(names)}
        by_split = frame.sort_values("split", key=lambda names: names.map(places), kind="stable")
        return by_split.reset_index(drop=True)

    losses, table = yield from runs_of(train, seeds, rates)
    if table is not None:
        table.insert(0, "target", subject.task.name)
        table.insert(1, "method", plan.name)
    return losses, table


# --- Collect ----------------------------------------------------------------------------------


def tidy(chunk: Chunk, result: Result) -> pd.DataFrame:
    """A chunk's figures as rows."""
    members = pd.DataFrame(chunk.members, columns=["seed", "learning_rate"])
    every = np.arange(chunk.settings.steps + 1)
    steps = {"train": every, "valid": np.array(chunk.settings.evaluated)}
    parts = []
    for split, curves in result["curves"].items():
        for place in range(len(members)):
            of_one = {name: values[place] for name, values in curves.items()}
            parts.append(
                pd.DataFrame({"member": place, "step": steps[split], "split": split, **of_one})
            )
    for split, figures in result["stopped"].items():
        rows = {"member": members.index, "step": result["stops"], "split": split, **figures}
        parts.append(pd.DataFrame(rows))
    frame = pd.concat(parts, ignore_index=True)
    frame = members.loc[frame.pop("member")].reset_index(drop=True).join(frame)
    frame.insert(0, "target", chunk.subject.task.name)
    frame.insert(1, "method", chunk.method_name)
    counts = ("num_parameters", "adapter_parameters", "init_seconds", "train_seconds")
    return frame.assign(**{name: result[name] for name in counts})


def constant(task: Task, remembered: Sequence[Task], seeds: Sequence[int]) -> pd.DataFrame:
    """What gives every class its share of the training split, and so always chooses the largest."""
    measured = [(task, name, name) for name in task.splits]
    measured += [(other, "test", other.name) for other in remembered]
    rows = []
    for of, split, name in measured:
        counts = torch.bincount(of.splits["train"].targets.cpu(), minlength=of.outputs).double()
        chances = counts / counts.sum()
        targets = of.splits[split].targets.cpu()
        loss = float(-chances.log()[targets].mean())
        accuracy = float((targets == chances.argmax()).double().mean())
        rows += [(task.name, seed, "constant", name, loss, accuracy) for seed in seeds]
    return pd.DataFrame(rows, columns=["target", "seed", "baseline", "split", "loss", "accuracy"])


def as_baseline(probed: pd.DataFrame) -> pd.DataFrame:
    """The linear probe's runs: at the end on the training split, on the others where they stop."""
    valid = probed[probed["split"] == "valid"]
    lowest = valid.loc[valid.groupby("seed")["loss"].idxmin()]
    train = probed[probed["split"] == "train"]
    last = train[train["step"] == train["step"].max()]
    others = probed[~probed["split"].isin(["train", "valid"])]
    rows = pd.concat([last, lowest, others])
    return rows.assign(baseline="unadapted")[
        ["target", "seed", "baseline", "split", "loss", "accuracy"]
    ]


def unequal_budgets(trained: dict[str, int]) -> tuple[str, ...]:
    """A sentence, where methods train other numbers than the first."""
    (first, number), *others = trained.items()
    odd = [f"{name} {n:,}" for name, n in others if abs(n - number) > EQUAL * number]
    if not odd:
        return ()
    return (
        f"unequal budgets: {first} trains {number:,} numbers beside the head, {', '.join(odd)}",
    )


def diverged(losses: pd.DataFrame) -> tuple[str, ...]:
    """A sentence per method whose loss was NaN or infinite, with the seeds."""
    bad = losses[~np.isfinite(losses["loss"])]
    return tuple(
        f"{method} diverged at rate {rate:.3g} on seeds {', '.join(map(str, sorted(set(rows))))}: "
        "its loss was NaN or infinite there, and so are its figures"
        for (method, rate), rows in bad.groupby(["method", "learning_rate"], sort=False)["seed"]
    )


# --- Check ------------------------------------------------------------------------------------


def _check_network_and_task(network: nn.Module, task: Task) -> None:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network={network!r:.60} is not an nn.Module")
    if next(network.parameters(), None) is None:
        raise ValueError(f"network={network!r:.60} has no weights, so there is nothing to adapt")
    _check_task(task)


def _checked_remembered(remembered: Sequence[Task], task: Task) -> tuple[Task, ...]:
    if not isinstance(remembered, Iterable):
        raise TypeError(f"remembered={remembered!r:.60} is not a list of tasks")
    tasks = tuple(remembered)
    for other in tasks:
        _check_task(other)
    names = [other.name for other in tasks]
    if taken := sorted({n for n in names if names.count(n) > 1 or n in task.splits}):
        raise ValueError(
            f"remembered has {taken[0]!r} twice, or the task has such a split; figures stand under "
            "these names"
        )
    return tasks


def _check_task(task: Task) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"task={task!r:.60} is not a missviz.experiments.Task")
    if missing := [name for name in NEEDED if name not in task.splits]:
        raise ValueError(
            f"task {task.name!r} has no {missing[0]!r} split; it needs {', '.join(NEEDED)}"
        )
    validation.positive_int("outputs", task.outputs)
    for name, split in task.splits.items():
        _check_split(f"split {name!r}", split, task.outputs)


def _check_split(name: str, split: Split, outputs: int) -> None:
    targets = split.targets
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64:
        raise TypeError(f"{name}: targets are not a tensor (n,) of torch.int64")
    if len(targets) == 0 or not split.inputs:
        raise ValueError(f"{name} is empty")
    if targets.min() < 0 or targets.max() >= outputs:
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise ValueError(
            f"{name}: targets are {found}; with outputs={outputs} they are 0 to {outputs - 1}"
        )
    for key, tensor in split.inputs.items():
        if not isinstance(tensor, Tensor) or tensor.dim() == 0 or len(tensor) != len(targets):
            shape = tuple(getattr(tensor, "shape", ()))
            raise ValueError(f"{name}: inputs[{key!r}] is {shape} for {len(targets)} targets")
        if tensor.is_floating_point():
            validation.finite(f"{name}: inputs[{key!r}]", tensor)
    if MASK in split.inputs and split.inputs[MASK].dim() != 2:
        raise ValueError(f"{name}: {MASK} is not (n, tokens)")
