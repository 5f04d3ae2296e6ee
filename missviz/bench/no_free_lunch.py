"""Seeds of one method as one ensemble, against a loop over models, one after the other.

The peer is Hugging Face PEFT where it has the method, else the same adapter in a plain loop. Both
sides get the same trained base networks and data, build their adapters, and do the same steps with
the same evaluations (train and validation loss at every step). Random starts are copied from ours
to PEFT's, so the losses must agree. Beside both stands the one call that does all of it,
`mv.experiments.no_free_lunch`, which also trains the base networks and makes the tables.
"""

import copy
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import AdaLoraConfig, LoraConfig, MissConfig, VeraConfig, get_peft_model
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.adalora import AdaLoRA
from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.adapters.dora import DoRA
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.vera import VeRA
from missviz.bench.clock import own_garbage, peak_bytes, timed
from missviz.bench.results import write_result
from missviz.experiments.arguments import FIRST_SEED, default_methods
from missviz.experiments.ensemble import Ensemble, train
from missviz.experiments.no_free_lunch import make_task
from missviz.experiments.tasks import PROTOCOLS, TwoLayerNet, base_models, stack_splits
from missviz.machine import conditions

PUBLISHED = PROTOCOLS["published"]
RATE = PUBLISHED.learning_rates[0]
Task = dict[str, tuple[Tensor, Tensor]]

LOOP = 32
"""Most runs in the loop: each takes as long as the others, however many the ensemble has."""


@dataclass(frozen=True)
class Peer:
    """A method as PEFT has it."""

    config: Callable[[], Any]
    starts: Mapping[str, str] = field(default_factory=dict)
    """Our parameters and buffers that are random at first → their names in PEFT's layer."""
    frozen: tuple[str, ...] = ()
    """What PEFT would train and the method does not."""


def lora(rank: int, **options: Any) -> Callable[[], Any]:
    return lambda: LoraConfig(r=rank, lora_alpha=rank, target_modules=["fc1"], **options)


A = {"A": "lora_A.default.weight"}
PEERS: dict[Method, Peer] = {
    LoRA(2): Peer(lora(2), A),
    PiSSA(2): Peer(lora(2, init_lora_weights="pissa")),
    MiSS(4): Peer(lambda: MissConfig(r=4, target_modules=["fc1"])),
    # A LoRA whose A is that factor, and stays it.
    FixedFactor(4, "orthogonal", gain=4.0): Peer(
        lora(4), {"F": A["A"]}, frozen=("lora_A.default.weight",)
    ),
    DoRA(1): Peer(lora(1, use_dora=True), A),
    VeRA(64, init="linear"): Peer(
        lambda: VeraConfig(r=64, target_modules=["fc1"]),
        {"A": "vera_A.default", "B": "vera_B.default"},
    ),
    AdaLoRA(2, orthogonality=0.0): Peer(
        lambda: AdaLoraConfig(
            init_r=2, lora_alpha=2, total_step=PUBLISHED.steps, target_modules=["fc1"]
        ),
        {"A": "lora_A.default", "B": "lora_B.default"},
    ),
}


def methods() -> tuple[Method, ...]:
    """Those of Figure 2, and DoRA as PEFT has it."""
    return (*default_methods("published"), DoRA(1))


@own_garbage()
def compare(
    seeds: int = 32,
    rounds: int = 3,
    device: str = "cpu",
    only: Sequence[Method] | None = None,
) -> dict[str, Any]:
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
    some_bases, some_tasks, some = bases[:LOOP], tasks[:LOOP], chosen[:LOOP]
    runs = {"missviz": seeds, "replayed": seeds, "call": seeds, "peer": len(some)}
    rows = []
    for method in methods() if only is None else only:
        peer = PEERS.get(method)
        # Drawn before the clock runs: PEFT must not pay for adapters of ours.
        starts = [adapted(method, base, s).fc1 for base, s in zip(some_bases, some, strict=True)]
        together = functools.partial(run_ensemble, method, bases, tasks, chosen)
        one_by_one = functools.partial(run_alone, method, some_bases, some_tasks, some)
        if peer is not None:
            one_by_one = functools.partial(run_peft, peer, some_bases, some_tasks, starts)
        whole = functools.partial(run_call, method, chosen, device)
        sides = {"missviz": together, "peer": one_by_one, "call": whole}
        if Ensemble([adapted(method, bases[0], chosen[0])]).replayable:
            sides["replayed"] = functools.partial(together, replay=True)
        losses: dict[str, np.ndarray] = {}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(rounds + 1):
            for side, work in sides.items():
                losses[side], taken = timed(work, place)
                if turn:  # the first is a warm-up
                    seconds[side].append(taken / runs[side])
        ratios = [
            their / our for their, our in zip(seconds["peer"], seconds["missviz"], strict=True)
        ]
        per_run = {
            f"{side}_ms_per_run": 1000 * statistics.median(taken) for side, taken in seconds.items()
        }
        rows.append(
            {
                "method": method.name,
                "peer": "plain loop" if peer is None else "PEFT",
                **per_run,
                "ratio": statistics.median(ratios),
                "ratio_lowest": min(ratios),
                "ratio_highest": max(ratios),
                "largest_loss_difference": max(
                    float(np.abs(losses["missviz"][:, : runs[side]] - losses[side]).max())
                    for side in sides
                ),
                "peak_bytes": {side: peak_bytes(work, place) for side, work in sides.items()},
            }
        )
    return {
        "part": "no-free-lunch",
        "seeds": seeds,
        "loop": len(some),
        "rounds": rounds,
        **conditions(device, ("peft",)),
        "rows": rows,
    }


