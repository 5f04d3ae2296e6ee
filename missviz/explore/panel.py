"""A panel: a few controls beside one picture, which is drawn anew as they move."""

import base64
import html
import io
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ipywidgets as widgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

MOST_CONTROLS = 3
MOST_FRAMES = 256
"""Frames kept for going back: about 50 kB each."""


class Updatable(Protocol):
    """A display that can show another's data with the artists that it has."""

    figure_: Figure

    def plot(self) -> Any: ...
    def update(self, other: Any) -> None: ...
    def summary(self) -> str: ...


class Panel(widgets.VBox):
    """Controls, one picture and a line of text.

    Args:
        name: of the function in `missviz.explore` that makes this panel.
        compute: values → a display, not yet drawn. Nothing is trained there.
        choices: for each control its values; at most three controls. Numbers become a slider that
            steps through them, words a menu.
        values: where the controls stand at first.

    Raises ValueError where there are more than three controls, or a value is none of its choices.

    A picture is drawn into a figure that pyplot does not know of, and its artists are kept: a
    control changes their data. Frames that were shown before come from memory.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[..., Updatable],
        choices: Mapping[str, Sequence[Any]],
        values: Mapping[str, Any],
    ) -> None:
        if len(choices) > MOST_CONTROLS:
            raise ValueError(f"choices has {len(choices)} controls; a panel has at most three")
        self._name, self._compute = name, compute
        self._choices = {control: list(options) for control, options in choices.items()}
        self._check(values)
        self._controls = {
            control: _control(control, options, values[control])
            for control, options in self._choices.items()
        }
        self._frames: OrderedDict[tuple[Any, ...], tuple[bytes, str]] = OrderedDict()
        self._picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self._text = widgets.HTML()
        self._display = compute(**values)
        self._display.plot()
        self._quiet = False
        super().__init__([widgets.HBox(list(self._controls.values())), self._picture, self._text])
        self._draw()
        for control in self._controls.values():
            control.observe(self._moved, names="value")

    # --- What a lecturer uses ------------------------------------------------------------------

    @property
    def values(self) -> dict[str, Any]:
        """Where the controls stand."""
        return {name: control.value for name, control in self._controls.items()}

    @property
    def figure(self) -> Figure:
        """The figure of the present picture."""
        self._show(self.values)
        return self._display.figure_

    @property
    def state(self) -> str:
        """The line of code that opens this view again."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"mv.explore.{self._name}({arguments})"

    @property
    def summary(self) -> str:
        """What the present picture shows, in one line; it also stands under the picture."""
        return self._frames[tuple(self.values.values())][1]

    def set(self, **values: Any) -> "Panel":
        """Move controls without a browser: panel.set(rank=4). Returns the panel."""
        self._check({**self.values, **values})
        with self._one_drawing():
            for name, value in values.items():
                self._controls[name].value = value
        self._draw()
        return self

    def save(self, path: str | Path, **values: Any) -> None:
        """Write the present picture, or the one at other values; the ending says the format."""
        wanted = {**self.values, **values}
        self._check(wanted)
        display = self._compute(**wanted)
        display.plot()
        display.figure_.savefig(path)

    def save_steps(
        self, folder: str | Path, *, suffix: str = "svg", **steps: Iterable[Any]
    ) -> list[Path]:
        """Write one picture per combination of `steps`: panel.save_steps("slides", rank=[1, 2])."""
        grid = list(itertools.product(*steps.values()))
        out = Path(folder)
        for point in grid:
            self._check({**self.values, **dict(zip(steps, point, strict=True))})
        out.mkdir(parents=True, exist_ok=True)
        written = []
        for point in grid:
            values = dict(zip(steps, point, strict=True))
            label = "-".join(f"{name}-{value}" for name, value in values.items())
            written.append(out / f"{self._name}-{label}.{suffix}".replace(" ", "_"))
            self.save(written[-1], **values)
        return written

    # --- How it works --------------------------------------------------------------------------

    def _check(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in self._choices:
                raise ValueError(
                    f"{self._name} has no control {name!r}; it has {', '.join(self._choices)}"
                )
            if value not in self._choices[name] or isinstance(value, bool):
                options = ", ".join(map(repr, self._choices[name]))
                raise ValueError(f"{name}={value!r} is not a choice; choose from {options}")

    @contextmanager
    def _one_drawing(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _moved(self, _: object) -> None:
        if not self._quiet:
            self._draw()

    def _draw(self) -> None:
        values = self.values
        key = tuple(values.values())
        try:
            if key not in self._frames:
                self._show(values)
                self._frames[key] = _png(self._display.figure_), self._display.summary()
                if len(self._frames) > MOST_FRAMES:
                    self._frames.popitem(last=False)
        except Exception as error:
            # In a browser nobody sees a traceback; in a cell it must still fail.
            self._text.value = html.escape(f"{type(error).__name__}: {error}")
            raise
        picture, summary = self._frames[key]
        self._picture.value = picture
        self._text.value = html.escape(summary)

    def _show(self, values: Mapping[str, Any]) -> None:
        self._display.update(self._compute(**values))

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        # The picture goes along for readers without a kernel: GitHub, nbconvert, slides.
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        picture = base64.b64encode(self._picture.value).decode()
        return {**bundle, "image/png": picture, "text/plain": self.summary}


def _control(name: str, options: Sequence[Any], value: Any) -> widgets.Widget:
    kind = widgets.Dropdown if isinstance(value, str) else widgets.SelectionSlider
    return kind(options=list(options), value=value, description=name.replace("_", " "))


def _png(figure: Figure) -> bytes:
    """The figure as PNG, packed lightly: drawing costs more than bytes to a local browser."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    packed = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(packed, "png", compress_level=1)
    return packed.getvalue()
