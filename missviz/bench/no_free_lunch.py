"""Seeds of one method as one ensemble, against a loop over Hugging Face PEFT models.

Both sides get the same trained base networks and data, build their adapters, and do the same steps
with the same evaluations (train and validation loss at every step). Adapter starts are copied from
ours to PEFT's, so the losses must agree.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from peft import LoraConfig, MissConfig, get_peft_model
from torch import Tensor, nn

from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.bench.results import write_result
from missviz.experiments.arguments import FIRST_SEED
from missviz.experiments.ensemble import Ensemble, train
from missviz.experiments.no_free_lunch import make_task
from missviz.experiments.tasks import PROTOCOLS, TwoLayerNet, base_models, stack_splits
from missviz.machine import conditions

PUBLISHED = PROTOCOLS["published"]
RATE = PUBLISHED.learning_rates[0]
Result = TypeVar("Result")
Task = dict[str, tuple[Tensor, Tensor]]

CASES: list[tuple[Method, Callable[[], Any]]] = [
    (LoRA(2), lambda: LoraConfig(r=2, lora_alpha=2, target_modules=["fc1"])),
    (
        PiSSA(2),
        lambda: LoraConfig(r=2, lora_alpha=2, init_lora_weights="pissa", target_modules=["fc1"]),
    ),
    (MiSS(4), lambda: MissConfig(r=4, target_modules=["fc1"])),
]


def compare(seeds: int = 32, rounds: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Time both sides in turns. Returns medians, ratios and the largest difference in loss."""
    place = torch.device(device)
    chosen = tuple(range(FIRST_SEED, FIRST_SEED + seeds))
    bases = base_models(chosen, torch.float32, place)
    tasks = [
        {
            split: (x.to(place, torch.float32), y.to(place, torch.float32))
            for split, (x, y) in make_task(PUBLISHED, "", None, base, seed).items()
        }
        for seed, base in zip(chosen, bases, strict=True)
    ]
    rows = []
    for method, config in CASES:
        ours, theirs = [], []
        # Drawn before the clock runs: PEFT must not pay for an adapter of ours.
        starts = random_starts(method, bases, chosen)
        for turn in range(rounds + 1):
            losses, seconds = timed(run_ensemble, place, method, bases, tasks, chosen)
            peer, peer_seconds = timed(run_peft, place, config, bases, tasks, starts)
            if turn:  # the first is a warm-up
                ours.append(seconds / seeds)
                theirs.append(peer_seconds / seeds)
        ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
        rows.append(
            {
                "method": method.name,
                "missviz_ms_per_run": 1000 * statistics.median(ours),
                "peft_ms_per_run": 1000 * statistics.median(theirs),
                "ratio": statistics.median(ratios),
                "ratio_lowest": min(ratios),
                "ratio_highest": max(ratios),
                "largest_loss_difference": float(np.abs(losses - peer).max()),
            }
        )
    return {
        "part": "no-free-lunch",
        "seeds": seeds,
        "rounds": rounds,
        **conditions(device, ("peft",)),
        "rows": rows,
    }


def timed(
    work: Callable[..., Result], device: torch.device, *arguments: Any
) -> tuple[Result, float]:
    """The result of `work` and its seconds, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def adapted(method: Method, base: TwoLayerNet, seed: int) -> TwoLayerNet:
    return attach(base, method, "fc1", seed=seed, trainable="fc2")


def run_ensemble(
    method: Method, bases: Sequence[TwoLayerNet], tasks: Sequence[Task], seeds: Sequence[int]
) -> np.ndarray:
    """Our side, build included: losses (split, member, step)."""
    models = [adapted(method, base, seed) for base, seed in zip(bases, seeds, strict=True)]
    first = next(iter(bases[0].parameters()))
    splits = stack_splits(list(tasks), first.dtype, first.device)
    losses = train(Ensemble(models), splits, [RATE] * len(models), PUBLISHED.steps).losses
    return np.stack([losses["train"], losses["valid"]])


def run_peft(
    config: Callable[[], Any],
    bases: Sequence[TwoLayerNet],
    tasks: Sequence[Task],
    starts: Sequence[Tensor | None],
) -> np.ndarray:
    """PEFT's side, build included, one model after the other, as one would write it."""
    members = []
    for base, task, start in zip(bases, tasks, starts, strict=True):
        model = get_peft_model(copy.deepcopy(base), config())
        network = model.base_model.model
        if start is not None:
            network.fc1.lora_A["default"].weight.data.copy_(start)
        network.fc2.requires_grad_(True)
        members.append(train_one(model, task))
    return np.array(members).transpose(1, 0, 2)


def random_starts(
    method: Method, bases: Sequence[TwoLayerNet], seeds: Sequence[int]
) -> list[Tensor | None]:
    """LoRA's random A of each member, for PEFT to start from; PiSSA and MiSS need none: their
    starts are the same by definition."""
    if not isinstance(method, LoRA):
        return [None] * len(seeds)
    members: Iterable[Any] = (
        adapted(method, base, seed) for base, seed in zip(bases, seeds, strict=True)
    )
    return [member.fc1.A.detach() for member in members]


def train_one(model: nn.Module, task: Task) -> list[list[float]]:
    """Losses [train, valid] after 0, 1, … steps."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=RATE)
    criterion = nn.MSELoss()
    (x, y), (x_valid, y_valid) = task["train"], task["valid"]
    history: list[list[float]] = [[], []]
    for step in range(PUBLISHED.steps + 1):
        with torch.no_grad():
            history[1].append(criterion(model(x_valid), y_valid).item())
        loss = criterion(model(x), y)
        history[0].append(loss.item())
        if step < PUBLISHED.steps:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return history


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print the table and write the JSON; returns its path."""
    print(
        f"{result['seeds']} runs per method, {result['rounds']} rounds in turns, medians; "
        f"{result['machine']}, {result['threads']} threads, torch {result['versions']['torch']}"
    )
    print(
        f"{'method':10}{'missviz ms/run':>16}{'PEFT ms/run':>14}"
        f"{'ratio (range)':>24}{'loss difference':>18}"
    )
    for row in result["rows"]:
        spread = f"{row['ratio']:.1f} ({row['ratio_lowest']:.1f}-{row['ratio_highest']:.1f})"
        print(
            f"{row['method']:10}{row['missviz_ms_per_run']:16.2f}{row['peft_ms_per_run']:14.1f}"
            f"{spread:>24}{row['largest_loss_difference']:18.1e}"
        )
    return write_result(result, folder)
