"""A panel: a few controls beside one picture, which is drawn anew as they move."""

import asyncio
import base64
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import traitlets
from matplotlib.figure import Figure

from missviz.adapters import validation
from missviz.adapters.base import Method
from missviz.displays.base import Display
from missviz.displays.saving import FILMS, checked_path, save_figure, save_film
from missviz.explore.front import LINE, FrontEnd, look_of_text
from missviz.explore.page import write_page
from missviz.explore.view import (
    MOST_FRAMES,
    Frame,
    View,
    is_number,
    label_of,
    one_at_a_time,
)
from missviz.style import CSS_PER_INCH

MOST_CONTROLS = 3
TALLEST_PAGE = 0.78
"""Share of the window's height that a slide takes on a page of its own."""
QUIET = 0.12
"""Seconds without a move after which frames are drawn ahead: the browser shows its own first."""
PAUSE = 0.02
"""Seconds between two frames drawn ahead, for the kernel to hear of a move."""


class Panel(FrontEnd):
    """Controls, one picture and a line of text.

    Args:
        name: of the function in `missviz.explore` that makes this panel.
        compute: values → a display, not yet drawn. Nothing is trained there.
        choices: for each control its values: numbers on a slider, anything else in a menu; methods
            are called by their names. At most three controls.
        values: where the controls stand at first.
        given: positional arguments of that function, for `state`: methods.
        fixed: its other arguments: {"size": 8}.
        reveal: False hides the outcome until `reveal()`, or the button that is then there.
        work: what goes on in the background once the panel is shown. Each `next` does one piece,
            of a second at most, and gives a line about how far it is, to stand under the picture.

    Raises ValueError where there are more than three controls, or a value is none of its choices.

    A picture is drawn into a figure that pyplot does not know of, and its artists are kept: a
    control changes their data. Frames that were shown before come from memory, and those beside
    the present one are drawn ahead.
    """

    _controls: Any = traitlets.List().tag(sync=True)
    _places: Any = traitlets.List().tag(sync=True, echo_update=False)
    _frame = traitlets.Dict().tag(sync=True)
    _picture = traitlets.Bytes().tag(sync=True)
    _hidden = traitlets.Bool().tag(sync=True)
    _note = traitlets.Unicode().tag(sync=True)
    _film: Any = traitlets.Dict().tag(sync=True)

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
        work: Iterator[str] | None = None,
    ) -> None:
        validation.boolean("reveal", reveal)
        if len(choices) > MOST_CONTROLS:
            raise ValueError(f"choices has {len(choices)} controls; a panel has at most three")
        self.view = View(name, compute, choices, values, reveal=reveal)
        self._given, self._fixed = tuple(given), dict(fixed or {})
        self._work, self._turn, self._films = work, -1, 0
        self._soon: asyncio.TimerHandle | None = None
        figure = self.view.display.figure_
        width, height = figure.get_size_inches()
        super().__init__(
            _kind="panel",
            _look={
                **look_of_text(),
                "width": round(CSS_PER_INCH * width),
                "height": round(CSS_PER_INCH * height),
                "pixels": round(figure.dpi * width),
            },
            _controls=[
                {
                    "name": control,
                    "kind": "slider" if all(map(is_number, options)) else "menu",
                    "options": [label_of(option) for option in options],
                }
                for control, options in self.view.choices.items()
            ],
            _places=list(self.view.places(self.view.checked(values))),
            _hidden=not reveal,
        )
        self._draw()
        self.on_msg(self._heard)

    # --- What a lecturer uses ------------------------------------------------------------------

    @property
    def values(self) -> dict[str, Any]:
        """Where the controls stand."""
        return self.view.at(self._places)

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The values that each control steps through."""
        return {name: list(options) for name, options in self.view.choices.items()}

    @property
    def revealed(self) -> bool:
        """Whether the outcome is shown."""
        return self.view.revealed

    @property
    def figure(self) -> Figure:
        """The figure of the present picture. Titles, axis labels, limits and scales that you set on
        its axes stay, whatever the controls do. The browser shows them once the cell is done."""
        figure = self.view.figure(self.values)
        if loop := _loop():
            loop.call_later(QUIET, self._see_edits)
        return figure

    @property
    def picture(self) -> bytes:
        """The present picture as PNG."""
        return self.view.frame(self.values).picture

    @property
    def state(self) -> str:
        """The line of code that opens this view again."""
        arguments = {**self._fixed, **self.values, **({} if self.revealed else {"reveal": False})}
        written = [code_of(method) for method in self._given]
        written += [f"{name}={code_of(value)}" for name, value in arguments.items()]
        return f"mv.explore.{self.view.name}({', '.join(written)})"

    @property
    def summary(self) -> str:
        """What the present picture shows, in one line; it also stands under the picture."""
        return self.view.frame(self.values).words

    @one_at_a_time
    def set(self, **values: Any) -> "Panel":
        """Move controls without a browser: panel.set(rank=4). Returns the panel."""
        wanted, before = {**self.values, **self.view.checked(values)}, self.values
        try:
            self._move(wanted)
        except Exception:
            self._move(before)
            raise
        return self

    def drawn(self, **values: Any) -> Display:
        """The picture at these values as a display of its own, drawn directly."""
        return self.view.drawn({**self.values, **self.view.checked(values)})

    @one_at_a_time
    def reveal(self, shown: bool = True) -> "Panel":
        """Show the outcome that `reveal=False` hid, or hide it again. Returns the panel."""
        validation.boolean("shown", shown)
        self.view.reveal(shown)
        self._hidden = not shown
        self._draw()
        return self

    @one_at_a_time
    def pin(self, label: str) -> "Panel":
        """Keep the present picture as a grey ghost, in place of an earlier one: p.pin("r = 4")."""
        try:
            self.view.pin(self.values, label)
            self._draw()
        except Exception:
            self.unpin()
            raise
        return self

    @one_at_a_time
    def unpin(self) -> "Panel":
        """Take the ghost away."""
        self.view.unpin()
        self._draw()
        return self

    def play(self, control: str, *, seconds: float = 1.0) -> "Panel":
        """Step through a control's values in the browser, as its play button does.

        Raises ValueError where there is no such control, or `seconds` is not above 0.
        """
        validation.one_of("control", control, tuple(self.view.choices))
        seconds = validation.positive_float("seconds", seconds)
        # The last entry tells this film from an equal one before it.
        self._films += 1
        self._film = {"control": control, "seconds": seconds, "turn": self._films}
        return self

    @one_at_a_time
    def save(
        self,
        path: str | Path,
        *,
        dpi: float | None = None,
        size: tuple[int, int] | None = None,
        seconds: float = 1.0,
        **values: Any,
    ) -> None:
        """Write the present picture, or the one at other values; the ending says the format.

        An ending .gif or .mp4 makes a film of a control's values: p.save("x.gif", rank=[1, 2, 4]).

        Args:
            path: the file; a folder that is missing is made.
            dpi: pixels per inch; 200 as on the screen.
            size: (width, height) in pixels, in place of `dpi`: the picture as large as it fits.
            seconds: of each picture of a film.
            values: of the controls.

        Raises ValueError where the ending cannot be written, or dpi, size or a value is wrong.
        """
        steps = [name for name, value in values.items() if _many(value)]
        points = _grid(self.view, steps, values)
        figures = (self.view.figure({**self.values, **at}) for at in points)
        with self.view.look.scope():
            if checked_path(path).suffix.lower() in FILMS:
                if len(steps) != 1:
                    raise ValueError(
                        f"path={str(path)!r} is a film, of the values of one control: "
                        f"{_example(self.view.choices)}"
                    )
                save_film(figures, path, dpi=dpi, size=size, seconds=seconds)
            elif steps:
                raise ValueError(
                    f"{steps[0]}={values[steps[0]]!r}: several pictures make a .gif or .mp4, or "
                    "take save_steps"
                )
            else:
                save_figure(next(figures), path, dpi=dpi, size=size)
        self.view.settle()

    def save_steps(
        self,
        folder: str | Path,
        *,
        suffix: str = "svg",
        dpi: float | None = None,
        size: tuple[int, int] | None = None,
        **steps: Iterable[Any],
    ) -> list[Path]:
        """Write one picture per combination of `steps`: panel.save_steps("slides", rank=[1, 2])."""
        for name, values in steps.items():
            if not _many(values):
                raise ValueError(f"{name}={values!r} is not a list of values, such as [1, 2, 4]")
        if not steps:
            raise ValueError("save_steps needs values to step through, such as rank=[1, 2, 4]")
        if not isinstance(suffix, str) or f".{suffix.lstrip('.').lower()}" in FILMS:
            raise ValueError(
                f"suffix={suffix!r} is not that of a picture, such as 'svg'; a film is "
                "panel.save('x.gif', rank=[1, 2, 4])"
            )
        grid = _grid(self.view, list(steps), steps)
        written = []
        for at in grid:
            label = "-".join(f"{name}-{label_of(value)}" for name, value in at.items())
            name = f"{self.view.name}-{label}.{suffix.lstrip('.')}"
            written.append(Path(folder) / name.replace(" ", "_").replace("/", "_"))
            self.save(written[-1], dpi=dpi, size=size, **at)
        return written

    @one_at_a_time
    def to_html(self, path: str | Path) -> None:
        """Write a page with all pictures and working controls: no kernel, no network. Where the
        outcome is hidden, the page has the button that reveals it.

        Raises ValueError where that would be more than 256 pictures.
        """
        if checked_path(path).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"path={str(path)!r} is not that of a page, such as 'reach.html'")
        revealed, count = self.revealed, self.view.count * (1 if self.revealed else 2)
        if count > MOST_FRAMES:
            raise ValueError(
                f"{self.view.name} has {count} pictures, too many for one page (at most "
                f"{MOST_FRAMES})"
            )
        frames = {}
        try:
            for epoch, shown in enumerate([True] if revealed else [False, True]):
                self.view.reveal(shown)
                for place, values in self.view.settings():
                    frames[_key(epoch, place)] = self.view.frame(values)
        finally:
            self.view.reveal(revealed)
            self._draw()
        names = ("_kind", "_look", "_controls", "_places", "_hidden")
        state = {name: getattr(self, name) for name in names}
        state["_look"] = {**self._look, "tallest": TALLEST_PAGE}
        write_page(Path(path), self.view.name, {**state, "_note": "", "_film": {}}, frames)

    # --- How it works --------------------------------------------------------------------------

    def _move(self, values: Mapping[str, Any]) -> None:
        with self.hold_sync():
            self._places = list(self.view.places(values))
            self._draw()

    @one_at_a_time
    def _draw(self) -> None:
        with self.hold_sync():
            try:
                frame = self.view.frame(self.values)
            except Exception as error:
                # In a browser nobody sees a traceback; in a cell it must still fail.
                words = f"{type(error).__name__}: {error}"
                self._frame = {
                    "key": _key(self.view.epoch, self._places),
                    "words": words,
                    "failed": True,
                }
                raise
            LINE.note(len(frame.picture))
            self._picture = frame.picture
            self._frame = {
                "key": _key(self.view.epoch, self._places),
                "words": frame.words,
                "failed": False,
            }

    @one_at_a_time
    def _heard(self, _: object, message: Any, buffers: object) -> None:
        """A hand moved a control, and may want the picture there; or it pressed the button."""
        if message["kind"] == "reveal":
            self.reveal()
            return
        if message["kind"] == "film":  # it has begun: once is enough
            self.set_state({"_film": {}})
            return
        places = message["places"]
        # With two threads an earlier move may be heard after a later one.
        if message["turn"] > self._turn:
            self._turn = message["turn"]
            # As for any other change from there, nothing goes back: a hand may be further by now.
            self.set_state({"_places": places})
        if message["want"]:
            self._answer(places)
        self._go_on(QUIET)

    def _answer(self, places: Sequence[int]) -> None:
        try:
            frame = self.view.frame(self.view.at(places))
        except Exception as error:
            # In a browser nobody sees a traceback.
            self._send_frame(places, Frame(b"", f"{type(error).__name__}: {error}"), failed=True)
            raise
        wait, loop = LINE.seconds_until_free(len(frame.picture)), _loop()
        if wait and loop:
            loop.call_later(wait, self._send_frame, places, frame)
        else:
            self._send_frame(places, frame)

    @one_at_a_time
    def _see_edits(self) -> None:
        if self.view.touched:
            self._draw()

    def _send_frame(self, places: Sequence[int], frame: Frame, failed: bool = False) -> None:
        key = _key(self.view.epoch, places)
        LINE.note(len(frame.picture))
        told = {"key": key, "words": frame.words, "failed": failed}
        self.send({"kind": "frame", "frame": told}, [frame.picture])

    # --- While nobody waits --------------------------------------------------------------------

    def _go_on(self, pause: float) -> None:
        """Draw what the next move may ask for, one frame at a time, and then do the work."""
        if (loop := _loop()) is None:
            return  # no front end
        if self._soon:
            self._soon.cancel()
        near = self.view.neighbours(self.values)
        missing = [values for values in near if not self.view.has_frame(values)]
        if self._work is None and missing:
            self._soon = loop.call_later(pause, self._draw_ahead, missing[0])
        elif self._work is not None:
            self._soon = loop.call_later(pause, self._work_on)

    @one_at_a_time
    def _draw_ahead(self, values: Mapping[str, Any]) -> None:
        # What fails here fails again, in view, once somebody asks for it.
        with suppress(Exception):
            frame = self.view.frame(values)
            if LINE.is_quiet():
                self._send_frame(self.view.places(values), frame)
            self._go_on(PAUSE)

    @one_at_a_time
    def _work_on(self) -> None:
        assert self._work is not None
        try:
            self._note = next(self._work)
        except StopIteration:
            self._work, self._note = None, ""
        except Exception as error:
            self._work, self._note = None, f"{type(error).__name__}: {error}"
            raise
        self._go_on(PAUSE)

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._work is not None:
            self._go_on(QUIET)
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        # The picture goes along for readers without a kernel: GitHub, nbconvert, slides.
        picture, words = self.view.frame(self.values)
        data = {
            **data,
            "image/png": base64.b64encode(picture).decode(),
            "text/plain": words,
        }
        return data, {**metadata, "image/png": {"alt": words}}


def _loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _key(epoch: int, places: Sequence[int]) -> str:
    """What the front end calls a frame."""
    return f"{epoch}:{','.join(map(str, places))}"


def code_of(value: Any) -> str:
    """A value as it is written after `import missviz as mv`."""
    if isinstance(value, Method) and type(value).__module__.startswith("missviz."):
        return f"mv.{value!r}"
    return repr(value)


def _many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _grid(view: View, steps: Sequence[str], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of values, those of `steps` being lists; ValueError where one is wrong."""
    listed = [list(values[name]) if name in steps else [values[name]] for name in values]
    for name, options in zip(values, listed, strict=True):
        if not options:
            raise ValueError(f"{name}={values[name]!r} has no values; give some, such as [1, 2, 4]")
    points = itertools.product(*listed)
    return [view.checked(dict(zip(values, point, strict=True))) for point in points]


def _example(choices: Mapping[str, Sequence[Any]]) -> str:
    name, options = max(choices.items(), key=lambda control: len(control[1]))
    return f"{name}=[{', '.join(code_of(option) for option in options[:3])}]"
