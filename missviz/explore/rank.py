"""How many directions an update has: singular values of ΔW, W₀ and W₀ + ΔW."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.trial import on_layer, randomise
from missviz.analysis.spectra import spectrum
from missviz.displays.spectrum import Spectrum, SpectrumDisplay
from missviz.experiments.snapshots import adapter_snapshots
from missviz.experiments.tasks import WIDTH
from missviz.explore.methods import Choice, Menu
from missviz.explore.panel import Panel
from missviz.explore.weights import OwnWeight, load_weight
from missviz.randomness import generator_for, normal

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
    method: Any = "MiSS",
    rank: int | None = None,
    steps: int = 100,
    weight: Any = None,
    *,
    reveal: bool = True,
) -> Panel:
    """Singular values of ΔW beside those of W₀, as a 64 × 64 layer trains; controls: method, steps.

    The run is the published "no free lunch" at seed 43, stopped after 0 … 100 steps; all runs are
    done when the panel is made. With reveal=False the update stays hidden until `panel.reveal()`.

    Args:
        method: one of the menu, or your own: a method object, or a list (`missviz.explore.methods`
            has the rule); its run is made when the panel is.
        rank: of every method; Bat's block size. None means that of your own method, or 4, or less
            on a smaller weight.
        steps: of Adam: 0, 1, 3, 10, 30 or 100.
        weight: your own W₀ in place of the trained layer: a tensor, an array, or a path (see
            `missviz.explore.weights.load_weight`). Nothing is trained then: random numbers stand
            in, the controls are method and rank, and `steps` does not count.
        reveal: False hides the outcome.

    Raises TypeError or ValueError, naming the argument, also where `rank` does not fit `method`.
    """
    menu = Menu.of(METHODS, method)
    own = None if weight is None else load_weight(weight)
    most = 4 if own is None else min(4, *own.matrix.shape)
    size = validation.positive_int("rank", menu.size(rank, most))
    if own is not None:
        return _on_own_weight(menu, size, own, reveal)
    _check(menu, size, WIDTH, WIDTH)
    runs = _runs(size).with_own([one for one in menu.options if isinstance(one, Method)])
    return Panel(
        "rank",
        runs.display,
        {"method": menu.options, "steps": list(STEPS)},
        {"method": menu.first, "steps": steps},
        fixed={"rank": size} if menu.sized or rank is not None else {},
        reveal=reveal,
    )


def _check(menu: Menu, rank: int, out_features: int, in_features: int) -> None:
    """What is shown first fits the layer, or ValueError says why not."""
    first = menu.at(menu.first, rank)
    if isinstance(menu.first, Method):
        weight = normal((out_features, in_features), 1.0, generator_for("explore.rank"))
        on_layer(first, linear_with(weight))
    first.check_shape(out_features, in_features)


@dataclass(frozen=True)
class _Runs:
    """Spectra of every method's run at one rank."""

    rank: int
    base: np.ndarray
    spectra: dict[Choice, dict[int, Spectrum]]
    """By method and steps."""
    reasons: dict[Choice, str]
    """Why the other methods do not exist at this rank."""

    def with_own(self, methods: Sequence[Method]) -> "_Runs":
        """These, and runs of the reader's own methods, made now."""
        spectra, reasons = dict(self.spectra), dict(self.reasons)
        for method in methods:
            try:
                spectra[method] = _spectra(method.with_rank(self.rank))
            except (ValueError, RuntimeError) as error:
                reasons[method] = str(error)
        return replace(self, spectra=spectra, reasons=reasons)

    def display(self, method: Choice, steps: int) -> SpectrumDisplay:
        at_rank = METHODS[method] if isinstance(method, str) else method.with_rank
        label = at_rank(self.rank).name
        found, notice = None, self.reasons.get(method, f"after {steps} steps of Adam")
        if method in self.spectra:
            found = self.spectra[method][steps]
        seen = [of for run in self.spectra.values() for of in run.values()]
        top = 1.5 * max(float(max(of.delta[0], of.moved[0])) for of in seen)
        return SpectrumDisplay(spectra={label: found}, base=self.base, notice=notice, top=top)


@functools.lru_cache(maxsize=8)
def _runs(rank: int) -> _Runs:
    spectra: dict[Choice, dict[int, Spectrum]] = {}
    reasons: dict[Choice, str] = {}
    for name, make in METHODS.items():
        try:
            make(rank).check_shape(WIDTH, WIDTH)
        except ValueError as error:
            reasons[name] = str(error)
        else:
            spectra[name] = _spectra(make(rank))
    (base,) = adapter_snapshots(MiSS(1), [0]).values()
    return _Runs(rank, spectrum(base.base.weight.detach()).numpy(), spectra, reasons)


def _spectra(method: Method) -> dict[int, Spectrum]:
    """Of the run of one method, by steps."""
    run = adapter_snapshots(method, STEPS)
    return {step: Spectrum.of(adapter) for step, adapter in run.items()}


def _on_own_weight(menu: Menu, rank: int, own: OwnWeight, reveal: bool) -> Panel:
    """Methods and ranks on the reader's weight."""
    _check(menu, rank, *own.matrix.shape)
    base = spectrum(own.matrix).numpy()
    top = 3 * (base[0] + STAND_IN * float(torch.linalg.norm(own.matrix)))

    @functools.cache
    def display(method: Choice, rank: int = rank) -> SpectrumDisplay:
        chosen = menu.at(method, rank)
        found, notice = None, "random, not trained"
        try:
            found = _stand_in(chosen, own.matrix)
        except ValueError as error:
            notice = str(error)
        notice = "; ".join(filter(None, [notice, own.notice]))
        return SpectrumDisplay(spectra={chosen.name: found}, base=base, notice=notice, top=top)

    choices: dict[str, list[Any]] = {"method": menu.options}
    values: dict[str, Any] = {"method": menu.first}
    if menu.sized:
        choices["rank"] = sorted({rank, *(n for n in OWN_RANKS if n <= min(own.matrix.shape))})
        values["rank"] = rank
    return Panel("rank", display, choices, values, fixed={"weight": own.source}, reveal=reveal)


def _stand_in(method: Method, weight: Tensor) -> Spectrum:
    """The spectrum of a random update of `weight`."""
    with torch.no_grad():
        adapter = on_layer(method, linear_with(weight))
        starts = [p.flatten() for p in adapter.parameters() if p.requires_grad]
        size = torch.cat(starts).square().mean().sqrt() or weight.square().mean().sqrt()
        randomise(adapter, std=STAND_IN * float(size))
    return Spectrum.of(adapter)
