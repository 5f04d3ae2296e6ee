"""When layers should share: share of their targets reached, against how alike the targets are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.collections import LineCollection

from missviz.adapters.base import Method
from missviz.analysis.sharing import curves_of, sharing_table
from missviz.displays.base import FROM_DATA, Display
from missviz.displays.colors import Cells
from missviz.style import FAINT, ink, method_styles, row_of_axes, text_scale

ACROSS = 2
"""Layers' targets beside each other."""


@dataclass(eq=False, repr=False, kw_only=True)
class SharingDisplay(Display):
    """What layers want; the share of it in reach against c, how alike that is; the same at one c.

    Both pictures draw a method in the same colour, dash and marker, so the second is the legend of
    the first. Strokes are 95 % intervals of the mean.

    Args:
        targets: M_t (L, out, in) of one problem at that c.
        curves: one row per method and c: method, alike, mean, low, high; and at_least, where a
            mean may be larger than what was found.
        alike: the c that is marked.
        limit: colours of M run from −limit to limit; None means the largest magnitude.
        note: where the curves come from, if they were not computed now.

    After `plot`: `im_`, `lines_`, `strokes_` and `bars_` by method, `axes_`, `figure_`.

    Raises ValueError where `targets` is not 3-D or zero, or `curves` has no such c.
    """

    targets: Float[np.ndarray, "layer out in_"]
    curves: pd.DataFrame
    alike: float
    limit: float = FROM_DATA
    note: str = ""

    def __post_init__(self) -> None:
        if self.targets.ndim != 3 or not self.targets.any():
            raise ValueError(
                f"targets of shape {self.targets.shape} are not matrices other than zero"
            )
        known = sorted(set(self.curves["alike"]))
        if self.alike not in known:
            shown = ", ".join(f"{c:g}" for c in known)
            raise ValueError(f"alike={self.alike} was not computed; choose from {shown}")
        self.limit = self.limit or float(np.abs(self.targets).max())

    @classmethod
    def from_methods(
        cls,
        methods: Mapping[str, Method],
        targets: Mapping[float, Float[torch.Tensor, "layer out in_"]],
        *,
        alike: float,
        **settings: Any,
    ) -> "SharingDisplay":
        """Computed now, by `missviz.analysis.sharing.sharing_table`, which takes `settings`.

        Args:
            methods: by the name that is shown.
            targets: by c, what the layers of one problem want; shown for the c that is marked.
            alike: the c that is marked.
        """
        curves = curves_of(sharing_table(methods, list(targets), **settings))
        return cls(targets=targets[alike].numpy(), curves=curves, alike=alike)

    @property
    def methods(self) -> list[str]:
        """By the names that are shown."""
        return list(dict.fromkeys(self.curves["method"]))

    @property
    def cosine(self) -> float:
        """Mean cosine of the targets of two different layers."""
        flat = self.targets.reshape(len(self.targets), -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        products = flat @ flat.T
        count = len(flat)
        return float((products.sum() - count) / max(count * (count - 1), 1))

    @property
    def at_least(self) -> set[str]:
        """Methods whose reach may be larger than what is drawn."""
        if "at_least" not in self.curves:
            return set()
        return set(self.curves.loc[self.curves["at_least"].astype(bool), "method"])

    def summary(self) -> str:
        here = self.curves[self.curves["alike"] == self.alike]
        shares = ", ".join(
            f"{row.method} {'at least ' * (row.method in self.at_least)}{row.mean:.0%}"
            for row in here.itertuples()
        )
        return (
            f"{len(self.targets)} layers, c = {self.alike:g}: mean cosine of what two of them want "
            f"{self.cosine:.2f}. Share in reach with equal trained numbers: {shares}"
        )

    def plot(self) -> "SharingDisplay":
        """Draw into a figure of its own."""
        self.axes_ = row_of_axes(
            11, 4.2, (2.0, 3.9, 2.4), left=0.1, right=0.3, top=0.35, gap=(0.85, 1.2)
        )
        wanted, curves, bars = self.axes_
        self.figure_ = wanted.figure  # type: ignore[assignment]
        self.im_ = Cells(wanted, _tiles(self.targets), clim=(-self.limit, self.limit))
        wanted.set(xticks=[], yticks=[])
        wanted.spines[:].set_visible(False)
        parts = [0, 0.25, 0.5, 0.75, 1]
        percent = ["0", "25 %", "50 %", "75 %", "100 %"]
        curves.set(
            xlim=(-0.03, 1.03),
            ylim=(-0.04, 1.06),
            xticks=parts,
            xlabel="c: how alike the layers' targets are",
            ylabel="share in reach",
        )
        curves.set_yticks(parts, percent)
        bars.set(xlim=(-0.05, 1.1), ylim=(len(self.methods) - 0.5, -0.5), xlabel="share in reach")
        bars.set_xticks(parts[::2], percent[::2])
        bars.set_yticks(
            range(len(self.methods)),
            [name + " ≥" * (name in self.at_least) for name in self.methods],
        )
        bars.tick_params(axis="y", length=0)
        self.lines_, self.strokes_, self.bars_ = {}, {}, {}
        for name, style in method_styles(self.methods).items():
            look: dict[str, Any] = {"color": style.color, "ls": style.linestyle}
            look |= {"marker": style.marker, "mec": ink(), "mew": 0.6, "ms": 8 * text_scale()}
            (self.lines_[name],) = curves.plot([], [], **look)
            self.strokes_[name] = LineCollection([], colors=style.color, lw=1.2 * text_scale())
            curves.add_collection(self.strokes_[name], autolim=False)
            (self.bars_[name],) = bars.plot([], [], lw=2.2 * text_scale(), markevery=[1], **look)
        self.outcome_ = [*self.lines_.values(), *self.strokes_.values(), *self.bars_.values()]
        if self.note:
            self.figure_.text(0.005, 0.012, self.note, fontsize="small", color=FAINT)
        self._fill()
        return self

    def ghost(self, pinned: "SharingDisplay") -> list[Artist]:
        """Grey strokes across the bars: as many grey curves again could not be told apart."""
        bars = self.axes_[2]
        ends = pinned.curves[pinned.curves["alike"] == pinned.alike]["mean"]
        return [
            *bars.plot(
                ends, range(len(ends)), "|", color=FAINT, ms=17 * text_scale(), mew=3.5, zorder=1.5
            )
        ]

    def _fixed(self) -> Any:
        return self.targets.shape, self.methods, self.at_least, self.limit, self.note

    def _fill(self) -> None:
        self.im_.set_data(_tiles(self.targets))
        self.axes_[0].set_title(f"the {len(self.targets)} targets")
        self.axes_[2].set_title(f"at c = {self.alike:g}")
        for row, (method, curve) in enumerate(self.curves.groupby("method", sort=False)):
            name, marked = str(method), (curve["alike"] == self.alike).to_numpy()
            self.lines_[name].set_data(curve["alike"], curve["mean"])
            self.lines_[name].set_markevery(marked.tolist())
            ends = curve[["low", "high"]].to_numpy()
            self.strokes_[name].set_segments(
                [[(c, low), (c, high)] for c, (low, high) in zip(curve["alike"], ends, strict=True)]
            )
            self.bars_[name].set_data([0, curve["mean"].to_numpy()[marked].item()], [row, row])


def _tiles(
    targets: Float[np.ndarray, "layer out in_"],
) -> Float[np.ma.MaskedArray, "rows columns"]:
    """The matrices in rows of two, with an empty line between them."""
    layers, out, in_ = targets.shape
    down = -(-layers // ACROSS)
    tiles = np.full((down * (out + 1) - 1, ACROSS * (in_ + 1) - 1), np.nan)
    for n, target in enumerate(targets):
        top, left = n // ACROSS * (out + 1), n % ACROSS * (in_ + 1)
        tiles[top : top + out, left : left + in_] = target
    return np.ma.masked_invalid(tiles)
