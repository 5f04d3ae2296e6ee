"""A panel: a few controls beside one picture, which is drawn anew as they move."""

import asyncio
import base64
import html
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from numbers import Real
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets
from matplotlib import rc_context
from matplotlib.figure import Figure

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.displays.base import HIDDEN, Display, plotted
from missviz.explore.frames import Frames
from missviz.explore.page import write_page
from missviz.style import look

MOST_CONTROLS = 3
MOST_FRAMES = 256
"""Frames kept for going back, or written into one page: about 50 kB each."""
QUIET = 0.12
"""Seconds without a key after which frames are drawn ahead: the browser shows its own first."""
PAUSE = 0.02
"""Seconds between two frames drawn ahead, for the kernel to hear of a key."""


class Panel(widgets.VBox):
    """Controls, one picture and a line of text.

    Args:
        name: of the function in `missviz.explore` that makes this panel.
        compute: values → a display, not yet drawn. Nothing is trained there.
        choices: for each control its values, which a slider steps through; at most three controls.
        values: where the controls stand at first.
        given: positional arguments of that function, for `state`: methods.
        fixed: its other arguments: {"size": 8}.
        reveal: False hides the outcome until `reveal()`, or the button that is then there.

    Raises ValueError where there are more than three controls, or a value is none of its choices.

    A picture is drawn into a figure that pyplot does not know of, and its artists are kept: a
    control changes their data. Frames that were shown before come from memory, and those beside
    the present one are drawn ahead.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[..., Display],
        choices: Mapping[str, Sequence[Any]],
        values: Mapping[str, Any],
        *,
        given: Sequence[Method] = (),
        fixed: Mapping[str, Any] | None = None,
        reveal: bool = True,
    ) -> None:
        validation.boolean("reveal", reveal)
        if len(choices) > MOST_CONTROLS:
            raise ValueError(f"choices has {len(choices)} controls; a panel has at most three")
        self._name, self._compute = name, compute
        self._given, self._fixed = tuple(given), dict(fixed or {})
        self._choices = {control: list(options) for control, options in choices.items()}
        values = self._checked(values)
        self._look = look()
        self._controls = {
            control: _slider(control, options, values[control])
            for control, options in self._choices.items()
        }
        self._readouts = {control: _readout(options) for control, options in self._choices.items()}
        self._revealed = reveal
        self._pinned: tuple[Display, str] | None = None
        self._frames: OrderedDict[tuple[Any, ...], tuple[bytes, str]] = OrderedDict()
        self._picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self._text = widgets.HTML()
        self._display = plotted(compute(**values))
        self._painter = Frames(self._display.figure_)
        self._quiet = False
        self._ahead: asyncio.TimerHandle | None = None
        self._button = widgets.Button(description="Reveal")
        self._button.on_click(lambda _: self.reveal())
        buttons = [] if reveal else [self._button]
        controls = widgets.HBox(
            [
                *(
                    part
                    for name in self._choices
                    for part in (self._controls[name], self._readouts[name])
                ),
                *buttons,
            ],
            layout=widgets.Layout(flex_flow="row wrap"),
        )
        super().__init__([controls, self._picture, self._text])
        self._draw()
        for control in self._controls.values():
            control.observe(self._moved, names="value")

    # --- What a lecturer uses ------------------------------------------------------------------

    @property
    def values(self) -> dict[str, Any]:
        """Where the controls stand."""
        return {name: control.value for name, control in self._controls.items()}

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The values that each control steps through."""
        return {name: list(options) for name, options in self._choices.items()}

    @property
    def revealed(self) -> bool:
        """Whether the outcome is shown."""
        return self._revealed

    @property
    def figure(self) -> Figure:
        """The figure of the present picture."""
        with rc_context(self._look):
            self._show(self.values)
        return self._display.figure_

    @property
    def picture(self) -> bytes:
        """The present picture as PNG."""
        return bytes(self._picture.value)

    @property
    def state(self) -> str:
        """The line of code that opens this view again."""
        arguments = {**self._fixed, **self.values, **({} if self._revealed else {"reveal": False})}
        written = [
            f"mv.{method!r}" if type(method).__module__.startswith("missviz.") else repr(method)
            for method in self._given
        ]
        written += [f"{name}={value!r}" for name, value in arguments.items()]
        return f"mv.explore.{self._name}({', '.join(written)})"

    @property
    def summary(self) -> str:
        """What the present picture shows, in one line; it also stands under the picture."""
        return self._keep_frame(self.values)[1]

    def set(self, **values: Any) -> "Panel":
        """Move controls without a browser: panel.set(rank=4). Returns the panel."""
        wanted, before = self._checked(values), self.values
        try:
            self._move(wanted)
        except Exception:
            self._move(before)
            raise
        return self

    def drawn(self, **values: Any) -> Display:
        """The picture at these values as a display of its own, drawn directly."""
        with rc_context(self._look):
            return self._dressed(plotted(self._compute(**{**self.values, **self._checked(values)})))

    def reveal(self) -> "Panel":
        """Show the outcome that `reveal=False` hid. Returns the panel."""
        self._revealed = True
        self._button.layout.display = "none"
        self._draw()
        return self

    def pin(self, label: str) -> "Panel":
        """Keep the present picture as a grey ghost, in place of an earlier one: p.pin("r = 4")."""
        self._pinned = self._compute(**self.values), str(label)
        try:
            return self._redraw()
        except Exception:
            self.unpin()
            raise

    def unpin(self) -> "Panel":
        """Take the ghost away."""
        self._pinned = None
        return self._redraw()

    def save(self, path: str | Path, **values: Any) -> None:
        """Write the present picture, or the one at other values; the ending says the format."""
        self.drawn(**values).save(path)

    def save_steps(
        self, folder: str | Path, *, suffix: str = "svg", **steps: Iterable[Any]
    ) -> list[Path]:
        """Write one picture per combination of `steps`: panel.save_steps("slides", rank=[1, 2])."""
        for name, values in steps.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise ValueError(f"{name}={values!r} is not a list of values, such as [1, 2, 4]")
        grid = list(itertools.product(*steps.values()))
        if not steps or not grid:
            raise ValueError("save_steps needs values to step through, such as rank=[1, 2, 4]")
        out, suffix = Path(folder), suffix.lstrip(".")
        for point in grid:
            self._checked(dict(zip(steps, point, strict=True)))
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for point in grid:
            at = dict(zip(steps, point, strict=True))
            label = "-".join(f"{name}-{value}" for name, value in at.items())
            name = f"{self._name}-{label}.{suffix}".replace(" ", "_").replace("/", "_")
            written.append(out / name)
            self.save(written[-1], **at)
        return written

    def to_html(self, path: str | Path) -> None:
        """Write a page with all pictures and working controls: no kernel, no network.

        Raises ValueError where that would be more than 256 pictures.
        """
        count = math.prod(map(len, self._choices.values()))
        if count > MOST_FRAMES:
            raise ValueError(
                f"{self._name} has {count} pictures, too many for one page (at most {MOST_FRAMES})"
            )
        page = Path(path)
        if page.is_dir() or not page.parent.is_dir():
            raise FileNotFoundError(f"path={str(path)!r} is not a file in a folder that is there")
        frames = [
            self._keep_frame(dict(zip(self._choices, point, strict=True)))
            for point in itertools.product(*self._choices.values())
        ]
        write_page(page, self._name, self._choices, self.values, frames)

    # --- How it works --------------------------------------------------------------------------

    def _checked(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return check_choices(self._name, self._choices, values)

    @contextmanager
    def _one_drawing(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _move(self, values: Mapping[str, Any]) -> None:
        with self._one_drawing():
            for name, value in values.items():
                self._controls[name].value = value
        self._draw()

    def _moved(self, _: object) -> None:
        if not self._quiet:
            self._draw()
            self._draw_ahead(QUIET)

    def _draw_ahead(self, pause: float) -> None:
        """While nobody waits, draw what the next arrow key may ask for, one frame at a time."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # no front end
        if self._ahead:
            self._ahead.cancel()
        missing = [
            values for values in self._neighbours() if self._key_of(values) not in self._frames
        ]
        if missing:
            self._ahead = loop.call_later(pause, self._draw_one_ahead, missing[0])

    def _draw_one_ahead(self, values: Mapping[str, Any]) -> None:
        # What fails here fails again, in view, once somebody asks for it.
        with suppress(Exception):
            self._keep_frame(values)
            self._draw_ahead(PAUSE)

    def _neighbours(self) -> Iterator[dict[str, Any]]:
        for name, options in self._choices.items():
            place = options.index(self.values[name])
            for beside in options[max(place - 1, 0) : place] + options[place + 1 : place + 2]:
                yield {**self.values, name: beside}

    def _key_of(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        return (*values.values(), self._revealed)

    def _redraw(self) -> "Panel":
        self._frames.clear()
        with rc_context(self._look):
            self._display.unpin()
            if self._pinned:
                self._display.pin(*self._pinned)
        self._draw()
        return self

    def _draw(self) -> None:
        values = self.values
        try:
            picture, summary = self._keep_frame(values)
        except Exception as error:
            # In a browser nobody sees a traceback; in a cell it must still fail.
            self._text.value = html.escape(f"{type(error).__name__}: {error}")
            raise
        self._picture.value = picture
        for name, value in values.items():
            self._readouts[name].value = str(value)
        self._text.value = html.escape(summary)

    def _keep_frame(self, values: Mapping[str, Any]) -> tuple[bytes, str]:
        """Picture and words at these values, from memory if they were drawn before."""
        key = self._key_of(values)
        if key not in self._frames:
            with rc_context(self._look):
                self._show(values)
                self._frames[key] = self._painter.png(), self._words()
            if len(self._frames) > MOST_FRAMES:
                self._frames.popitem(last=False)
        return self._frames[key]

    def _show(self, values: Mapping[str, Any]) -> None:
        self._display.update(self._compute(**values))
        if self._display.figure_ is not self._painter.figure:  # a display that is drawn anew
            self._painter = Frames(self._display.figure_)
            self._dressed(self._display)
        self._display.reveal(self._revealed)

    def _dressed(self, display: Display) -> Display:
        """A display just drawn, with the ghost and what is hidden."""
        if self._pinned:
            display.pin(*self._pinned)
        return display.reveal(self._revealed)

    def _words(self) -> str:
        return self._display.summary() if self._revealed else HIDDEN

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # The picture goes along for readers without a kernel: GitHub, nbconvert, slides.
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        picture = base64.b64encode(self.picture).decode()
        return {**bundle, "image/png": picture, "text/plain": self.summary}


class _Slider(widgets.SelectionSlider):
    # An echo would reach the browser before the picture and cost it a few milliseconds.
    index = traitlets.Int().tag(sync=True, echo_update=False)


def _slider(name: str, options: Sequence[Any], value: Any) -> _Slider:
    # For words too: JupyterLab keeps the arrow keys of menus and of buttons for itself.
    return _Slider(
        options=list(options),
        value=value,
        description=name.replace("_", " "),
        readout=False,
        layout=widgets.Layout(width="auto"),
        style={"description_width": "initial"},
    )


def _readout(options: Sequence[Any]) -> widgets.Label:
    # A slider's own readout cuts words off.
    width = max(len(str(option)) for option in options)
    return widgets.Label(layout=widgets.Layout(min_width=f"{0.6 * width + 1:.1f}em"))


def check_choices(
    panel: str, choices: Mapping[str, Sequence[Any]], values: Mapping[str, Any]
) -> dict[str, Any]:
    """`values` as they stand in `choices` (4 for 4.0); ValueError where one does not."""
    found = {}
    for name, value in values.items():
        if name not in choices:
            raise ValueError(f"{panel} has no control {name!r}; it has {', '.join(choices)}")
        options = list(choices[name])
        plain = isinstance(value, str | Real)
        same_kind = isinstance(value, bool) == any(isinstance(option, bool) for option in options)
        if not (plain and same_kind and value in options):
            shown = repr(value) if plain else f"a {type(value).__name__}"
            known = ", ".join(map(repr, options))
            raise ValueError(f"{name}={shown} is not a choice; choose from {known}")
        found[name] = options[options.index(value)]
    return found
