"""One claim's evidence: an interval against what the claim asks for."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from matplotlib.axes import Axes

from missviz.displays.base import Display
from missviz.style import BLUE, FAINT, GREEN, ink, row_of_axes

Interval = tuple[float, float, float]
"""Effect, low, high."""
WIDE, SMALL = 88, 125
"""Characters in a line, of the claim and of what stands below."""
LINE = 0.19
"""Inches."""


@dataclass(eq=False, repr=False, kw_only=True)
class ClaimDisplay(Display):
    """A claim in words, its verdict, and for each place where it was tried the effect with its 95 %
    interval; green is where the effect must lie for the claim to hold.

    Args:
        claim: the sentence.
        verdict: what followed.
        intervals: by place, (effect, low, high).
        band: (from, to) of the effects with which the claim holds; either may be infinite.
        unit: of the effect.
        said: who says it, and where.
        lines: what else was seen, a line each.

    After `plot`: `points_` by place, `band_`, `ax_`, `figure_`.
    """

    claim: str
    verdict: str
    intervals: Mapping[str, Interval]
    band: tuple[float, float]
    unit: str
    said: str = ""
    lines: Sequence[str] = ()

    def summary(self) -> str:
        found = "; ".join(
            f"{place}{': ' * bool(place)}{interval(one)} {self.unit}"
            for place, one in self.intervals.items()
        )
        return f"{self.claim} {self.verdict}{': ' * bool(found)}{found}"

    def plot(self) -> Self:
        """Draw into a figure of its own."""
        claim = textwrap.wrap(self.claim, WIDE)
        lines = [f"Said: {self.said}.", *self.lines] if self.said else self.lines
        below = [part for line in lines for part in textwrap.wrap(line, SMALL)]
        longest = max(map(len, self.intervals), default=0)
        top, bottom = 0.55 + LINE * len(claim), 0.5 + LINE * len(below)
        (self.ax_,) = row_of_axes(
            9,
            0.3 + top + bottom + 0.32 * max(len(self.intervals), 1),
            left=0.2 + 0.08 * longest,
            right=0.3,
            top=top,
            bottom=bottom,
        )
        self.figure_ = self.ax_.figure  # type: ignore[assignment]
        words: dict[str, Any] = {"va": "top", "parse_math": False}
        self.figure_.text(0.01, 0.985, "\n".join(claim), fontsize="large", **words)
        words["va"] = "bottom"
        self.figure_.text(0.01, 0.02, "\n".join(below), fontsize="small", **words)
        self.ax_.set_title(self.verdict, loc="left", fontweight="bold", parse_math=False)
        self._draw(self.ax_)
        return self

    def _draw(self, ax: Axes) -> None:
        ends = [end for one in self.intervals.values() for end in one if math.isfinite(end)]
        ends += [0.0, *(end for end in self.band if math.isfinite(end))]
        room = 0.08 * (max(ends) - min(ends) or 1.0)
        ax.set_xlim(min(ends) - room, max(ends) + room)
        ax.set_ylim(max(len(self.intervals), 1) - 0.5, -0.5)
        ax.set_yticks(range(len(self.intervals)), list(self.intervals))
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(self.unit, parse_math=False)
        low, high = ax.get_xlim()
        shown = [min(max(end, low), high) for end in self.band]
        # As wide as a line, where it is a point: an identity's tolerance.
        if shown[1] - shown[0] < 0.004 * (high - low):
            shown[1] = shown[0] + 0.004 * (high - low)
        self.band_ = ax.axvspan(*shown, color=GREEN, alpha=0.22, lw=0)
        ax.axvline(0, color=FAINT, lw=0.8)
        self.points_: dict[str, Any] = {}
        for row, (place, (effect, start, end)) in enumerate(self.intervals.items()):
            self.points_[place] = ax.errorbar(
                [effect],
                [row],
                xerr=[[effect - start], [end - effect]],
                fmt="o",
                color=BLUE,
                ecolor=ink(),
                capsize=3,
            )
        if not self.intervals:
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=FAINT)


def interval(one: Interval) -> str:
    """ "0.31 [0.2, 0.42]", or the effect alone where there is no spread."""
    effect, low, high = (f"{value:.3g}" for value in one)
    return effect if low == high else f"{effect} [{low}, {high}]"
