"""Does the curvature at the start tell the best rate? Every method of "no free lunch", each task.

    OMP_NUM_THREADS=1 python benchmarks/curvature_and_rate.py [--seeds 10] [--out FOLDER]

For each task, method and seed: λ_max of the training loss at the start
(`missviz.analysis.curvature`); full-batch gradient descent at rates f · 2/λ_max, f in half octaves;
and full-batch Adam at rates in half decades. Tasks are those of `no_free_lunch`: "published", where
the second layer is trained as well, and "teacher" with each of its targets. All in float64, with
the protocol's points and steps.

    stable   the largest rate up to which every run ends below the loss that it began with
    best     the rate with the lowest training loss at the end
    ratio    that rate over 2/λ_max

It prints one row per task and method: geometric means over seeds (a 95 % interval is that value
divided and multiplied by its `_times`), and how many seeds have a rate on the edge of its grid.
Then for each task how the rates of different methods go along with 2/λ_max: correlation and slope
of their logarithms, and the largest over the smallest, of rates and of ratios; once for all methods
and once without the one whose ratio lies farthest from the median. Written as JSON with the
machine's name in it.

What benchmarks/results/curvature-and-rate-cpu.json says, ten seeds, as tests/bench hold it:

- Gradient descent, second layer frozen. Where ΔW is linear in what is trained (MiSS, fixed factors,
  MoRA) the largest stable rate is 2/λ_max, to the half octave of the grid. Products that start at
  B = 0 (LoRA, DoRA, VeRA, ProLoRA, MoS) stand at about half of it, for λ_max grows while they
  train: LoRA's about 2.5 times. Full fine-tuning with bias stands at twice as much, though its own
  does not change. AdaLoRA, whose product of three starts at E = 0, stands at a twentieth or less:
  λ_max at its start says nothing of its rate.
- The best of those rates is 0.17 to 1 times 2/λ_max, AdaLoRA aside, while the rates themselves
  differ 50 times and more between methods. So 2/λ_max tells a rate to a factor of six, no closer.
- With the second layer trained as well ("published") that layer's curvature is most of λ_max. All
  methods have nearly the same one, and their best rates are 0.68 to 1.3 times 2/λ_max.
- Adam is another matter. In "published" its best rate is 0.03 for all methods. With the second
  layer frozen its rates do go along with 2/λ_max over methods (correlation 0.6 to 0.8, VeRA's small
  numbers far out), but what they are of it differs more than 20 times.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import missviz as mv
from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.bench.results import write_result
from missviz.experiments.arguments import FIRST_SEED, default_methods
from missviz.experiments.ensemble import LARGEST, Ensemble, train
from missviz.experiments.no_free_lunch import calibration, make_task
from missviz.experiments.tasks import PROTOCOLS, TARGETS, base_models, stack_splits
from missviz.intervals import half_width
from missviz.machine import conditions

FACTORS = tuple(2 ** (half / 2) for half in range(-18, 7))
"""Of 2/λ_max: 1/512 … 8 in half octaves."""
ADAM_RATES = tuple(10 ** (half / 2) for half in range(-8, 3))
"""1e-4 … 10."""
TASKS = {"published": None, **{f"teacher, {name}": name for name in TARGETS}}
CPU = torch.device("cpu")

Member = tuple[nn.Module, tuple[Tensor, Tensor], float]
"""A model at its start, its training points, and a rate."""


def measured(task: str, method: Method, seeds: Sequence[int]) -> pd.DataFrame:
    """One row per seed: curvature, and the stable and the best rate of gradient descent, and
    Adam's best; a rate on the edge of its grid is flagged."""
    target_name = TASKS[task]
    protocol = PROTOCOLS["published" if target_name is None else "teacher"]
    target = None if target_name is None else TARGETS[target_name]
    rows, descents, adams = [], [], []
    for seed, base in zip(seeds, base_models(tuple(seeds), torch.float64, CPU), strict=True):
        x, y = make_task(protocol, target_name or task, target, base, seed)["train"]
        model = attach(
            base,
            method,
            "fc1",
            seed=seed,
            trainable=("fc2",) if protocol.train_fc2 else (),
            calibration=calibration(method, base, (x, y)),
        )
        curvature = mv.analysis.curvature(model, lambda m, x=x, y=y: mse_loss(m(x), y))
        rows.append({"task": task, "method": method.name, "seed": seed, "curvature": curvature})
        descents += [(model, (x, y), factor * 2 / curvature) for factor in FACTORS]
        adams += [(model, (x, y), rate) for rate in ADAM_RATES]
    steps = protocol.steps
    found = zip(
        rows,
        np.split(np.concatenate([descend(some, steps) for some in chunks(descents)]), len(rows)),
        np.split(np.concatenate([with_adam(some, steps) for some in chunks(adams)]), len(rows)),
        strict=True,
    )
    for row, descent, adam in found:
        scale = 2 / row["curvature"]
        row |= rates_of(descent, np.array(FACTORS) * scale, "")
        row |= rates_of(adam, np.array(ADAM_RATES), "adam_")
    return pd.DataFrame(rows)


def chunks(members: list[Member]) -> Iterator[list[Member]]:
    for start in range(0, len(members), LARGEST):
        yield members[start : start + LARGEST]


