"""The result of an experiment: a tidy table of losses, and what can be said from it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from missviz.adapters import validation
from missviz.adapters.lora import LoRA
from missviz.files import write_whole
from missviz.intervals import half_width

if TYPE_CHECKING:
    from missviz.displays.lunch import LunchDisplay

CELL = ["target", "method", "learning_rate"]
"""What identifies a cell of the experiment; its seeds are the repetitions."""


@dataclass(frozen=True)
class Runs:
    """Losses of every run, with what is needed to read them."""

    losses: pd.DataFrame
    """See `to_frame`."""
    baselines: pd.DataFrame
    """Columns target, seed, baseline, split, loss. "constant" predicts each output coordinate's
    training mean; "unadapted" is the base network as it was."""
    settings: dict[str, Any]
    """Everything that the result depends on, and the machine's versions, as plain values."""
    tuning: pd.DataFrame | None = None
    """Columns target, method, learning_rate, score, chosen, on_edge, seconds (of all runs at that
    rate together); None if nothing was tuned."""
    timings: pd.DataFrame | None = None
    """See `missviz.experiments.adapter_timings`; None if not measured."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know, a sentence each: `fine_tune` says here which budgets
    differ and what diverged."""
    _summaries: dict[Any, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per target, method, seed, learning_rate, step and split, with loss (mean squared
        error after `step` optimiser steps; of `fine_tune` cross-entropy, with accuracy beside it),
        num_parameters (all that Adam sees), adapter_parameters
        (those of the method), init_seconds and train_seconds (ensemble time per member)."""
        return self.losses.copy()

    def summary(
        self,
        reference: str | None = None,
        smallest_effect: float | None = None,
        measure: Literal["loss", "accuracy"] = "loss",
    ) -> pd.DataFrame:
        """Mean and 95 % interval over seeds of each metric, and paired differences to one method.

        Args:
            reference: name of a method (or "constant", "unadapted") whose figure is subtracted seed
                by seed; None means LoRA where there is one, else the first method.
            smallest_effect: differences below it don't interest; None means 1 % of the unadapted
                network's loss on that split, of accuracy one percentage point.
            measure: "loss", or "accuracy" where that was measured.

        Returns one row per target, method, learning_rate and metric. Metrics: "final train",
        "final valid", "min valid" (of accuracy "valid at stop"); with a test split also "test", at
        the step whose validation loss is lowest, and so any other split by its name. The constant
        predictor and the unadapted network have rows too.
        Columns: mean, low, high (Student's t over seeds); difference, difference_low,
        difference_high; verdict: "lower" or "higher" (the interval clears ±smallest_effect),
        "same" (it lies inside), else "undecided"; seeds, num_parameters, adapter_parameters,
        rate_on_edge.
        """
        if smallest_effect is not None:
            smallest_effect = validation.positive_float("smallest_effect", smallest_effect)
        validation.one_of("measure", measure, ("loss", "accuracy"))
        if measure not in self.losses:
            raise ValueError(f"measure={measure!r} was not measured; these runs have loss")
        key = (reference, smallest_effect, measure)
        if key not in self._summaries:
            self._summaries[key] = _summarise(self, reference, smallest_effect, measure)
        return self._summaries[key].copy()

    def winner(self, target: str) -> str | None:
        """The method whose test loss on `target` is lower than every other's, each paired
        difference "lower" by `summary`'s rule; None where there is none."""
        methods = list(dict.fromkeys(self.losses["method"]))
        for method in methods:
            against = self.summary(reference=method)
            rows = against[
                (against["target"] == target)
                & (against["metric"] == "test")
                & against["method"].isin([name for name in methods if name != method])
            ]
            if len(rows) and (rows["verdict"] == "higher").all():
                return str(method)
        return None

    def plot(self, **options: Any) -> "LunchDisplay":
        """Figure 2, with paired differences; options as in `LunchDisplay.plot`."""
        import missviz as mv  # as users do: figures are loaded once one is asked for

        return mv.displays.LunchDisplay.from_runs(self).plot(**options)

    def with_timings(self, timings: pd.DataFrame) -> "Runs":
        """The same runs with `adapter_timings` beside them."""
        return replace(self, timings=timings)

    @classmethod
    def join(cls, parts: "Sequence[Runs]") -> "Runs":
        """Runs of other methods, all else equal, as one, in the given order.

        Raises ValueError where there are none, a method comes twice, or the settings differ.
        """
        if not parts:
            raise ValueError("parts is empty; there is nothing to join")
        names = [name for part in parts for name in part.settings["methods"]]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"parts has {', '.join(twice)} more than once")
        for key, value in parts[0].settings.items():
            if key != "methods" and any(part.settings[key] != value for part in parts):
                raise ValueError(f"parts differ in {key}, so they cannot be compared")

        def stacked(tables: list[pd.DataFrame | None]) -> pd.DataFrame | None:
            present = [table for table in tables if table is not None]
            if not present:
                return None
            return pd.concat(present, ignore_index=True).drop_duplicates(ignore_index=True)

        methods = {name: text for part in parts for name, text in part.settings["methods"].items()}
        losses = stacked([part.losses for part in parts])
        baselines = stacked([part.baselines for part in parts])
        assert losses is not None
        assert baselines is not None
        return cls(
            losses,
            baselines,
            parts[0].settings | {"methods": methods},
            stacked([part.tuning for part in parts]),
            stacked([part.timings for part in parts]),
            tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        )

    def save(self, folder: str | Path) -> None:
        """Write losses.csv, baselines.csv, summary.csv, settings.json (and tuning.csv, timings.csv,
        accuracy.csv, notes.txt where there are any) into `folder`, each whole or not at all."""
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        tables = {
            "losses": self.losses,
            "baselines": self.baselines,
            "summary": self.summary(),
            "tuning": self.tuning,
            "timings": self.timings,
            "accuracy": self.summary(measure="accuracy") if "accuracy" in self.losses else None,
        }
        for name, table in tables.items():
            if table is not None:
                write_whole(out / f"{name}.csv", table.to_csv(index=False))
        if self.notes:
            write_whole(out / "notes.txt", "\n".join(self.notes) + "\n")
        write_whole(out / "settings.json", json.dumps(self.settings, indent=2, ensure_ascii=False))

    @classmethod
    def load(cls, folder: str | Path) -> "Runs":
        """What `save` wrote into `folder`.

        Raises FileNotFoundError where no runs are there.
        """
        found = Path(folder)

        def table(name: str) -> pd.DataFrame | None:
            paths = [found / f"{name}.csv", found / f"{name}.csv.gz"]
            there = [path for path in paths if path.exists()]
            return pd.read_csv(there[0]) if there else None

        losses, baselines = table("losses"), table("baselines")
        settings = found / "settings.json"
        if losses is None or baselines is None or not settings.exists():
            raise FileNotFoundError(f"{found} has no runs, as Runs.save writes them")
        notes = found / "notes.txt"
        return cls(
            losses,
            baselines,
            json.loads(settings.read_text(encoding="utf-8")),
            table("tuning"),
            table("timings"),
            tuple(notes.read_text(encoding="utf-8").splitlines()) if notes.exists() else (),
        )


# --- Statistics over seeds --------------------------------------------------------------------


def metrics(
    valid: pd.DataFrame, run: dict[str, pd.DataFrame], measure: str = "loss"
) -> dict[str, np.ndarray]:
    """Each metric per seed of one cell, from tables (seeds × steps): the validation loss, which
    says where to stop, and by split what is measured."""
    stops = valid.columns[valid.to_numpy().argmin(axis=1)]

    def at_stop(split: str) -> np.ndarray:
        table = run[split]
        places = table.columns.get_indexer(stops)
        return np.where(places < 0, np.nan, table.to_numpy()[np.arange(len(stops)), places])

    best = "min valid" if measure == "loss" else "valid at stop"
    values = {
        "final train": run["train"].to_numpy()[:, -1],
        "final valid": run["valid"].to_numpy()[:, -1],
        best: at_stop("valid"),
    }
    others = [split for split in run if split not in ("train", "valid")]
    return values | {split: at_stop(split) for split in others}


SPLIT_OF = {
    "final train": "train",
    "final valid": "valid",
    "min valid": "valid",
    "valid at stop": "valid",
}
"""Where a metric is measured; others have the name of their split."""


def verdict(low: float, high: float, smallest_effect: float) -> str:
    """What an interval of a difference in loss allows to say."""
    if high < -smallest_effect:
        return "lower"
    if low > smallest_effect:
        return "higher"
    if -smallest_effect < low and high < smallest_effect:
        return "same"
    return "undecided"


def chosen_reference(
    reference: str | None, methods: Sequence[str], others: Sequence[str] = ()
) -> str:
    """What differences are to: `reference`, or LoRA where there is one, or the first method."""
    if reference is None:
        plain = f"{LoRA(1).family} "
        return next((name for name in methods if name.startswith(plain)), methods[0])
    if reference not in (*methods, *others):
        known = ", ".join((*methods, *others))
        raise ValueError(f"reference={reference!r} did not run; choose from {known}")
    return reference


def _summarise(
    runs: Runs, reference: str | None, smallest_effect: float | None, measure: str
) -> pd.DataFrame:
    names = list(dict.fromkeys(runs.losses["method"]))
    baselines = list(dict.fromkeys(runs.baselines["baseline"]))
    reference = chosen_reference(reference, names, baselines)
    edges: dict[tuple[Any, ...], bool] = {}
    if runs.tuning is not None:
        chosen = runs.tuning[runs.tuning["chosen"]]
        edges = dict(
            zip(
                zip(chosen["target"], chosen["method"], strict=True), chosen["on_edge"], strict=True
            )
        )
    rows = []
    for target, of_target in runs.losses.groupby("target", sort=False):
        floor = runs.baselines[runs.baselines["target"] == target]
        unadapted = floor[floor["baseline"] == "unadapted"].groupby("split")["loss"].mean()
        cells: dict[tuple[str, float], dict[str, np.ndarray]] = {}
        counts: dict[str, tuple[int, int]] = {}
        for (method, rate), cell in of_target.groupby(["method", "learning_rate"], sort=False):
            by_split = {
                str(split): table.pivot(index="seed", columns="step", values=measure)
                for split, table in cell.groupby("split", sort=False)
            }
            valid = cell[cell["split"] == "valid"]
            valid = valid.pivot(index="seed", columns="step", values="loss")
            cells[method, rate] = metrics(valid, by_split, measure)
            first = cell.iloc[0]
            counts[method] = int(first["num_parameters"]), int(first["adapter_parameters"])
        for baseline, table in floor.groupby("baseline", sort=False):
            per_split = {
                split: figures.sort_values("seed")[measure].to_numpy()
                for split, figures in table.groupby("split")
            }
            some = next(iter(cells.values()))
            cells[str(baseline), np.nan] = {
                name: per_split[SPLIT_OF.get(name, name)] for name in some
            }
        for (method, rate), values in cells.items():
            same_rate = [cells[key] for key in cells if key[0] == reference and key[1] == rate]
            any_rate = [cells[key] for key in cells if key[0] == reference]
            against = (same_rate or any_rate)[0]
            for metric, figures in values.items():
                effect = smallest_effect
                if effect is None and measure == "loss":
                    effect = 0.01 * float(unadapted[SPLIT_OF.get(metric, metric)])
                elif effect is None:
                    effect = 0.01
                mean, half = figures.mean(), half_width(figures)
                gaps = figures - against[metric]
                difference, half_gap = gaps.mean(), half_width(gaps)
                total, own = counts.get(method, (0, 0))
                rows.append(
                    {
                        "target": target,
                        "method": method,
                        "learning_rate": rate,
                        "metric": metric,
                        "mean": mean,
                        "low": mean - half,
                        "high": mean + half,
                        "difference": difference,
                        "difference_low": difference - half_gap,
                        "difference_high": difference + half_gap,
                        "verdict": "reference"
                        if method == reference
                        else verdict(difference - half_gap, difference + half_gap, effect),
                        "smallest_effect": effect,
                        "seeds": len(figures),
                        "num_parameters": total,
                        "adapter_parameters": own,
                        "rate_on_edge": bool(edges.get((target, method), False)),
                    }
                )
    return pd.DataFrame(rows)
