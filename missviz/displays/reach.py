"""How much of a wanted update each method can be, against the numbers that it trains."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.artist import Artist

from missviz.adapters.base import Method
from missviz.analysis.reach_by_rank import Reach, reaches_of
from missviz.displays.base import FROM_DATA, Display
from missviz.displays.colors import Cells, beyond, color_limit
from missviz.displays.labels import below
from missviz.style import FAINT, ink, method_styles, row_of_axes, text_scale

CHARACTERS = 24
"""Of a line below the target."""


@dataclass(eq=False, repr=False, kw_only=True)
class ReachDisplay(Display):
    """A wanted update M; the share of ‖M‖² in reach against trained numbers; the same at one rank.

    Both pictures draw a method in the same colour, dash and marker, so the second is the legend of
    the first. The dotted diagonal is what a random M gives to every method that is a projection on
    as many directions as it has numbers: that many of the d k directions there are. On inputs of
    one's own it has no meaning, and is not drawn: they may see fewer, and some more than others.

    Args:
        target: M (out, in).
        name: of M.
        reaches: per method, in the order of the second picture.
        rank: the one that is marked.
        limit: colours of M run from −limit to limit; None means its largest magnitude, or, where
            few entries are far larger than all others, the 99 % quantile.
        notice: what was left out, for the picture and the summary.
        on_inputs: whether the shares are those on inputs of one's own.

    After `plot`: `im_`, `lines_` and `bars_` by method, `axes_`, `figure_`.
    """

    target: Float[np.ndarray, "out in_"]
    name: str
    reaches: Mapping[str, Reach]
    rank: int
    limit: float = FROM_DATA
    notice: str = ""
    on_inputs: bool = False

    def __post_init__(self) -> None:
        if self.target.ndim != 2 or not self.target.any():
            raise ValueError(f"target of shape {self.target.shape} is not a matrix other than zero")
        if not self.reaches:
            raise ValueError("reaches is empty; give at least one method")
        if all(found.at(self.rank) is None for found in self.reaches.values()):
            known = sorted({int(rank) for found in self.reaches.values() for rank in found.ranks})
            raise ValueError(
                f"rank={self.rank} was not computed; choose from {', '.join(map(str, known))}"
            )
        self.limit = self.limit or color_limit(self.target)

    @classmethod
    def from_target(
        cls,
        target: Float[torch.Tensor, "out in_"],
        methods: Mapping[str, Callable[[int], Method]],
        ranks: Iterable[int],
        *,
        rank: int,
        name: str = "M",
        base: Float[torch.Tensor, "out in_"] | None = None,
        x: Float[torch.Tensor, "n in_"] | None = None,
    ) -> "ReachDisplay":
        """By `mv.reach`: nothing is trained.

        Args:
            target: M (out, in).
            methods: rank → method, by the name that is shown; it also gives the style.
            ranks: to compute; a method leaves out those that do not fit the layer.
            rank: the one that is marked.
            name: of M.
            base: W₀ (out, in), which PiSSA and Bat need.
            x: X (n, in), inputs of your own, as in `mv.reach`.
        """
        reaches = reaches_of(target, methods, ranks, base, x)
        return cls(
            target=target.detach().cpu().numpy(),
            name=name,
            reaches=reaches,
            rank=rank,
            on_inputs=x is not None,
        )

    def summary(self) -> str:
        shares = [
            f"{name} {'at least ' * found.lower_bound}{found.shares[at]:.0%} "
            f"({found.num_parameters[at]})"
            for name, found in self.reaches.items()
            if (at := found.at(self.rank)) is not None
        ]
        return (
            f"Target: {self.name}. Share in reach{' on your inputs' * self.on_inputs} at rank "
            f"{self.rank} (trained numbers): "
            + ", ".join(shares)
            + (f" ({self.notice})" if self.notice else "")
        )

    def plot(self) -> "ReachDisplay":
        """Draw into a figure of its own."""
        self.axes_ = row_of_axes(
            11, 4.0, (2.6, 3.8, 2.3), left=0.1, right=0.27, top=0.35, gap=(0.86, 1.0)
        )
        wanted, curves, bars = self.axes_
        self.figure_ = wanted.figure  # type: ignore[assignment]
        cells = self.target.size
        self.im_ = Cells(wanted, np.zeros(self.target.shape), clim=(-self.limit, self.limit))
        wanted.set(xticks=[], yticks=[])
        # Below the square, wherever its axes leave room.
        self.clipped_ = below(wanted)
        if not self.on_inputs:
            curves.plot([0, cells], [0, 1], color=FAINT, ls=":")
        on_inputs = " on your inputs" * self.on_inputs
        curves.set(
            xlim=(0, 1.04 * cells),
            ylim=(-0.04, 1.06),
            xticks=[cells * part // 4 for part in range(5)],
            xlabel="trained numbers",
            ylabel="share in reach" + on_inputs,
        )
        bars.set(xlim=(-0.05, 1.1), ylim=(len(self.reaches) - 0.5, -0.5))
        # In two lines: the bars have less room across than the curves have along.
        bars.set_xlabel(("share in reach" + on_inputs).replace(" on", "\non"))
        bars.set_yticks(
            range(len(self.reaches)), [name.removeprefix("fixed ") for name in self.reaches]
        )
        bars.tick_params(axis="y", length=0)
        bars.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        curves.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
        self.lines_, self.bars_ = {}, {}
        for name, style in method_styles(self.reaches).items():
            look: dict[str, Any] = {"color": style.color, "ls": style.linestyle}
            look |= {"marker": style.marker, "mec": ink(), "mew": 0.6, "ms": 8 * text_scale()}
            (self.lines_[name],) = curves.plot([], [], **look)
            (self.bars_[name],) = bars.plot([], [], lw=2.2 * text_scale(), markevery=[1], **look)
        if self.notice:
            self.figure_.text(0.005, 0.012, self.notice, fontsize="small", color=FAINT)
        self.outcome_ = [*self.lines_.values(), *self.bars_.values()]
        self._fill()
        return self

    def ghost(self, pinned: "ReachDisplay") -> list[Artist]:
        """Grey strokes across the bars: as many grey curves again could not be told apart."""
        bars = self.axes_[2]
        ends = [
            (found.shares[at], row)
            for row, found in enumerate(pinned.reaches.values())
            if (at := found.at(pinned.rank)) is not None
        ]
        return [
            *bars.plot(
                *np.transpose(ends), "|", color=FAINT, ms=17 * text_scale(), mew=3.5, zorder=1.5
            )
        ]

    def _fixed(self) -> Any:
        return self.target.shape, list(self.reaches), self.limit, self.notice, self.on_inputs

    def _fill(self) -> None:
        self.im_.set_data(self.target)
        self.axes_[0].set_title("\n".join(textwrap.wrap(f"M: {self.name}", CHARACTERS)))
        clipped = textwrap.wrap(beyond(self.limit, self.target), CHARACTERS)
        self.clipped_.set_text("\n".join(clipped))
        self.axes_[2].set_title(f"at rank {self.rank}")
        for row, (name, found) in enumerate(self.reaches.items()):
            at = found.at(self.rank)
            self.lines_[name].set_data(found.num_parameters, found.shares)
            self.lines_[name].set_markevery([] if at is None else [at])
            share = [] if at is None else [0, found.shares[at]]
            self.bars_[name].set_data(share, [row] * len(share))
