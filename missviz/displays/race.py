"""The race: loss against step, one line per method; and what lies between them, seed by seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from missviz.displays.base import Display
from missviz.displays.curves import Curve, Curves, broken, room_for
from missviz.experiments.runs import Runs, chosen_reference
from missviz.style import FAINT, method_styles, row_of_axes

CONSTANT = "constant predictor"
WORDS = {"train": "training", "valid": "validation", "test": "test"}
MOST = 4
"""Losses are drawn up to as many times what they are before training."""


@dataclass(eq=False, repr=False, kw_only=True)
class RaceDisplay(Display):
    """Left the mean loss (mean squared error) against step and the constant predictor's; right the
    paired difference to one method, seed by seed. Bands are 95 % intervals over seeds.

    Seeds differ from one another by more than methods do, so bands on the left overlap where the
    difference on the right is clear. Limits show all that is drawn, and so change with the data;
    on training loss they start at 0.

    Args:
        losses: by method, (seed, step + 1), the seeds in the same order: pairs.
        split: what the loss was measured on.
        constant: loss of the constant predictor on that split, which for each output gives its mean
            over the training points.
        reference: the method that differences are to.
        note: where the runs come from, if they were not made now.

    After `plot`: `lines_` and `bands_` by method, `difference_lines_` and `difference_bands_`,
    `constant_line_`, `axes_` (one where there is one method), `figure_`.
    """

    losses: Mapping[str, Float[np.ndarray, "seeds steps1"]]
    split: str
    constant: float
    reference: str
    note: str = ""
    curves: dict[str, Curve] = field(init=False)
    differences: dict[str, Curve] = field(init=False)

    def __post_init__(self) -> None:
        against = self.losses[self.reference]
        self.curves = {method: Curve.of(values) for method, values in self.losses.items()}
        with np.errstate(invalid="ignore"):  # where both diverged
            gaps = {method: values - against for method, values in self.losses.items()}
        self.differences = {method: Curve.of(values) for method, values in gaps.items()}

    @classmethod
    def from_runs(
        cls,
        runs: Runs,
        split: str = "train",
        *,
        target: str | None = None,
        learning_rate: float | None = None,
        reference: str | None = None,
    ) -> "RaceDisplay":
        """One split, target (default: the first) and rate (default: each method's first); the
        reference as in `Runs.summary`, LoRA or the first method.

        Intervals are mean ± t₀.₉₇₅ standard errors over seeds, step by step.
        """
        table = runs.to_frame()
        # Those of `fine_tune` that are looked at once have no curve.
        counts = table.groupby(["split", "target", "method", "learning_rate", "seed"]).size()
        once = counts.groupby("split").max() == 1
        splits = sorted(split for split in set(table["split"]) if not once[split])
        if split not in splits:
            raise ValueError(f"split={split!r} was not measured; choose from {', '.join(splits)}")
        target = choose_target(runs, target)
        table = table[(table["split"] == split) & (table["target"] == target)]
        if learning_rate is not None:
            rates = sorted(set(table["learning_rate"]))
            table = table[np.isclose(table["learning_rate"], learning_rate)]
            if table.empty:
                raise ValueError(f"learning_rate={learning_rate} did not run; there are {rates}")
        else:
            first = table.groupby("method")["learning_rate"].transform("first")
            table = table[table["learning_rate"] == first]
        losses = {
            str(method): _by_step(rows.pivot(index="seed", columns="step", values="loss"))
            for method, rows in table.groupby("method", sort=False)
        }
        floor = runs.baselines
        floor = floor[(floor["baseline"] == "constant") & (floor["split"] == split)]
        return cls(
            losses=losses,
            split=split,
            constant=float(floor[floor["target"] == target]["loss"].mean()),
            reference=chosen_reference(reference, list(losses)),
        )

    @property
    def seeds(self) -> int:
        """How many runs each line is the mean of."""
        return len(self.losses[self.reference])

    def summary(self) -> str:
        steps = len(self.curves[self.reference].mean) - 1
        said = (
            f"{self.split} loss after {steps} steps, mean of {self.seeds} "
            f"{'seed' if self.seeds == 1 else 'seeds'}: {', '.join(map(self._said, self.order))}"
        )
        if len(self.losses) > 1:
            said += f"; in brackets: minus {self.reference}'s, seed by seed, ± 95 %"
        return f"{said}; constant predictor (each output's training mean) {self.constant:.3g}"

    @property
    def order(self) -> list[str]:
        """The methods by their last mean loss, lowest first; what diverged comes last."""
        ends = {method: curve.mean[-1] for method, curve in self.curves.items()}
        return sorted(ends, key=lambda method: (np.isnan(ends[method]), ends[method]))

    def _said(self, method: str) -> str:
        end = self.curves[method].mean[-1]
        if np.isnan(end):
            return f"{method} diverged"
        if method == self.reference:
            return f"{method} {end:.3f}"
        gap = self.differences[method]
        half = gap.high[-1] - gap.mean[-1]
        bound = "" if np.isnan(half) else f" ± {half:.4f}"
        return f"{method} {end:.3f} ({gap.mean[-1]:+.4f}{bound})"

    def plot(self, ax: Axes | None = None, *, reveal: bool = True) -> Self:
        """Draw into a figure of its own; or, without the differences, into `ax`, right of which
        there must be room for names.

        With reveal=False axes, limits and the constant predictor stand there without the lines, for
        a class to guess first, and a list says who runs.
        """
        if ax is not None:
            self.axes_ = [ax]
        else:
            names = room_for((*self.losses, CONSTANT))
            paired = len(self.losses) > 1
            self.axes_ = row_of_axes(
                11 if paired else 7,
                4.3,
                (1, 1) if paired else (1,),
                left=0.6,
                right=names,
                bottom=0.42,
                top=0.32,
                gap=names + 0.68,
            )
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        styles = method_styles(self.losses)
        self._left = Curves(
            self.axes_[0], styles, self.curves, self._levels(), floor=self._floor, most=self._most
        )
        self._parts = [self._left]
        self.lines_, self.bands_ = self._left.lines, self._left.bands
        self.constant_line_ = self._left.levels[CONSTANT]
        if len(self.axes_) > 1:
            right = Curves(self.axes_[1], styles, self.differences, most=self._most)
            self._parts.append(right)
            self.difference_lines_, self.difference_bands_ = right.lines, right.bands
        self._write_titles()
        if ax is None and self.note:
            self.figure_.text(0.005, 0.012, self.note, fontsize="small", color=FAINT)
        self.outcome_ = [artist for part in self._parts for artist in part.outcome]
        return self.reveal(reveal)

    def reveal(self, shown: bool = True) -> Self:
        super().reveal(shown)
        runners = self.axes_[-1].get_legend()
        if shown and runners is not None:
            runners.remove()
        elif not shown and runners is None:
            self._list_runners()
        for part in self._parts:
            part.reveal(shown)
        return self

    def _list_runners(self) -> None:
        """Where the names will stand, in the order of the call: not in that of the outcome."""
        runners = self.axes_[-1].legend(
            handles=list(self.lines_.values()),
            labels=["\n".join(broken(name)) for name in self.lines_],
            loc="upper left",
            bbox_to_anchor=(1, 1),
            handlelength=1.4,
            handletextpad=0.6,
            borderpad=0,
            frameon=False,
        )
        for text in runners.get_texts():
            text.set_parse_math(False)
        for sample in runners.legend_handles:
            assert sample is not None
            sample.set_visible(True)  # they were hidden, as their lines are

    def _fixed(self) -> Any:
        return list(self.losses), self.note

    def _fill(self) -> None:
        self._write_titles()
        self._left.show(self.curves, self._levels(), floor=self._floor, most=self._most)
        for part in self._parts[1:]:
            part.show(self.differences, most=self._most)

    def ghost(self, pinned: "RaceDisplay") -> list[Artist]:
        """The pinned means, each with its method's dash."""
        shown = (pinned.curves, pinned.differences)
        return [
            artist
            for part, curves in zip(self._parts, shown, strict=False)
            for artist in part.ghost(curves)
        ]

    def unpin(self) -> Self:
        super().unpin()
        for part in self._parts:
            part.unpin()
        return self

    def _write_titles(self) -> None:
        titles = (
            f"{WORDS.get(self.split, self.split)} loss",
            f"minus {self.reference}'s, seed by seed",
        )
        for ax, title in zip(self.axes_, titles, strict=False):
            ax.set_title(title, fontsize="medium", parse_math=False)

    def _levels(self) -> dict[str, float]:
        return {CONSTANT: self.constant}

    @property
    def _floor(self) -> float | None:
        return 0.0 if self.split == "train" else None

    @property
    def _most(self) -> float:
        before = np.nanmean([curve.mean[0] for curve in self.curves.values()])
        return MOST * max(float(before), self.constant)


def _by_step(losses: pd.DataFrame) -> Float[np.ndarray, "seeds steps1"]:
    """(seed, step + 1), from 0 to the last step; between evaluated steps on a straight line, as it
    is drawn."""
    values, steps = losses.to_numpy(), losses.columns.to_numpy()
    if len(steps) == steps[-1] + 1:
        return values
    every = np.arange(steps[-1] + 1)
    return np.array([np.interp(every, steps, row) for row in values])


def choose_target(runs: Runs, target: str | None) -> str:
    """`target`, or the first of the runs; ValueError if there is no such target."""
    targets = list(dict.fromkeys(runs.losses["target"]))
    if target is None:
        return str(targets[0])
    if target not in targets:
        raise ValueError(f"target={target!r} did not run; choose from {', '.join(targets)}")
    return target
