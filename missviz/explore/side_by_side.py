"""Two methods, or any two panels, beside each other."""

from typing import Any

from missviz.adapters import validation
from missviz.adapters.base import Method, checked_method
from missviz.displays.spectrum import SpectrumDisplay
from missviz.experiments.snapshots import STEPS, adapter_snapshots
from missviz.explore.linking import Pair
from missviz.explore.panel import Panel
from missviz.explore.race import race

VIEWS = ("spectrum", "race", "update", "rank", "colinearity")
"""On the same axes the first two; the others are panels that show one method at a time."""


def side_by_side(
    first: Method | Panel,
    second: Method | Panel,
    *,
    view: str | None = None,
    reveal: bool = True,
    **values: object,
) -> Panel | Pair:
    """Two methods on the same axes, or any two panels beside each other.

        mv.explore.side_by_side(mv.LoRA(2), mv.MiSS(4))
        mv.explore.side_by_side(mv.LoRA(2), mv.MiSS(4), view="update")
        mv.explore.side_by_side(mv.explore.reach(), mv.explore.lunch())

    Args:
        first, second: two methods, your own too; or two panels. Controls that both panels have, and
            that stand alike, move together.
        view: for methods. "spectrum", the default, has their singular values on the same axes, with
            the steps of training as a control, from the published "no free lunch" run (64 × 64
            layer); "race" their losses, with the controls of `race`. "update", "rank" and
            "colinearity" put two of those panels beside each other. (`reach`, `gradient_norms`,
            `lunch` and `sharing` draw any methods on the same axes by themselves.)
        reveal: False hides the outcome until `reveal()`.
        values: where the controls stand at first, such as steps=30.

    Raises TypeError or ValueError, naming the argument; also where the methods have one name.
    """
    if isinstance(first, Panel) and isinstance(second, Panel):
        if view is not None:
            raise ValueError(f"view={view!r}: two panels have their views already")
        if first is second:
            raise ValueError("first and second are one panel; open it twice")
        pair = Pair(first, second).set(**values)
        return pair if reveal else pair.reveal(False)
    for name, method in (("first", first), ("second", second)):
        checked_method(name, method)
    assert isinstance(first, Method)
    assert isinstance(second, Method)
    if first.name == second.name:
        raise ValueError(f"both methods are {first.name}; names key the picture")
    return _methods(first, second, view or "spectrum", reveal, values)


def _methods(
    first: Method, second: Method, view: str, reveal: bool, values: dict[str, Any]
) -> Panel | Pair:
    validation.one_of("view", view, VIEWS)
    if view == "spectrum":
        return _spectra(first, second, reveal).set(**values)
    if view == "race":
        return race(first, second, reveal=reveal).set(**values)
    from missviz import explore

    open_panel = getattr(explore, view)
    panels = [open_panel(method=method, reveal=reveal) for method in (first, second)]
    return Pair(*panels).set(**values)


def _spectra(first: Method, second: Method, reveal: bool) -> Panel:
    runs = {method.name: adapter_snapshots(method) for method in (first, second)}
    drawn = {
        step: SpectrumDisplay.from_updates(
            {name: run[step] for name, run in runs.items()}, notice=f"after {step} steps of Adam"
        )
        for step in STEPS
    }
    top = max(display.top for display in drawn.values())

    def display(steps: int) -> SpectrumDisplay:
        at = drawn[steps]
        return SpectrumDisplay(spectra=at.spectra, base=at.base, notice=at.notice, top=top)

    return Panel(
        "side_by_side",
        display,
        {"steps": list(STEPS)},
        {"steps": STEPS[-1]},
        given=(first, second),
        reveal=reveal,
    )