def together(members: list[Member]) -> tuple[Ensemble, dict[str, tuple[Tensor, Tensor]]]:
    models, pairs, _ = zip(*members, strict=True)
    split = stack_splits([{"train": pair} for pair in pairs], torch.float64, CPU)
    return Ensemble(models), split


def descend(members: list[Member], steps: int) -> np.ndarray:
    """Training loss of each run of plain gradient descent, (member, 2): first and last."""
    ensemble, split = together(members)
    (x, y), rates = split["train"], torch.tensor([rate for _, _, rate in members]).double()
    trained = ensemble.trained
    losses = []
    with ensemble.remembering([x]):
        for step in range(steps + 1):
            each = (ensemble(x) - y).square().mean(dim=(-2, -1))
            losses.append(each.detach().numpy())
            if step < steps:
                gradients = torch.autograd.grad(each.sum(), trained)
                with torch.no_grad():
                    for tensor, gradient in zip(trained, gradients, strict=True):
                        tensor -= rates.view(-1, *[1] * (tensor.dim() - 1)) * gradient
    return np.stack([losses[0], losses[-1]], axis=-1)


def with_adam(members: list[Member], steps: int) -> np.ndarray:
    """As `descend`, with Adam. Members of one rate stand side by side, as `train` wants them."""
    order = sorted(range(len(members)), key=lambda index: members[index][2])
    ensemble, split = together([members[index] for index in order])
    losses = train(ensemble, split, [members[index][2] for index in order], steps).losses["train"]
    return losses[np.argsort(order)][:, [0, -1]]


def rates_of(losses: np.ndarray, rates: np.ndarray, prefix: str) -> dict[str, Any]:
    """The largest stable rate and the best one, of losses (rate, 2)."""
    first, last = losses.T
    well = np.isfinite(last) & (last < first)
    stable = int(np.argmin(well)) - 1 if not well.all() else len(rates) - 1
    if stable < 0:
        raise RuntimeError(f"no rate from {rates[0]:.2g} on is stable")
    best = int(np.argmin(np.where(np.isfinite(last), last, np.inf)))
    return {
        f"{prefix}stable_rate": rates[stable],
        f"{prefix}best_rate": rates[best],
        f"{prefix}best_loss": last[best] / first[best],
        f"{prefix}best_on_edge": best in (0, len(rates) - 1),
        f"{prefix}stable_on_edge": stable in (0, len(rates) - 1),
    }


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per task and method: geometric means over seeds, and the interval's factor of the ratios."""
    table = rows.copy()
    table["stable_ratio"] = table["stable_rate"] * table["curvature"] / 2
    table["best_ratio"] = table["best_rate"] * table["curvature"] / 2
    groups = table.groupby(["task", "method"], sort=False)
    shown = pd.DataFrame(
        {name: np.exp(groups[name].agg(lambda v: np.log(v).mean())) for name in GEOMETRIC}
    )
    for name in ("stable_ratio", "best_ratio"):
        shown[f"{name}_times"] = np.exp(groups[name].agg(lambda v: half_width(np.log(v))))
    for name in ("stable_on_edge", "best_on_edge", "adam_best_on_edge"):
        shown[name] = groups[name].sum()
    return shown.reset_index()


GEOMETRIC = (
    *("curvature", "stable_rate", "best_rate", "stable_ratio", "best_ratio"),
    *("best_loss", "adam_best_rate", "adam_best_loss"),
)


def relations(shown: pd.DataFrame) -> pd.DataFrame:
    """Per task, over methods: how log rates go along with log 2/λ_max."""
    rows = []
    for task, group in shown.groupby("task", sort=False):
        for name in ("stable_rate", "best_rate", "adam_best_rate"):
            ratio = np.log(group[name] * group["curvature"] / 2)
            farthest = (ratio - ratio.median()).abs().idxmax()
            for without in ("", group["method"][farthest]):
                some = group[group["method"] != without]
                log, rate = np.log(2 / some["curvature"]), np.log(some[name])
                rows.append(
                    {
                        "task": task,
                        "rate": name,
                        "without": without,
                        "correlation": np.corrcoef(log, rate)[0, 1],
                        "slope": np.polyfit(log, rate, 1)[0],
                        "spread_of_rate": np.exp(np.ptp(rate)),
                        "spread_of_ratio": np.exp(np.ptp(rate - log)),
                    }
                )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    started = time.perf_counter()
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    cases = [
        (task, method)
        for task in options.tasks
        for method in default_methods(task.partition(",")[0])
    ]
    parts: list[pd.DataFrame] = []
    with ProcessPoolExecutor(options.workers) as pool:
        for part in pool.map(measured, *zip(*cases, strict=True), itertools.repeat(seeds)):
            parts.append(part)
            print(summary(part).to_string(index=False, header=len(parts) == 1), flush=True)
    shown = summary(pd.concat(parts))
    related = relations(shown)
    print(related.to_string(index=False))
    result = {
        "part": "curvature-and-rate",
        **conditions(),
        "seconds": round(time.perf_counter() - started),
        "seeds": options.seeds,
        "methods": shown.to_dict("records"),
        "relations": related.to_dict("records"),
    }
    print(f"Written to {write_result(result, options.out)}.")


if __name__ == "__main__":
    main()
