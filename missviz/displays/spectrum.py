"""Singular values of ΔW beside those of W₀ and W₀ + ΔW, and how much each direction carries."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from missviz.adapters.base import Adapter
from missviz.adapters.fixed_factor import FixedFactorAdapter
from missviz.adapters.miss import MiSSAdapter
from missviz.analysis.spectra import energy, spectrum, stable_rank
from missviz.displays.base import FROM_DATA, Display
from missviz.displays.labels import ROW, WordsAbove, lying_on_one_another, points_of
from missviz.style import FAINT, in_lecture, ink, method_styles, row_of_axes, text_scale

ZERO = 1e-6
"""Singular values below this share of W₀'s largest count as zero: float32, in which weights are
kept and trained, cannot tell them from rounding."""
MARKS = 8
"""Markers per factor of ten in n; more would hide the line."""


@dataclass(frozen=True)
class Spectrum:
    """Singular values of one update, largest first."""

    delta: Float[np.ndarray, " n"]
    """Of ΔW, all min(d, k) of them."""
    moved: Float[np.ndarray, " n"]
    """Of W₀ + ΔW."""
    small: Float[np.ndarray, " m"]
    """Of the small trained D where ΔW = D F with F fixed; empty elsewhere."""
    num_parameters: int

    @classmethod
    def of(cls, adapter: Adapter) -> "Spectrum":
        # In float64: rounding of float32 products would show as rank.
        exact = copy.deepcopy(adapter).cpu().double()
        with torch.no_grad():
            made_of = exact.D if isinstance(exact, MiSSAdapter | FixedFactorAdapter) else None
            small = torch.empty(0) if made_of is None else spectrum(made_of)
            delta, moved = spectrum(exact), spectrum(exact.weight)
        return cls(
            delta.numpy(),
            moved.numpy(),
            small.numpy(),
            adapter.method.num_parameters(adapter.out_features, adapter.in_features),
        )

    def words(self, zero: float) -> str:
        """Rank, never without stable rank and the number of trained numbers; in two lines."""
        if self.delta.max() <= zero:
            return f"no update yet, ΔW = 0\n{self.num_parameters} trained numbers"
        rank = int((self.delta > zero).sum())
        stable = float(stable_rank(torch.from_numpy(self.delta)))
        return f"rank {rank}, stable rank {stable:.1f}\n{self.num_parameters} trained numbers"

    def ladder(self, zero: float) -> str:
        """σ(ΔW) / σ(D), which is √g where every column of D is copied g times."""
        size = min(len(self.small), len(self.delta))
        seen = self.small[:size] > zero
        if not seen.any():
            return ""
        ratios = self.delta[:size][seen] / self.small[:size][seen]
        low, high = (f"{ratio:.2f}" for ratio in (ratios.min(), ratios.max()))
        return f"σ(ΔW) = {low if low == high else f'{low} to {high}'} σ(D)"


@dataclass(eq=False, repr=False, kw_only=True)
class SpectrumDisplay(Display):
    """σ(ΔW), σ(W₀) and σ(W₀ + ΔW) on logarithmic axes; share of Σσ² in the first n; ranks in words.

    Where ΔW is made of a smaller trained D, open markers show σ(D). The grey band is
    numerical zero: what lies in it is drawn in its middle. ΔW = 0 has no spectrum to draw.

    Args:
        spectra: by method name, which gives the style; several lie on the same axes. None means
            that the method does not exist on this layer: `notice` says why.
        base: singular values of W₀, largest first.
        notice: a few words that the picture and the summary repeat: "after 30 steps".
        top: upper limit of singular values; None means a little above all that is shown.

    After `plot`: `base_line_`; `delta_lines_`, `moved_lines_`, `small_lines_`, `energy_lines_` and
    `texts_` in the order of `spectra`; `notice_text_`, `axes_`, `figure_`.
    """

    spectra: Mapping[str, Spectrum | None]
    base: Float[np.ndarray, " n"]
    notice: str = ""
    top: float = FROM_DATA
    zero: float = field(init=False)

    def __post_init__(self) -> None:
        if not self.spectra:
            raise ValueError("spectra is empty; give at least one method")
        for name, of in self.spectra.items():
            if of is not None and len(of.delta) != len(self.base):
                raise ValueError(
                    f"{name} has {len(of.delta)} singular values and W₀ has {len(self.base)}; all "
                    "updates must be on the same layer"
                )
        shown = [of.moved.max() for of in self.spectra.values() if of is not None]
        shown += [of.delta.max() for of in self.spectra.values() if of is not None]
        scale = float(self.base.max()) or max([1e-30, *map(float, shown)])
        self.zero = ZERO * scale
        self.top = self.top or 1.5 * max([scale, *map(float, shown)])

    @classmethod
    def from_updates(
        cls, updates: Mapping[str, Adapter], *, notice: str = "", top: float = FROM_DATA
    ) -> "SpectrumDisplay":
        """Adapters on one layer as they are now, by the name that is shown: {"MiSS r=4": adapter}.

        Raises ValueError where they are not on the same W₀.
        """
        if not updates:
            raise ValueError("updates is empty; give at least one adapter, by its name")
        first, base = next((name, of.base.weight.detach()) for name, of in updates.items())
        for name, adapter in updates.items():
            if not torch.equal(adapter.base.weight, base):
                raise ValueError(f"{name} is on another W₀ than {first}")
        return cls(
            spectra={name: Spectrum.of(adapter) for name, adapter in updates.items()},
            base=spectrum(base.cpu()).numpy(),
            notice=notice,
            top=top,
        )

    def summary(self) -> str:
        parts = [
            f"{name}: ΔW: none" if of is None else f"{name}: {self._words(of, ', ')}"
            for name, of in self.spectra.items()
        ]
        return "; ".join([*parts, self.notice] if self.notice else parts)

    def _words(self, of: Spectrum, separator: str) -> str:
        words = of.words(self.zero).split("\n")
        return separator.join([*words, *filter(None, [of.ladder(self.zero)])])

    def plot(self) -> "SpectrumDisplay":
        """Draw into a figure of its own."""
        top = 0.15 + ROW * (2 + len(self.spectra) + in_lecture())  # one line may be broken
        self.axes_ = row_of_axes(11, 3.6 + top, (4, 3), left=0.75, right=0.15, gap=0.85, top=top)
        values, shares = self.axes_
        self.figure_ = values.figure  # type: ignore[assignment]
        count = len(self.base)
        for ax in (values, shares):
            ax.set(xscale="log", xlim=(0.9, 1.15 * count), xlabel="n")
            powers = [2**power for power in range(0, count.bit_length(), 1 if count < 9 else 2)]
            ax.set_xticks(powers, [str(power) for power in powers])
            ax.set_xticks([], minor=True)
        values.set(yscale="log", ylim=(self.zero / 10, self.top), ylabel="n-th singular value")
        decades = range(int(np.ceil(np.log10(self.zero))), int(np.floor(np.log10(self.top))) + 1)
        values.set_yticks(
            [self._drawn_zero, *(10.0**decade for decade in decades)],
            ["0", *(f"$10^{{{decade}}}$" for decade in decades)],
        )
        values.set_yticks([], minor=True)
        self.zero_band_ = values.axhspan(self.zero / 10, self.zero, **_zero())
        shares.set(ylim=(0, 1.05), ylabel="share of Σσ² up to n")
        shares.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        self._draw_lines()
        self._draw_words()
        self.outcome_ = [
            *self.delta_lines_,
            *self.moved_lines_,
            *self.small_lines_,
            *self.energy_lines_,
            *self.texts_,
        ]
        self._fill()
        return self

    @property
    def _drawn_zero(self) -> float:
        return float(self.zero / np.sqrt(10))

    def _draw_lines(self) -> None:
        values, shares = self.axes_
        n = np.arange(1, len(self.base) + 1)
        squares = np.cumsum(self.base**2) / max(float(np.sum(self.base**2)), 1e-300)
        self.base_line_ = values.plot(n, self._drawn(self.base), color=ink())[0]
        shares.plot(n, squares, color=ink())
        slots = range(len(self.spectra))
        self.moved_lines_ = [values.plot([], [], **_broad())[0] for _ in slots]
        self.delta_lines_ = [values.plot([], [])[0] for _ in slots]
        self.small_lines_ = [values.plot([], [], ls="", mfc="none")[0] for _ in slots]
        self.energy_lines_ = [shares.plot([], [])[0] for _ in slots]

    def _draw_words(self) -> None:
        """Above the axes: what is shown, a line for each update, and the lines' meaning."""
        self._words_above = WordsAbove(self.figure_, 1 + len(self.spectra))
        self.notice_text_, *self.texts_ = self._words_above.texts
        samples = {
            "W₀": Line2D([], [], color=ink()),
            "numerical zero": Patch(**_zero()),
            "W₀ + ΔW": Line2D([], [], color=FAINT, **_broad()),
            "ΔW": Line2D([], [], color=FAINT, marker="o"),
            "D": Line2D([], [], color=FAINT, marker="o", mfc="none", ls=""),
        }
        # Outside its axes, so that a panel draws it once. What may be absent stands last.
        legend = self.axes_[0].legend(
            samples.values(),
            samples,
            ncols=len(samples),
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            frameon=False,
            handlelength=2.5,
            columnspacing=1.4,
            borderpad=0.1,
        )
        self._legend = legend

    def _fill_legend(self) -> None:
        """Only what is drawn."""
        drawn = [
            True,
            True,
            _any_points(self.moved_lines_),
            _any_points(self.delta_lines_),
            _any_points(self.small_lines_),
        ]
        entries = zip(self._legend.legend_handles, self._legend.get_texts(), strict=True)
        for entry, shown in zip(entries, drawn, strict=True):
            for artist in filter(None, entry):
                if artist.get_visible() != shown:
                    artist.set_visible(shown)
                    self._legend.stale = True  # to be drawn anew

    def ghost(self, pinned: "SpectrumDisplay") -> list[Artist]:
        """The pinned ΔW's singular values and shares as dotted grey lines."""
        values, shares = self.axes_
        n = np.arange(1, len(self.base) + 1)
        grey: list[Artist] = []
        for of in pinned.spectra.values():
            if of is None or of.delta.max() <= self.zero:
                continue
            shown = energy(torch.from_numpy(of.delta)).numpy()
            dotted: dict[str, Any] = {"color": FAINT, "ls": (0, (1, 1)), "lw": 3, "zorder": 1.5}
            grey += values.plot(n, self._drawn(of.delta), **dotted)
            grey += shares.plot(n, shown, **dotted)
        return grey

    def _drawn(self, sigma: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return np.where(sigma > self.zero, sigma, self._drawn_zero)

    def _fixed(self) -> Any:
        return len(self.spectra), self.base.tolist()

    def _fill(self) -> None:
        nothing = np.empty(0)
        styles = method_styles(self.spectra)
        for slot, (name, of) in enumerate(self.spectra.items()):
            style = styles[name]
            updated = of is not None and of.delta.max() > self.zero
            delta = of.delta if of is not None and updated else nothing
            small = of.small if of is not None and updated else nothing
            drawn = (
                (self.delta_lines_[slot], self._drawn(delta)),
                (self.moved_lines_[slot], nothing if of is None else self._drawn(of.moved)),
                (self.small_lines_[slot], self._drawn(small)),
                (self.energy_lines_[slot], np.cumsum(delta**2) / max(np.sum(delta**2), 1e-300)),
            )
            for line, heights in drawn:
                line.set_data(np.arange(1, len(heights) + 1), heights)
                line.set_color(style.color)
            for line in (self.delta_lines_[slot], self.small_lines_[slot]):
                line.set_marker(style.marker)
                line.set_markevery(_marked(len(points_of(line))))
            self.texts_[slot].set_color(style.color)
        self._fill_words()
        self._fill_legend()

    def _fill_words(self) -> None:
        lines = dict(zip(self.spectra, self.delta_lines_, strict=True))
        over = {name: group[0] for group in lying_on_one_another(lines) for name in group[1:]}
        words = [self.notice]
        for name, of in self.spectra.items():
            said = "ΔW: none" if of is None else self._words(of, ", ")
            on = f", on the line of {over[name]}" if name in over else ""
            words.append(f"{name}: {said}{on}")
        self._words_above.set(*words)


def _any_points(lines: Iterable[Line2D]) -> bool:
    return any(len(points_of(line)) for line in lines)


def _marked(count: int) -> list[int]:
    """Which of the first `count` points have a marker, evenly on a logarithmic axis."""
    steps = np.geomspace(1, max(count, 1), 1 + int(MARKS * np.log10(max(count, 1))))
    return [int(n) - 1 for n in np.unique(steps.round()) if n <= count]


def _zero() -> dict[str, Any]:
    return {"color": FAINT, "alpha": 0.35, "lw": 0}


def _broad() -> dict[str, Any]:
    """A line that others stay visible on."""
    return {"lw": 4 * text_scale(), "alpha": 0.5}
