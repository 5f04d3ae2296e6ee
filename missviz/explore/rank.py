"""How many directions an update has: singular values of ΔW, W₀ and W₀ + ΔW."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Method, linear_with
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.analysis.spectra import spectrum
from missviz.displays.spectrum import Spectrum, SpectrumDisplay
from missviz.experiments.snapshots import adapter_snapshots
from missviz.experiments.tasks import WIDTH
from missviz.explore.panel import Panel
from missviz.explore.weights import OwnWeight, load_weight
from missviz.testing import randomise

METHODS: dict[str, Callable[[int], Method]] = {
    "LoRA": LoRA,
    "PiSSA": PiSSA,
    "MiSS": MiSS,
    "fixed orthogonal": lambda rank: FixedFactor(rank, "orthogonal"),
    "Bat": Bat,
}
STEPS = (0, 1, 3, 10, 30, 100)
OWN_RANKS = (1, 2, 4, 8, 16)
"""On the reader's own weight, besides the one asked for."""
STAND_IN = 0.5
"""Size of the random numbers that stand in for training, relative to where they start; to W₀'s
entries, for those that start at 0."""


def rank(
    method: str = "MiSS",
    rank: int = 4,
    steps: int = 100,
    weight: Any = None,
    *,
    reveal: bool = True,
) -> Panel:
    """Singular values of ΔW beside those of W₀, as a 64 × 64 layer trains; controls: method, steps.

    The run is the published "no free lunch" at seed 43, stopped after 0 … 100 steps; all runs are
    done when the panel is made. With reveal=False the update stays hidden until `panel.reveal()`.

    Args:
        method: one of the menu.
        rank: of every method; Bat's block size.
        steps: of Adam: 0, 1, 3, 10, 30 or 100.
        weight: your own W₀ in place of the trained layer: a tensor, an array, or a path (see
            `missviz.explore.weights.load_weight`). Nothing is trained then: random numbers stand
            in, the controls are method and rank, and `steps` does not count.
        reveal: False hides the outcome.

    Raises TypeError or ValueError, naming the argument, also where `rank` does not fit `method`.
    """
    rank = validation.positive_int("rank", rank)
    if weight is not None:
        return _on_own_weight(method, rank, load_weight(weight), reveal)
    if method in METHODS:
        METHODS[method](rank).check_shape(WIDTH, WIDTH)
    return Panel(
        "rank",
        _runs(rank).display,
        {"method": list(METHODS), "steps": list(STEPS)},
        {"method": method, "steps": steps},
        fixed={"rank": rank},
        reveal=reveal,
    )


@dataclass(frozen=True)
class _Runs:
    """Spectra of every method's run at one rank."""

    rank: int
    base: np.ndarray
    spectra: dict[str, dict[int, Spectrum]]
    """By method and steps."""
    reasons: dict[str, str]
    """Why the other methods do not exist at this rank."""

    def display(self, method: str, steps: int) -> SpectrumDisplay:
        label = METHODS[method](self.rank).name
        found, notice = None, self.reasons.get(method, f"after {steps} steps of Adam")
        if method in self.spectra:
            found = self.spectra[method][steps]
        seen = [of for run in self.spectra.values() for of in run.values()]
        top = 1.5 * max(float(max(of.delta[0], of.moved[0])) for of in seen)
        return SpectrumDisplay(spectra={label: found}, base=self.base, notice=notice, top=top)


@functools.lru_cache(maxsize=8)
def _runs(rank: int) -> _Runs:
    taken, reasons = {}, {}
    for name, make in METHODS.items():
        try:
            make(rank).check_shape(WIDTH, WIDTH)
        except ValueError as error:
            reasons[name] = str(error)
        else:
            taken[name] = adapter_snapshots(make(rank), STEPS)
    spectra = {
        name: {step: Spectrum.of(adapter) for step, adapter in run.items()}
        for name, run in taken.items()
    }
    base = next(iter(taken.values()))[0].base.weight.detach()
    return _Runs(rank, spectrum(base).numpy(), spectra, reasons)


def _on_own_weight(method: str, rank: int, own: OwnWeight, reveal: bool) -> Panel:
    """Methods and ranks on the reader's weight."""
    if method in METHODS:
        METHODS[method](rank).check_shape(*own.matrix.shape)
    base = spectrum(own.matrix).numpy()
    top = 3 * (base[0] + STAND_IN * float(torch.linalg.norm(own.matrix)))

    @functools.cache
    def display(method: str, rank: int) -> SpectrumDisplay:
        chosen = METHODS[method](rank)
        found, notice = None, "random, not trained"
        try:
            found = _stand_in(chosen, own.matrix)
        except ValueError as error:
            notice = str(error)
        notice = "; ".join(filter(None, [notice, own.notice]))
        return SpectrumDisplay(spectra={chosen.name: found}, base=base, notice=notice, top=top)

    ranks = sorted({rank, *(n for n in OWN_RANKS if n <= min(own.matrix.shape))})
    return Panel(
        "rank",
        display,
        {"method": list(METHODS), "rank": ranks},
        {"method": method, "rank": rank},
        fixed={"weight": own.source},
        reveal=reveal,
    )


def _stand_in(method: Method, weight: Tensor) -> Spectrum:
    """The spectrum of a random update of `weight`."""
    with torch.no_grad():
        adapter = method.on(linear_with(weight))
        starts = [p.flatten() for p in adapter.parameters() if p.requires_grad]
        size = torch.cat(starts).square().mean().sqrt() or weight.square().mean().sqrt()
        randomise(adapter, std=STAND_IN * float(size))
    return Spectrum.of(adapter)
