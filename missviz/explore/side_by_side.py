"""Two methods on the same axes."""

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.displays.spectrum import SpectrumDisplay
from missviz.experiments.snapshots import STEPS, adapter_snapshots
from missviz.explore.panel import Panel
from missviz.explore.race import race

VIEWS = ("spectrum", "race")


def side_by_side(
    first: Method, second: Method, *, view: str = "spectrum", reveal: bool = True, **values: object
) -> Panel:
    """Two methods on the same axes, from the published "no free lunch" run (64 × 64 layer).

    Args:
        first, second: any two methods, your own too.
        view: "spectrum" has their singular values, with the steps of training as a control;
            "race" their losses, with the controls of `race`.
        reveal: False hides the outcome until `panel.reveal()`.
        values: where the controls stand at first, such as steps=30.

    Raises TypeError or ValueError, naming the argument; also where the methods have one name.
    """
    for name, method in (("first", first), ("second", second)):
        if not isinstance(method, Method):
            raise TypeError(f"{name}={method!r} is not a missviz method; try missviz.MiSS(rank=4)")
    if first.name == second.name:
        raise ValueError(f"both methods are {first.name}; names key the picture")
    validation.one_of("view", view, VIEWS)
    if view == "race":
        panel = race(first, second, reveal=reveal)
        return panel.set(**values)
    return _spectra(first, second, reveal).set(**values)


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
