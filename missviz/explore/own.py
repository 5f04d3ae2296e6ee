"""A lecturer's own panel: any display, any controls."""

from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

from missviz.adapters.base import Method
from missviz.displays.base import Display
from missviz.explore.panel import Panel, code_of

TAKEN = ("path", "folder", "suffix", "self", "dpi", "size", "seconds")
"""What `save` and `save_steps` have already."""


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
        choices: one to three controls: numbers on a slider, words and methods in a menu.

    Raises:
        TypeError: `make` cannot be called, or returns no Display.
        ValueError: no control, more than three, or one without values.
    """
    if not callable(make):
        raise TypeError(f"make={make!r} is neither a Display class nor a function")
    if not choices:
        raise ValueError("a panel needs a control, such as rank=[1, 2, 4]")
    listed = {name: _listed(name, values) for name, values in choices.items()}

    def compute(**values: Any) -> Display:
        display = make(**values)
        if not isinstance(display, Display):
            raise TypeError(f"make returned {type(display).__name__}, which is no missviz Display")
        return display

    first = {name: values[0] for name, values in listed.items()}
    return OwnPanel("panel", compute, listed, first, reveal=reveal)


def _listed(name: str, values: Any) -> list[Any]:
    """A control's values, which are numbers, words or methods."""
    if name in TAKEN:
        raise ValueError(f"a control cannot be called {name}; it is an argument of the panel's own")
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}={values!r} is not a list of values, such as [1, 2, 4]")
    listed = list(values)
    if not listed:
        raise ValueError(f"{name}={values!r} is not a list of values, such as [1, 2, 4]")
    for value in listed:
        if not isinstance(value, str | bool | Real | Method) or value != value:
            kind = type(value).__name__
            raise TypeError(f"{name} has a value of type {kind}; give numbers, words or methods")
    return listed


class OwnPanel(Panel):
    """A panel whose line of code has a name for `make`, since nobody knows the reader's."""

    @property
    def state(self) -> str:
        controls = ", ".join(
            f"{name}=[{', '.join(map(code_of, options))}]" for name, options in self.choices.items()
        )
        values = ", ".join(f"{name}={code_of(value)}" for name, value in self.values.items())
        hidden = "" if self.revealed else ", reveal=False"
        return f"mv.explore.panel(make{hidden}, {controls}).set({values})"
