"""A lecturer's own panel: any display, any controls."""

from collections.abc import Callable, Sequence
from typing import Any

from missviz.displays.base import Display
from missviz.explore.panel import Panel


def panel(make: Callable[..., Display], *, reveal: bool = True, **choices: Sequence[Any]) -> Panel:
    """A panel over `make`, with one control per keyword: its values, the first one shown first.

        mv.explore.panel(
            lambda rank: mv.displays.UpdateDisplay.from_adapter(mv.LoRA(rank).on(layer)),
            rank=[1, 2, 4],
        )

    Args:
        make: a Display class, or any function that returns a display; called with one value for
            each control. It should not train anything: each new value waits for it.
        reveal: False hides the display's `outcome_` until `panel.reveal()`.
        choices: one to three controls, each a slider that steps through the values.

    Raises:
        TypeError: `make` cannot be called, or returns no Display.
        ValueError: no control, more than three, or one without values.
    """
    if not callable(make):
        raise TypeError(f"make={make!r} is neither a Display class nor a function")
    if not choices:
        raise ValueError("a panel needs a control, such as rank=[1, 2, 4]")
    for name, values in choices.items():
        if isinstance(values, str) or not len(list(values)):
            raise ValueError(f"{name}={values!r} is not a list of values, such as [1, 2, 4]")

    def compute(**values: Any) -> Display:
        display = make(**values)
        if not isinstance(display, Display):
            raise TypeError(f"make returned {type(display).__name__}, which is no missviz Display")
        return display

    first = {name: next(iter(values)) for name, values in choices.items()}
    return OwnPanel("panel", compute, choices, first, reveal=reveal)


class OwnPanel(Panel):
    """A panel whose line of code has a name for `make`, since nobody knows the reader's."""

    @property
    def state(self) -> str:
        controls = ", ".join(f"{name}={options!r}" for name, options in self._choices.items())
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"mv.explore.panel(make, {controls}).set({values})"
