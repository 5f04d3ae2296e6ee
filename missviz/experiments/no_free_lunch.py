"""The "no free lunch" experiment of the MiSS paper (§3.1, Figure 2, Table 12), three ways.

published    the authors' public script, fact by fact: shared rate, second layer trained too
controlled   the same task, second layer frozen, each method's rate tuned on other seeds
teacher      a task that can be learnt: the teacher is the student's network with W₀ + M
"""

import copy
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch.nn.functional import mse_loss
from tqdm.auto import tqdm

import missviz
from missviz.adapters import validation
from missviz.adapters.attach import attach
from missviz.adapters.base import Adapter, Method
from missviz.adapters.trial import refuse_faults, trained_numbers
from missviz.experiments.arguments import (
    ELEMENTWISE,
    OWN_DATA,
    TUNING_SEED,
    checked_device,
    checked_disjoint,
    checked_executor,
    checked_methods,
    checked_protocol,
    checked_rates,
    checked_seeds,
    checked_targets,
)
from missviz.experiments.ensemble import (
    ENGINES,
    LARGEST,
    Engine,
    Ensemble,
    never_alone,
    train,
)
from missviz.experiments.rates import Rates, runs_of, warn_of_edges
from missviz.experiments.runs import Runs
from missviz.experiments.sweep import Cell, Chunk, Kept, Result, run_cells, run_here
from missviz.experiments.tasks import (
    Protocol,
    Target,
    TwoLayerNet,
    adapted_function,
    base_models,
    sample,
    stack_splits,
    teacher_function,
)
from missviz.experiments.timings import adapter_timings
from missviz.machine import one_thread


def run_chunk(chunk: Chunk) -> Result:
    """Train one ensemble. Returns losses {split: (member, steps + 1)}, counts and seconds."""
    device, protocol = torch.device(chunk.device), chunk.protocol
    members = never_alone(chunk.members)
    seeds = tuple(dict.fromkeys(seed for seed, _ in members))
    bases = base_models(seeds, chunk.dtype, device, protocol.data)
    base = dict(zip(seeds, bases, strict=True))
    tasks = {
        seed: make_task(protocol, chunk.target_name, chunk.target, base[seed], seed)
        for seed in seeds
    }
    started = time.perf_counter()
    trainable = ("fc2",) if protocol.train_fc2 else ()
    models = [
        attach(
            base[seed],
            chunk.method,
            "fc1",
            seed=seed,
            trainable=trainable,
            calibration=calibration(chunk.method, base[seed], tasks[seed]["train"]),
        )
        for seed, _ in members
    ]
    ensemble = Ensemble(models, chunk.engine)
    init_seconds = time.perf_counter() - started
    adapter = models[0].fc1
    assert isinstance(adapter, Adapter)
    refuse_faults(chunk.method, adapter)
    splits = stack_splits([tasks[seed] for seed, _ in members], chunk.dtype, device)
    trained = train(ensemble, splits, [rate for _, rate in members], protocol.steps)
    asked = len(chunk.members)
    return {
        "losses": {split: losses[:asked] for split, losses in trained.losses.items()},
        "num_parameters": ensemble.num_parameters,
        "adapter_parameters": trained_numbers(adapter),
        "init_seconds": init_seconds / len(members),
        "train_seconds": trained.seconds / len(members),
        "engine": ensemble.engine,
    }


def calibration(
    method: Method, base: TwoLayerNet, split: tuple[torch.Tensor, torch.Tensor]
) -> Callable[[TwoLayerNet], torch.Tensor] | None:
    """The loss that training begins with, for methods that start from its gradient."""
    if not method.needs_gradient:
        return None
    like = next(base.parameters())
    x, y = (part.to(like) for part in split)
    return lambda model: mse_loss(model(x), y)