def adapted(method: Method, base: TwoLayerNet, seed: int) -> TwoLayerNet:
    return attach(base, method, "fc1", seed=seed, trainable="fc2")


def run_ensemble(
    method: Method,
    bases: Sequence[TwoLayerNet],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    replay: bool = False,
) -> np.ndarray:
    """Our side, build included: losses (split, member, step)."""
    models = [adapted(method, base, seed) for base, seed in zip(bases, seeds, strict=True)]
    first = next(iter(bases[0].parameters()))
    splits = stack_splits(list(tasks), first.dtype, first.device)
    rates = [RATE] * len(models)
    losses = train(Ensemble(models), splits, rates, PUBLISHED.steps, replay).losses
    return np.stack([losses["train"], losses["valid"]])


def run_call(method: Method, seeds: Sequence[int], device: str) -> np.ndarray:
    """What users call, with all that it does beside training the method, as at the first time."""
    base_models.cache_clear()
    runs = mv.experiments.no_free_lunch([method], "published", seeds, [RATE], device=device)
    losses = runs.to_frame().sort_values(["seed", "step"])
    return np.stack(
        [
            losses.loc[losses["split"] == split, "loss"].to_numpy().reshape(len(seeds), -1)
            for split in ("train", "valid")
        ]
    )


def run_alone(
    method: Method, bases: Sequence[TwoLayerNet], tasks: Sequence[Task], seeds: Sequence[int]
) -> np.ndarray:
    """Our adapters, build included, one model after the other."""
    members = [
        train_one(adapted(method, base, seed), task)
        for base, task, seed in zip(bases, tasks, seeds, strict=True)
    ]
    return np.array(members).transpose(1, 0, 2)


def run_peft(
    peer: Peer,
    bases: Sequence[TwoLayerNet],
    tasks: Sequence[Task],
    starts: Sequence[nn.Module],
) -> np.ndarray:
    """PEFT's side, build included, one model after the other, as one would write it."""
    members = []
    for base, task, start in zip(bases, tasks, starts, strict=True):
        model = get_peft_model(copy.deepcopy(base), peer.config())
        network = model.base_model.model
        theirs = dict(network.fc1.named_parameters()) | dict(network.fc1.named_buffers())
        for name, path in peer.starts.items():
            theirs[path].data.copy_(getattr(start, name))
        for path in peer.frozen:
            theirs[path].requires_grad_(False)
        network.fc2.requires_grad_(True)
        members.append(train_one(model, task))
    return np.array(members).transpose(1, 0, 2)


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
        f"{result['seeds']} runs per method ({result['loop']} in the loop), "
        f"{result['rounds']} rounds in turns, medians; "
        f"{result['machine']}, {result['threads']} threads, torch {result['versions']['torch']}"
    )
    print(
        f"{'method':28}{'peer':12}{'missviz ms/run':>16}{'peer ms/run':>14}"
        f"{'ratio (range)':>24}{'loss difference':>18}{'no_free_lunch() ms/run':>24}"
    )
    for row in result["rows"]:
        spread = f"{row['ratio']:.1f} ({row['ratio_lowest']:.1f}-{row['ratio_highest']:.1f})"
        print(
            f"{row['method']:28}{row['peer']:12}"
            f"{row['missviz_ms_per_run']:16.2f}{row['peer_ms_per_run']:14.1f}"
            f"{spread:>24}{row['largest_loss_difference']:18.1e}"
            f"{row['call_ms_per_run']:24.2f}"
        )
        if "replayed_ms_per_run" in row:
            print(f"{'  as a CUDA graph':40}{row['replayed_ms_per_run']:16.2f}")
    return write_result(result, folder)
