"""What a panel shows, without any front end: picture and words at each setting of its controls."""

import functools
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple, TypeVar, cast

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from missviz.adapters.base import Method
from missviz.displays.base import HIDDEN, Display, plotted
from missviz.explore.frames import Frames
from missviz.style import DRAWING, look

MOST_FRAMES = 256
"""Frames kept for going back, or written into one page: about 150 kB each."""
KEPT = ("title", "xlabel", "ylabel", "xscale", "yscale", "xlim", "ylim")
"""What of the axes stays as a lecturer sets it on the figure, in every later frame."""


MethodT = TypeVar("MethodT", bound=Callable[..., Any])


def one_at_a_time(method: MethodT) -> MethodT:
    """No two threads are in such methods at once, of whichever views and panels."""

    @functools.wraps(method)
    def alone(*arguments: Any, **options: Any) -> Any:
        with DRAWING:
            return method(*arguments, **options)

    return cast(MethodT, alone)


class Frame(NamedTuple):
    """A picture as PNG, and what it shows in one line."""

    picture: bytes
    words: str


class View:
    """A display at every setting of some controls.

    Args:
        name: what errors call it.
        compute: values → a display, not yet drawn. Nothing is trained there.
        choices: for each control its values.
        values: those drawn first.
        reveal: False hides the outcome.

    Its picture is drawn into one figure, whose artists are kept: other values change their data.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[..., Display],
        choices: Mapping[str, Sequence[Any]],
        values: Mapping[str, Any],
        *,
        reveal: bool = True,
    ) -> None:
        self.name, self.compute = name, compute
        self.choices = {control: list(options) for control, options in choices.items()}
        self.revealed = reveal
        self.look = look()
        self.epoch = 0
        """Counts what changes all frames: the outcome shown, a ghost, an edit of the figure."""
        self._pinned: tuple[Display, str] | None = None
        self._edits: dict[tuple[int, str], Any] = {}
        self._edited = False
        self._frames: OrderedDict[tuple[int, ...], Frame] = OrderedDict()
        self._shown = self.checked(values)
        with self.look.scope():
            self.display = plotted(compute(**self._shown))
        self._painter = Frames(self.display.figure_)

    def checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` as they stand among the choices; ValueError where one does not."""
        return check_choices(self.name, self.choices, values)

    def places(self, values: Mapping[str, Any]) -> tuple[int, ...]:
        """For each control, which of its choices that is."""
        return tuple(place_of(self.choices[name], values[name]) for name in self.choices)

    def at(self, places: Sequence[int]) -> dict[str, Any]:
        """The values at these places."""
        listed = zip(self.choices.items(), places, strict=True)
        return {name: options[place] for (name, options), place in listed}

    @one_at_a_time
    def frame(self, values: Mapping[str, Any]) -> Frame:
        """Picture and words at these values, from memory if they were drawn before."""
        self._take_edits()
        key = self.places(values)
        if key not in self._frames:
            with self._drawing():
                self._show(values)
                words = self.display.summary() if self.revealed else HIDDEN
                self._frames[key] = Frame(self._painter.png(), words)
            if len(self._frames) > MOST_FRAMES:
                self._frames.popitem(last=False)
        return self._frames[key]

    def has_frame(self, values: Mapping[str, Any]) -> bool:
        """Whether the frame is in memory."""
        return self.places(values) in self._frames

    @one_at_a_time
    def figure(self, values: Mapping[str, Any]) -> Figure:
        """The figure itself at these values. Titles, axis labels, limits and scales that are set on
        it stay in every later frame; all else stays until the display draws its figure anew."""
        self._take_edits()
        with self._drawing():
            self._show(values)
            self._painter.draw()
        return self.display.figure_

    @one_at_a_time
    def drawn(self, values: Mapping[str, Any]) -> Display:
        """The picture at these values as a display of its own, drawn directly."""
        self._take_edits()
        with self.look.scope():
            return self._dressed(plotted(self.compute(**values)))

    @property
    def touched(self) -> bool:
        """Whether somebody changed the figure since it was drawn."""
        return self._painter.touched

    def settle(self) -> None:
        """What changed on the figure until now is nobody's edit."""
        self._painter.settle()

    def neighbours(self, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The values one step away."""
        for name, place in zip(self.choices, self.places(values), strict=True):
            options = self.choices[name]
            for beside in options[max(place - 1, 0) : place] + options[place + 1 : place + 2]:
                yield {**values, name: beside}

    def settings(self) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
        """Every combination of values, and its places."""
        for values in itertools.product(*self.choices.values()):
            at = dict(zip(self.choices, values, strict=True))
            yield self.places(at), at

    @property
    def count(self) -> int:
        """How many settings there are."""
        return math.prod(map(len, self.choices.values()))

    # --- What changes all frames ---------------------------------------------------------------

    @one_at_a_time
    def reveal(self, shown: bool = True) -> None:
        """Show the outcome, or hide it."""
        self.revealed = shown
        self.forget()

    @one_at_a_time
    def pin(self, values: Mapping[str, Any], label: str) -> None:
        """Keep the picture at these values as a grey ghost, in place of an earlier one."""
        self._pinned = self.compute(**values), str(label)
        try:
            self._ghost()
        except Exception:
            self.unpin()
            raise

    @one_at_a_time
    def unpin(self) -> None:
        """Take the ghost away."""
        self._pinned = None
        self._ghost()

    def forget(self) -> None:
        """Draw every frame anew when it is asked for."""
        self._frames.clear()
        self.epoch += 1

    # --- How it works --------------------------------------------------------------------------

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """In the panel's look; what changes the figure in here is nobody's edit."""
        try:
            with self.look.scope():
                yield
        except Exception as error:
            if not self._edited:
                raise
            self._edited = False
            self._edits.clear()
            with self.look.scope():
                self.display = self._dressed(plotted(self.compute(**self._shown)))
            self._painter = Frames(self.display.figure_)
            raise ValueError(
                f"what you changed on the figure cannot be drawn, and was taken back: {error}"
            ) from error
        finally:
            self._painter.settle()

    def _show(self, values: Mapping[str, Any]) -> None:
        wanted = self.compute(**values)
        if type(wanted) is type(self.display):
            self.display.update(wanted)
        else:
            self.display = plotted(wanted)
        if self.display.figure_ is not self._painter.figure:  # a display that is drawn anew
            self._painter = Frames(self.display.figure_)
            self._dressed(self.display)
        self.display.reveal(self.revealed)
        self._edit(self.display.figure_)
        self._shown = dict(values)

    def _dressed(self, display: Display) -> Display:
        """A display just drawn, with the ghost, the lecturer's edits, and what is hidden."""
        if self._pinned:
            display.pin(*self._pinned)
        self._edit(display.figure_)
        return display.reveal(self.revealed)

    def _ghost(self) -> None:
        self._take_edits()
        self.forget()
        with self._drawing():
            self.display.unpin()
            if self._pinned:
                self.display.pin(*self._pinned)

    def _edit(self, figure: Figure) -> None:
        for (place, name), value in self._edits.items():
            if place < len(figure.axes) and _get(figure.axes[place], name) != value:
                figure.axes[place].set(**{name: value})

    def _take_edits(self) -> None:
        """If somebody changed the figure since it was drawn, find out what."""
        if not self._painter.touched:
            return
        with self.look.scope():
            direct = plotted(self.compute(**self._shown))
            if self._pinned:
                direct.pin(*self._pinned)
            direct.figure_.draw_without_rendering()  # settles limits
        pairs = zip(self.display.figure_.axes, direct.figure_.axes, strict=False)
        for place, (ax, untouched) in enumerate(pairs):
            for name in KEPT:
                if (value := _get(ax, name)) != _get(untouched, name):
                    self._edits[place, name] = value
        self._edited = True
        self.forget()
        self._painter.begin_anew()


def _get(ax: Axes, name: str) -> Any:
    return getattr(ax, f"get_{name}")()


# --- Choices ----------------------------------------------------------------------------------


def label_of(option: Any) -> str:
    """What a control calls one of its values: a method by its name."""
    return option.name if isinstance(option, Method) else str(option)


def is_number(option: Any) -> bool:
    """Whether a slider can hold it: True and False are words."""
    return isinstance(option, Real) and not isinstance(option, bool)


def place_of(options: Sequence[Any], value: Any) -> int:
    """Where `value` stands among `options`; -1 if it does not. 4.0 is 4, True is not 1, and a
    method may be given by its name."""
    for place, option in enumerate(options):
        if isinstance(option, bool) is isinstance(value, bool) and (
            option == value or (isinstance(option, Method) and option.name == value)
        ):
            return place
    return -1


def check_choices(
    panel: str, choices: Mapping[str, Sequence[Any]], values: Mapping[str, Any]
) -> dict[str, Any]:
    """`values` as they stand in `choices` (4 for 4.0); ValueError where one does not."""
    found = {}
    for name, value in values.items():
        if name not in choices:
            raise ValueError(f"{panel} has no control {name!r}; it has {', '.join(choices)}")
        options = list(choices[name])
        comparable = isinstance(value, str | Real | Method)
        place = place_of(options, value) if comparable else -1
        if place < 0:
            listed = ", ".join(map(_written, options))
            raise ValueError(f"{name}={_written(value)} is not a choice; choose from {listed}")
        found[name] = options[place]
    return found


def _written(option: Any) -> str:
    return option.name if isinstance(option, Method) else repr(option)
