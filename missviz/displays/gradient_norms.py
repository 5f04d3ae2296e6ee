"""First gradient norms against rank, beside what a larger first gradient does to training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.analysis.gradient_laws import lora_law, miss_law
from missviz.displays.base import Display
from missviz.displays.labels import ROW, Key
from missviz.experiments.gain_and_rate import OPTIMISERS, SIZE
from missviz.intervals import half_width
from missviz.style import FAINT, ink, method_style, method_styles, row_of_axes, text_scale

FAMILIES: dict[str, Method] = {"LoRA": LoRA(1), "MiSS": MiSS(1)}
"""Those whose law is known."""
RANKS = (1, 2, 4, 8, 16, 32, 64)
RUNS = ("gain 1", "same rate", "compensated")
LEAST_SHOWN, MOST_SHOWN = 1e-4, 300.0
"""Of the loss; a run that diverges leaves the picture at the top."""
EVERY = 5
"""Steps between the rings of the compensated run."""


@dataclass(eq=False, repr=False, kw_only=True)
class GradientNormDisplay(Display):
    """Left: first gradient over full fine-tuning's, against rank. Right: loss of the runs.

    The gain c multiplies LoRA's frozen factor (it is s = α / r). Rings and diamonds are measured,
    with 95 % intervals over seeds; lines are the laws c √(r/3k) and √(1 + (g−1)ρ).

    Args:
        norms: one row per family ("LoRA", "MiSS", and others) and rank: family, rank, mean, low,
            high, law (NaN where none is known); LoRA's at gain c.
        curves: loss of LoRA with A frozen after 0, 1, … steps, by run ("gain 1", "same rate",
            "compensated"); 1 at the start, 0 for the least possible loss.
        gain: c.
        input_mean: μ of the inputs.
        correlation: ρ of the columns of G, mean over seeds.
        optimiser: "SGD" or "Adam", of the runs.

    After `plot`: `points_`, `intervals_` and `laws_` by family, `lines_` by run, `axes_`,
    `figure_`.
    """

    norms: pd.DataFrame
    curves: dict[str, Float[np.ndarray, " steps1"]]
    gain: float
    input_mean: float
    correlation: float
    optimiser: str

    def __post_init__(self) -> None:
        self.gain = validation.positive_float("gain", self.gain)
        validation.one_of("optimiser", self.optimiser, OPTIMISERS)
        missing = {"family", "rank", "mean", "low", "high", "law"} - set(self.norms.columns)
        if missing:
            raise ValueError(f"norms has no column {', '.join(sorted(missing))}")
        lengths = {len(curve) for curve in self.curves.values()}
        if set(self.curves) != set(RUNS) or len(lengths) != 1:
            raise ValueError(f"curves: expected equally long ones of {', '.join(RUNS)}")

    @classmethod
    def from_tables(
        cls,
        norms: pd.DataFrame,
        runs: pd.DataFrame,
        *,
        gain: float,
        input_mean: float,
        optimiser: str,
    ) -> "GradientNormDisplay":
        """From `missviz.analysis.gradients.first_gradients`, with a column input_mean, and
        `missviz.experiments.gain_and_rate.gain_runs`.

        LoRA's measured norms (s = 1) are multiplied by c: B's first gradient is s G Aᵀ, exactly.

        Raises ValueError where the tables don't hold that input mean, or that gain.
        """
        norms = norms[np.isclose(norms["input_mean"], input_mean)]
        if norms.empty:
            raise ValueError(f"input_mean={input_mean} was not measured")
        if not {1.0, gain} <= set(runs["gain"]):
            raise ValueError(f"gain={gain} did not run beside gain 1")
        correlation = float(norms.groupby("seed")["correlation"].first().mean())
        groups = norms.groupby(["family", "rank"])["ratio"]
        table = groups.agg(mean="mean", half=half_width).reset_index()
        half = table.pop("half")
        table["low"], table["high"] = table["mean"] - half, table["mean"] + half
        laws = {
            "LoRA": lambda rank: lora_law(rank, SIZE),
            "MiSS": lambda rank: miss_law(rank, SIZE, correlation),
        }
        table["law"] = [
            laws[family](rank) if family in laws else np.nan
            for family, rank in zip(table["family"], table["rank"], strict=True)
        ]
        scaled = np.where(table["family"] == "LoRA", gain, 1.0)
        for column in ("mean", "low", "high", "law"):
            table[column] *= scaled
        wanted = {"gain 1": (1.0, False), "same rate": (gain, False), "compensated": (gain, True)}
        curves = {
            run: runs.loc[(runs["gain"] == c) & (runs["compensated"] == comp), "loss"].to_numpy()
            for run, (c, comp) in wanted.items()
        }
        return cls(
            norms=table,
            curves=curves,
            gain=gain,
            input_mean=input_mean,
            correlation=correlation,
            optimiser=optimiser,
        )

    @property
    def others(self) -> list[str]:
        """Families whose law is not known."""
        return [name for name in dict.fromkeys(self.norms["family"]) if name not in FAMILIES]

    @property
    def divided_by(self) -> str:
        """What the compensated rate is divided by, in words."""
        return "c²" if self.optimiser == "SGD" else "c"

    def summary(self) -> str:
        at = int(np.median(self.norms["rank"].unique()))
        row = self.norms[self.norms["rank"] == at].set_index("family")["mean"]
        others = "".join(f", {name} {row[name]:.2f}" for name in self.others if name in row)
        ends = {run: curve[-1] for run, curve in self.curves.items()}
        apart = np.abs(self.curves["compensated"] / self.curves["gain 1"] - 1).max()
        return (
            f"gain c = {self.gain:g}, input mean {self.input_mean:g} (ρ = {self.correlation:.2f}): "
            f"first gradient at r = {at}, over full fine-tuning's: LoRA {row['LoRA']:.2f}, "
            f"MiSS {row['MiSS']:.2f}{others}; loss after {len(self.curves['gain 1']) - 1} steps of "
            f"{self.optimiser}: {ends['gain 1']:.2g} at c = 1, {ends['same rate']:.2g} at the same "
            f"rate, {ends['compensated']:.2g} at rate/{self.divided_by} "
            f"(largest relative difference to c = 1: {apart:.0e})"
        )

    def plot(self) -> "GradientNormDisplay":
        """Draw into a figure of its own."""
        top = 0.7 + ROW * len(self.others)
        self.axes_ = row_of_axes(11, 4.3, (1, 1), left=0.75, top=top, gap=0.85)
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        self._plot_norms(self.axes_[0])
        self._plot_runs(self.axes_[1])
        self.outcome_ = [self.lines_["same rate"], self.lines_["compensated"]]
        self._fill()
        return self

    def _plot_norms(self, ax: Axes) -> None:
        ranks = sorted(self.norms["rank"].unique())
        top = 100 if self.others else 16
        ax.set(xscale="log", yscale="log", xlim=(0.8, 1.3 * ranks[-1]), ylim=(0.012, top))
        ax.xaxis.set(major_locator=FixedLocator(ranks), minor_locator=NullLocator())
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set(
            major_locator=FixedLocator([0.1, 0.5, 1, 2, 5, 10]), minor_locator=NullLocator()
        )
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set(xlabel="rank r", ylabel="gradient / full fine-tuning's")
        full = method_style("full fine-tuning")
        looks: list[dict[str, Any]] = [{"color": full.color, "ls": full.linestyle, "lw": 1.2}]
        ax.plot([0.8, 1.3 * ranks[-1]], [1, 1], **looks[0])
        self.laws_: dict[str, Line2D] = {}
        self.points_: dict[str, Line2D] = {}
        self.intervals_: dict[str, LineCollection] = {}
        for family, style in method_styles([*FAMILIES, *self.others]).items():
            (self.laws_[family],) = ax.plot(ranks, np.ones(len(ranks)), color=style.color, lw=1.2)
            look = {"color": style.color, "marker": style.marker, "mfc": "none"}
            look |= {"ms": 7 * text_scale(), "mew": 1.4 * text_scale()}
            (self.points_[family],) = ax.plot(ranks, np.ones(len(ranks)), ls="", **look)
            looks.append({**look, "lw": 1.2})
            self.intervals_[family] = LineCollection([], colors=style.color, linewidths=2)
            ax.add_collection(self.intervals_[family], autolim=False)
        # Words beside samples: a legend takes as long to draw as everything else.
        self._norm_key = Key(ax, looks)

    def _plot_runs(self, ax: Axes) -> None:
        steps = np.arange(len(self.curves["gain 1"]))
        ax.set(
            yscale="log",
            xlim=(0, steps[-1]),
            ylim=(LEAST_SHOWN, MOST_SHOWN),
            xlabel="step",
            ylabel="loss above its minimum",
        )
        ax.yaxis.set(major_locator=FixedLocator([1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100]))
        ax.yaxis.set_minor_locator(NullLocator())
        color = method_style("LoRA").color
        looks: dict[str, dict[str, Any]] = {
            "gain 1": {"color": ink(), "lw": 1.5 * text_scale()},
            "same rate": {"color": color, "lw": 2.5 * text_scale()},
            "compensated": {"color": color, "ls": "", "marker": "o", "mfc": "none"},
        }
        looks["compensated"] |= {"ms": 10 * text_scale(), "mew": 2 * text_scale()}
        self.lines_ = {run: ax.plot(steps, steps + 1.0, **look)[0] for run, look in looks.items()}
        self._run_key = Key(ax, list(looks.values()))

    def _fixed(self) -> Any:
        return sorted(self.norms["rank"].unique()), self.others, len(self.curves["gain 1"])

    def _fill(self) -> None:
        for family in (*FAMILIES, *self.others):
            rows = self.norms[self.norms["family"] == family].sort_values("rank")
            self.laws_[family].set_data(rows["rank"], rows["law"])
            self.points_[family].set_data(rows["rank"], rows["mean"])
            bars = rows[["rank", "low", "high"]].to_numpy()
            self.intervals_[family].set_segments([[(x, a), (x, b)] for x, a, b in bars])
        for run, line in self.lines_.items():
            shown = np.arange(len(self.curves[run]))[:: EVERY if run == "compensated" else 1]
            line.set_data(shown, self.curves[run][shown])
        self._norm_key.set("full fine-tuning", f"LoRA, gain {self.gain:g}", "MiSS", *self.others)
        self._run_key.set(
            f"LoRA, gain 1 ({self.optimiser})",
            f"gain {self.gain:g}, same rate",
            f"gain {self.gain:g}, rate/{self.divided_by}",
        )

    def ghost(self, pinned: "GradientNormDisplay") -> list[Artist]:
        """The pinned laws, and the pinned run at the same rate, in grey."""
        norms, runs = self.axes_
        drawn: list[Artist] = []
        for family in FAMILIES:
            rows = pinned.norms[pinned.norms["family"] == family].sort_values("rank")
            drawn += norms.plot(rows["rank"], rows["law"], color=FAINT, lw=3, zorder=1)
        loss = pinned.curves["same rate"]
        return [*drawn, *runs.plot(np.arange(len(loss)), loss, color=FAINT, lw=3, zorder=1)]