def make_task(
    protocol: Protocol, target_name: str, target: Target | None, base: TwoLayerNet, seed: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The splits of one seed: only training targets carry noise, as in the published script."""
    if protocol.data is not None:
        return protocol.data.task(seed, protocol.samples)
    function: Callable[[torch.Tensor], torch.Tensor] = adapted_function
    if target is not None:
        function = teacher_function(base, target, seed, target_name)
    return {
        split: sample(
            function, size, protocol.noise if split == "train" else 0.0, seed, split, "data"
        )
        for split, size in protocol.samples.items()
    }


def no_free_lunch(
    methods: Sequence[Method] | None = None,
    protocol: Literal["published", "controlled", "teacher"] = "published",
    seeds: int | Iterable[int] = 10,
    learning_rates: Sequence[float] | None = None,
    *,
    targets: Sequence[str] | Mapping[str, Target] | None = None,
    data: Any = None,
    tune_on: Literal["valid", "train"] = "valid",
    tuning_seeds: int | Iterable[int] = 5,
    steps: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    engine: Engine = "auto",
    timings: bool = False,
    cache: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Runs:
    """Adapt the first layer of a small network to a new task, with every method and seed.

    The network (64-64-64, ReLU) first learns sin 2πx; each method then adapts fc1 by full-batch
    Adam. A member's result depends on its seed, method and rate alone: not on the other members,
    methods or their order. `published` trains fc2 as well, `controlled` and `teacher` freeze it.

    Args:
        methods: any Methods, your own too; None means `default_methods(protocol)`.
        protocol: "published", "controlled" or "teacher"; see the module's docstring.
        seeds: the seeds, or how many from 43 on.
        learning_rates: published: every method runs at each of them (default 1e-3).
            Otherwise the grid from which each method's rate is chosen, per target. The default
            grid, half decades from 3e-4 to 3e-2, is widened while the best rate is on its edge;
            a grid that you give is not. A best rate that stays on the edge is flagged
            (`summary().rate_on_edge`) with a UserWarning.
        targets: teacher only: names among "low rank", "periodic", "columns", "dense" (default:
            all), or {name: function (W₀, generator) → M} for your own.
        data: your own points for "published" and "controlled": (x, y), arrays or tensors of shapes
            (n, inputs) and (n, outputs), which each seed splits at random, a half for "train", a
            quarter each for "valid" and "test"; or {"train": (x, y), "valid": …, "test": …}, the
            same for every seed ("published" needs no "test"). They are used as they are: no
            scaling, no noise. The network is inputs-64-outputs. It starts untrained, unless there
            is a "base": (x, y) that it learns first, as it otherwise learns sin 2πx. Methods:
            default is full fine-tuning, LoRA, PiSSA, MiSS and its control.
        tune_on: the split whose lowest loss over the steps, averaged over `tuning_seeds`, chooses
            the rate. "train" shows what tuning for memorisation does.
        tuning_seeds: seeds for that choice, or how many from 1000 on; none may be among `seeds`.
        steps: adaptation steps; None means the protocol's (100, 100, 200).
        device: None means a GPU if there is one.
        dtype: of models and data.
        engine: "auto", "native" or "vmap" (`missviz.experiments.Ensemble`).
        timings: also time one layer, as in Figure 2's third panel (some seconds).
        cache: folder in which finished chunks (ensembles of up to 32 members) are kept and found
            again, by the same missviz code, so that what was interrupted goes on. This process
            writes them, each as soon as it is finished and whole or not at all; on a full disk it
            goes on and warns. Methods and targets that missviz does not define are always run:
            their code may change. Read by pickle, so not for a folder of somebody else's.
        executor: any concurrent.futures.Executor, which stays open; None means threads on this
            machine's cores. Dask's is `client.get_executor()`. On processors of one kind the
            results are the same to the last bit whichever runs them; workers need the same missviz
            and torch.
        progress: show a progress bar.

    Returns:
        Runs: `to_frame()`, `summary()`, `plot()`.

    Raises:
        TypeError, ValueError: naming the argument and what would be valid.
        Whatever a chunk raises, with a note that says which chunk it was.
    """
    kind = checked_protocol(protocol, steps, data)
    validation.one_of("engine", engine, ENGINES)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} is not torch.float32 or torch.float64")
    settings = Settings(
        protocol=kind,
        methods=checked_methods(methods, kind.name, kind.data),
        targets=checked_targets(kind, targets),
        seeds=checked_seeds("seeds", seeds),
        rates=Rates(
            checked_rates(kind.learning_rates, learning_rates),
            checked_seeds("tuning_seeds", tuning_seeds, TUNING_SEED) if kind.tuned else (),
            validation.one_of("tune_on", tune_on, ("valid", "train")),
            widen=learning_rates is None,
        ),
        dtype=dtype,
        device=checked_device(device),
        engine=engine,
    )
    checked_disjoint("tuning_seeds", settings.rates.tuning_seeds, settings.seeds)
    checked_executor(executor)
    kept = Kept(cache)
    on_cpu = settings.device == "cpu"
    cores = torch.get_num_threads() if on_cpu else 1
    with (
        # An ensemble on all cores would be slower: see `one_thread`.
        one_thread() if on_cpu else nullcontext(),
        ThreadPoolExecutor(cores) if executor is None else nullcontext(executor) as workers,
        tqdm(total=chunks_in(settings), desc=protocol, unit="chunk", disable=not progress) as bar,
    ):
        floors = [
            baselines(kind, name, target, settings.seeds, dtype, settings.device)
            for name, target in settings.targets.items()
        ]
        done = run_cells(plan(settings), run_chunk, workers, kept, bar)
    result = collect(settings, done, floors)
    warn_of_edges(result.tuning)
    return result.with_timings(adapter_timings(settings.methods)) if timings else result


# --- Settings ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What is run, checked: all that a result depends on."""

    protocol: Protocol
    methods: tuple[Method, ...]
    targets: Mapping[str, Target | None]
    seeds: tuple[int, ...]
    rates: Rates
    dtype: torch.dtype
    device: str
    engine: Engine


# --- Plan -------------------------------------------------------------------------------------


def plan(settings: Settings) -> list[Cell[tuple[pd.DataFrame, pd.DataFrame | None]]]:
    """A cell for each target and method."""
    return [
        run_cell(settings, target, method)
        for target in settings.targets
        for method in settings.methods
    ]


def chunks_in(settings: Settings) -> int:
    """How many chunks there will be, if no grid is widened."""
    rates, seeds = settings.rates, len(settings.seeds)
    rounds = [seeds * len(rates.grid)]
    if rates.tuning_seeds:
        rounds = [len(rates.grid) * len(rates.tuning_seeds), seeds]
    cells = len(settings.targets) * len(settings.methods)
    return cells * sum(math.ceil(members / LARGEST) for members in rounds)


def run_cell(
    settings: Settings, target: str, method: Method
) -> Cell[tuple[pd.DataFrame, pd.DataFrame | None]]:
    """One method on one target: its rows, and how its rate was chosen."""
    whole = settings.protocol
    # Choosing a rate must not see the test split, and need not pay for it.
    seen = {split: size for split, size in whole.samples.items() if split != "test"}

    def train(members: list[tuple[int, float]], *, blind: bool = False) -> Cell[pd.DataFrame]:
        chunks = [
            Chunk(
                replace(whole, samples=seen) if blind else whole,
                method,
                tuple(members[start : start + LARGEST]),
                target,
                settings.targets[target],
                settings.dtype,
                settings.device,
                settings.engine,
            )
            for start in range(0, len(members), LARGEST)
        ]
        results = yield chunks
        return pd.concat(map(tidy, chunks, results), ignore_index=True)

    losses, table = yield from runs_of(train, settings.seeds, settings.rates)
    if table is not None:
        table.insert(0, "target", target)
        table.insert(1, "method", method.name)
    return losses, table


# --- Collect ----------------------------------------------------------------------------------


def collect(
    settings: Settings,
    done: Sequence[tuple[pd.DataFrame, pd.DataFrame | None]],
    floors: Sequence[pd.DataFrame],
) -> Runs:
    """The cells' rows and the baselines' as one result."""
    tuned = [table for _, table in done if table is not None]
    protocol, rates = settings.protocol, settings.rates
    return Runs(
        losses=pd.concat([losses for losses, _ in done], ignore_index=True),
        baselines=pd.concat(floors, ignore_index=True),
        settings={
            "protocol": {
                **asdict(replace(protocol, data=None)),
                "learning_rates": list(rates.grid),
                "data": None if protocol.data is None else str(protocol.data),
            },
            "methods": {method.name: repr(method) for method in settings.methods},
            "targets": list(settings.targets),
            "seeds": list(settings.seeds),
            "tuning_seeds": list(rates.tuning_seeds),
            "tune_on": rates.tune_on if protocol.tuned else None,
            "dtype": str(settings.dtype),
            "device": settings.device,
            "engine": settings.engine,
            "threads": torch.get_num_threads(),
            "versions": {
                "missviz": missviz.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        },
        tuning=pd.concat(tuned, ignore_index=True) if tuned else None,
    )


def tidy(chunk: Chunk, result: Result) -> pd.DataFrame:
    """A chunk's losses as rows."""
    seeds, rates = zip(*chunk.members, strict=True)
    steps = chunk.protocol.steps + 1
    return pd.concat(
        pd.DataFrame(
            {
                "target": chunk.target_name,
                "method": chunk.method.name,
                "seed": np.repeat(seeds, steps),
                "learning_rate": np.repeat(rates, steps),
                "step": np.tile(np.arange(steps), len(seeds)),
                "split": split,
                "loss": losses.ravel(),
                "num_parameters": result["num_parameters"],
                "adapter_parameters": result["adapter_parameters"],
                "init_seconds": result["init_seconds"],
                "train_seconds": result["train_seconds"],
            }
        )
        for split, losses in result["losses"].items()
    )


def baselines(
    protocol: Protocol,
    target_name: str,
    target: Target | None,
    seeds: tuple[int, ...],
    dtype: torch.dtype,
    device: str,
) -> pd.DataFrame:
    """What needs no training: one number per output coordinate, and the network as it was."""
    rows = []
    bases = base_models(seeds, dtype, torch.device(device), protocol.data)
    for seed, base in zip(seeds, bases, strict=True):
        task = make_task(protocol, target_name, target, base, seed)
        constant = task["train"][1].mean(dim=0)
        network = copy.deepcopy(base).double().cpu()
        for split, (x, y) in task.items():
            with torch.no_grad():
                predictions = {"constant": constant, "unadapted": network(x)}
            rows += [
                {
                    "target": target_name,
                    "seed": seed,
                    "baseline": baseline,
                    "split": split,
                    "loss": float((prediction - y).square().mean()),
                }
                for baseline, prediction in predictions.items()
            ]
    return pd.DataFrame(rows)


def losses_at(
    method: Method,
    protocol: Protocol,
    learning_rate: float,
    seeds: Sequence[int],
    device: str,
) -> dict[str, Float[np.ndarray, "seeds steps1"]]:
    """Losses of one method at one rate by split, after 0, 1, … steps.

    To the last bit those of `no_free_lunch` with that rate alone, which also chooses it.
    """
    target = OWN_DATA if protocol.data is not None else ELEMENTWISE
    parts = []
    for start in range(0, len(seeds), LARGEST):
        members = tuple((seed, learning_rate) for seed in seeds[start : start + LARGEST])
        chunk = Chunk(protocol, method, members, target, None, torch.float32, device, "auto")
        parts.append(run_here(run_chunk, chunk)["losses"])
    return {split: np.concatenate([part[split] for part in parts]) for split in parts[0]}
