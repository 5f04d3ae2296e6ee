"""Are the shards of ΔW copies of each other? And how does that depend on the scale of W?"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Adapter
from missviz.analysis.shards import bat_cosine, mean_cosine, shard_cosines
from missviz.analysis.spectra import spectrum, stable_rank
from missviz.displays.base import Display
from missviz.displays.colors import Cells, color_limit
from missviz.displays.digits import Digits
from missviz.style import FAINT, ink, method_style, row_of_axes

SCALES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16)
"""What W₀ is multiplied by; 1 leaves it as it is."""
NUMERICAL_ZERO = 1e-10
"""Singular values below this share of the largest are rounding (ΔW is built in float64)."""
MOST_WITH_DIGITS = 8
MOST_WITH_GAPS = 32
ROWS_SHOWN, COLUMNS_SHOWN = 16, 8
"""Rows of ΔW, and columns per shard: enough to see whether shards repeat, in cells that can be seen
from the last row."""


@dataclass(eq=False, repr=False, kw_only=True)
class ColinearityDisplay(Display):
    """ΔW cut into shards, the cosine of every two, and their mean against the scale of W₀.

    Args:
        delta: ΔW (out, in).
        cosines: of the shards, (shards, shards); NaN where a shard is zero.
        singular_values: of ΔW.
        width: columns per shard, at most in.
        sigmas, means: root mean square of W₀'s entries, and the mean cosine of ΔW's shards there,
            with the trained numbers kept.
        present: the index among `sigmas` of what is shown.
        own_sigma: of W₀ as it is.
        name: of the method, short.
        num_parameters: how many numbers were trained.
        origin: where the trained numbers are from: "after 100 steps".
        notice: what was left out, for the picture and the summary.

    After `plot`: `ims_` (the first rows of ΔW and columns of each shard, as shares of the largest
    entry or, where few are far larger than all others, of the 99 % quantile; the cosines),
    `digits_` (None beyond 8 shards), `points_` and `point_` (means, and the present one), `law_`,
    `note_`, `axes_`, `figure_`.

    Raises ValueError where shapes don't fit, or `present` is no index.
    """

    delta: Float[np.ndarray, "out in_"]
    cosines: Float[np.ndarray, "shards shards"]
    singular_values: Float[np.ndarray, " n"]
    width: int
    sigmas: Float[np.ndarray, " scales"]
    means: Float[np.ndarray, " scales"]
    present: int
    own_sigma: float
    name: str
    num_parameters: int
    origin: str
    notice: str = ""

    def __post_init__(self) -> None:
        shards = -(-self.delta.shape[1] // self.width)
        if self.cosines.shape != (shards, shards):
            raise ValueError(
                f"cosines of shape {self.cosines.shape}; ΔW {self.delta.shape} has {shards} shards "
                f"of width={self.width}"
            )
        if self.sigmas.shape != self.means.shape or not 0 <= self.present < len(self.sigmas):
            raise ValueError(
                f"present={self.present} with {len(self.sigmas)} sigmas and {len(self.means)} "
                "means; give one mean per sigma, and the index of one"
            )

    @classmethod
    def over_scales(
        cls,
        adapter: Adapter,
        width: int,
        *,
        scales: Sequence[float] = SCALES,
        origin: str = "as it is",
        notice: str = "",
    ) -> "dict[float, ColinearityDisplay]":
        """{scale: display} of an adapter with W₀ times each scale and its trained numbers kept.

        For methods whose ΔW is made from what `adapter.base.weight` holds (Bat) or from their own
        numbers alone (MiSS, LoRA, FixedFactor); PiSSA and DoRA would need more than a larger base.

        Raises ValueError or TypeError naming the argument: a scale is not positive, or W₀ is zero
        and has none.
        """
        scales = [validation.positive_float("scale", scale) for scale in scales]
        exact = copy.deepcopy(adapter).cpu().double()
        weight = exact.base.weight.detach().clone()
        own_sigma = float(weight.square().mean().sqrt())
        if own_sigma == 0:
            raise ValueError("W₀ is zero, so that it has no scale; give a layer with weights")
        found: list[_Measured] = []
        for scale in scales:
            with torch.no_grad():
                exact.base.weight.copy_(scale * weight)
            delta = exact.delta().detach()
            # Only Bat's ΔW changes with W₀; what stays need not be decomposed again.
            same = found and torch.equal(delta, found[-1].delta)
            found.append(found[-1] if same else _Measured(delta, exact, width))
        return {
            scale: cls(
                delta=one.delta.numpy(),
                cosines=one.cosines.numpy(),
                singular_values=one.values.numpy(),
                width=width,
                sigmas=own_sigma * np.array(scales),
                means=np.array([mean_cosine(other.cosines) for other in found]),
                present=index,
                own_sigma=own_sigma,
                name=adapter.method.name,
                num_parameters=adapter.method.num_parameters(*weight.shape),
                origin=origin,
                notice=notice,
            )
            for index, (scale, one) in enumerate(zip(scales, found, strict=True))
        }

    @classmethod
    def from_adapter(
        cls, adapter: Adapter, width: int, *, scale: float = 1.0, origin: str = "as it is"
    ) -> "ColinearityDisplay":
        """An adapter with W₀ times `scale`, one of SCALES or another, and its numbers kept."""
        scales = sorted({*SCALES, validation.positive_float("scale", scale)})
        return cls.over_scales(adapter, width, scales=scales, origin=origin)[scale]

    @property
    def sigma(self) -> float:
        """Root mean square of the entries of W₀, as shown."""
        return float(self.sigmas[self.present])

    @property
    def mean(self) -> float:
        """Mean cosine of two different shards; NaN where there is no update."""
        return float(self.means[self.present])

    @property
    def rank(self) -> int:
        """Number of singular values that are not numerically zero."""
        return int((self.singular_values > NUMERICAL_ZERO * self.singular_values[0]).sum())

    @property
    def stable_rank(self) -> float:
        """Σσ²/σ₁² of ΔW's singular values; NaN where there is no update."""
        return float(stable_rank(torch.from_numpy(self.singular_values)))

    def summary(self) -> str:
        cosines = "no cosines"
        if not np.isnan(self.mean):
            cosines = f"mean cosine of {len(self.cosines)} shards {_two_digits(self.mean)}"
            if self.name.startswith("Bat"):
                cosines += f" (its law: {bat_cosine(self.sigma, self.width):.2f})"
        said = f"{self.name}, σ = {self.sigma:.3g}: {cosines}; {self._numbers()}"
        return f"{said} ({self.notice})" if self.notice else said

    def _numbers(self) -> str:
        if not self.delta.any():
            return f"{self.origin}: ΔW = 0, no update yet"
        return (
            f"{self.origin}: {self.num_parameters:,} trained numbers, rank {self.rank}, "
            f"stable rank {self.stable_rank:.1f}"
        )

    def plot(self) -> Self:
        """Draw into a figure of its own."""
        self.axes_ = row_of_axes(
            11, 4.0, (1.08, 1, 1), left=0.1, right=0.15, bottom=0.6, top=0.35, gap=(0.2, 0.65)
        )
        shards_ax, matrix_ax, _ = self.axes_
        self.figure_ = shards_ax.figure  # type: ignore[assignment]
        rows, columns = self._corner().shape
        count, shown = len(self.cosines), min(self.width, COLUMNS_SHOWN)
        self.ims_ = [
            Cells(ax, np.zeros(shape), clim=(-1, 1))
            for ax, shape in ((shards_ax, (rows, columns)), (matrix_ax, (count, count)))
        ]
        shards_ax.set_aspect("auto")
        if count <= MOST_WITH_GAPS:
            edges = np.arange(shown, columns, shown) - 0.5
            shards_ax.vlines(edges, -0.5, rows - 0.5, color="black", lw=1.2)
        self.digits_ = Digits(matrix_ax, 0.65, _cosine) if count <= MOST_WITH_DIGITS else None
        for ax in (shards_ax, matrix_ax):
            ax.set(xticks=[], yticks=[], facecolor=FAINT)
        part = "" if self._corner().size == self.delta.size else " (part)"
        shards_ax.set_xlabel(f"{count} shards of {self.width} column{'s' * (self.width > 1)}{part}")
        matrix_ax.set_xlabel("shard against shard")
        self._plot_curve()
        # In the line of what is pinned, and the one above it.
        self.note_ = self.figure_.text(0.01, 0.012, "", va="bottom", linespacing=1.2)
        self.outcome_ = [
            self.ims_[1],
            *(self.digits_.patches if self.digits_ else ()),
            matrix_ax.title,
            self.law_,
            self.law_text_,
            self.points_,
            self.point_,
        ]
        self._fill()
        return self

    def _corner(self) -> Float[np.ndarray, "rows columns"]:
        """What the picture shows of ΔW: the first rows, and the first columns of each shard."""
        first = np.arange(self.delta.shape[1]) % self.width < COLUMNS_SHOWN
        return self.delta[:ROWS_SHOWN, first]

    def _plot_curve(self) -> None:
        ax = self.axes_[2]
        low, high = self.sigmas[0] / 1.3, self.sigmas[-1] * 1.3
        ax.set(xscale="log", xlim=(low, high), ylim=(-0.32, 1.12), yticks=[0, 0.5, 1])
        # One tick per decade, and at three times a decade, as plain numbers.
        decades = [
            factor * 10.0**power
            for power in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))))
            for factor in (1, 3)
        ]
        ticks = [tick for tick in decades if low <= tick <= high]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="σ, scale of W (▲ as it is)", ylabel="mean cosine")
        ax.plot(self.own_sigma, -0.27, "^", color=FAINT)
        grid = np.geomspace(low, high, 100)
        (self.law_,) = ax.plot(grid, bat_cosine(grid, self.width), "--", color=ink(), lw=1.5)
        self.law_text_ = ax.text(low * 1.15, 0.18, "Bat: 1/(1 + σ²b)")
        (self.points_,) = ax.plot([], [], ls="none", ms=6)
        (self.point_,) = ax.plot([], [], ls="none", ms=14, mew=2, mec=ink())

    def ghost(self, pinned: "ColinearityDisplay") -> list[Artist]:
        """The pinned mean cosines in grey, the present one large."""
        ax, marker = self.axes_[2], method_style(pinned.name).marker
        here = slice(pinned.present, pinned.present + 1)
        return [
            *ax.plot(pinned.sigmas, pinned.means, marker, color=FAINT, ms=6, zorder=1.5),
            *ax.plot(pinned.sigmas[here], pinned.means[here], marker, color=FAINT, ms=14),
        ]

    def _fixed(self) -> Any:
        return self.delta.shape, self.width, self.own_sigma, self.sigmas.tolist()

    def _fill(self) -> None:
        self.ims_[0].set_data(self._corner() / color_limit(self.delta))
        self.ims_[1].set_data(np.ma.masked_invalid(self.cosines))
        if self.digits_:
            self.digits_.set(self.cosines)
        self.axes_[0].set_title(f"ΔW: {self.name.removeprefix('fixed ')}")
        mean = f"mean cosine {_two_digits(self.mean)}"
        if np.isnan(self.mean):
            mean = "a shard is 0: no cosine" if self.delta.any() else "no update yet"
        self.axes_[1].set_title(mean)
        look = method_style(self.name)
        self.points_.set(data=(self.sigmas, self.means), color=look.color, marker=look.marker)
        here = slice(self.present, self.present + 1)
        self.point_.set(data=(self.sigmas[here], self.means[here]), marker=look.marker)
        self.point_.set(markerfacecolor=look.color)
        notice = f"\n{self.notice}" if self.notice else ""
        self.note_.set_text(f"{self._numbers()}{notice}")


class _Measured:
    """What is measured of one ΔW."""

    def __init__(self, delta: Tensor, adapter: Adapter, width: int) -> None:
        self.delta = delta
        self.cosines = shard_cosines(delta, width)
        self.values = spectrum(adapter)


def _cosine(value: float) -> str:
    """ ".98": two decimals, without the 0 that says nothing, and 1 where that is what is meant."""
    sign = "-" if value < 0 else ""
    if abs(value) > 1 - 1e-9:
        return f"{sign}1"
    size = min(abs(value), 0.994)  # rounded to 1.00 it would be a copy
    return f"{sign if size >= 0.005 else ''}{size:.2f}".replace("0.", ".")


def _two_digits(value: float) -> str:
    """Without the sign of −0.00."""
    return f"{round(value, 2) + 0.0:.2f}"
