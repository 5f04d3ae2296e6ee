"""Panels that move together, and two of them side by side."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from PIL import Image

from missviz.displays.saving import save_image
from missviz.explore.panel import Panel
from missviz.explore.view import place_of


class Link:
    """Panels whose common controls move together, until `unlink()`.

    Args:
        panels: two or more.
        controls: names of the controls; none given, those that all panels have.

    A value that another panel does not have leaves that one where it is.
    """

    def __init__(self, *panels: Panel, controls: tuple[str, ...] = ()) -> None:
        for place, panel in enumerate(panels):
            if not isinstance(panel, Panel):
                raise TypeError(f"panel {place + 1} is a {type(panel).__name__}, no missviz panel")
        if len(set(map(id, panels))) < 2:
            raise ValueError("link needs two panels, such as mv.explore.link(first, second)")
        names = [name for name in panels[0].choices if all(name in p.choices for p in panels[1:])]
        for name in controls:
            if name not in names:
                known = ", ".join(names) or "none"
                raise ValueError(f"{name!r} is not a control of every panel; these are: {known}")
        self.panels, self.controls = panels, tuple(controls or names)
        if not self.controls:
            each = "; ".join(f"{p.view.name} has {', '.join(p.choices)}" for p in panels)
            raise ValueError(f"these panels have no control in common: {each}")
        self._moving, self._linked = False, True
        for panel in panels:
            panel.observe(self._follow, names="_places")

    def unlink(self) -> None:
        """Let the panels move alone again."""
        for panel in self.panels:
            if self._linked:
                panel.unobserve(self._follow, names="_places")
        self._linked = False

    def _follow(self, change: Any) -> None:
        if self._moving:
            return
        self._moving = True
        leader = change["owner"]
        try:
            for panel in self.panels:
                if panel is not leader:
                    panel.set(**self._common(leader, panel))
        finally:
            self._moving = False

    def _common(self, leader: Panel, other: Panel) -> dict[str, Any]:
        return {
            name: leader.values[name]
            for name in self.controls
            if place_of(other.choices[name], leader.values[name]) >= 0
        }


def link(*panels: Panel, controls: tuple[str, ...] = ()) -> Link:
    """Panels whose common controls move together: mv.explore.link(p, q).

    Args:
        panels: two or more panels.
        controls: names of the controls; none given, all that the panels have in common.

    Returns the link, whose `unlink()` ends it. Raises TypeError for what is no panel, ValueError
    where there is no such common control.
    """
    return Link(*panels, controls=controls)


class Pair(widgets.HBox):
    """Two panels beside each other, `panels`. Controls that stand alike at first move together.

    What is not here (`play`, `save_steps`, `to_html`, `figure`, …) each of the two panels has.
    """

    def __init__(self, first: Panel, second: Panel) -> None:
        self.panels = first, second
        alike = tuple(
            name
            for name, value in first.values.items()
            if name in second.values and second.values[name] == value
        )
        self.link = Link(first, second, controls=alike) if alike else None
        half = widgets.Layout(width="50%", min_width="0", flex="1 1 0")
        super().__init__([first, second])
        for panel in self.panels:
            panel.layout = half

    def set(self, **values: Any) -> "Pair":
        """Move controls: of both panels where both have them."""
        return self._each(
            lambda panel: panel.set(**{n: v for n, v in values.items() if n in panel.choices}),
            values,
        )

    def reveal(self, shown: bool = True) -> "Pair":
        """Show what `reveal=False` hid, or hide it."""
        return self._each(lambda panel: panel.reveal(shown))

    def pin(self, label: str) -> "Pair":
        """Keep both pictures as grey ghosts."""
        return self._each(lambda panel: panel.pin(label))

    def unpin(self) -> "Pair":
        """Take the ghosts away."""
        return self._each(lambda panel: panel.unpin())

    @property
    def summary(self) -> str:
        """What the two pictures show."""
        return " | ".join(panel.summary for panel in self.panels)

    @property
    def state(self) -> str:
        """The line of code that opens this view again."""
        return f"mv.explore.side_by_side({', '.join(panel.state for panel in self.panels)})"

    @property
    def picture(self) -> bytes:
        """Both pictures as one PNG."""
        packed = io.BytesIO()
        self._image().save(packed, "png", compress_level=1)
        return packed.getvalue()

    def save(self, path: str | Path) -> None:
        """Write both pictures as one, in pixels: .png, .jpg, …; for .svg save each panel."""
        save_image(self._image(), path)

    def _image(self) -> Image.Image:
        first, second = (Image.open(io.BytesIO(panel.picture)) for panel in self.panels)
        page = Image.new(
            "RGB",
            (first.width + second.width, max(first.height, second.height)),
            self.panels[0]._look["paper"],
        )
        page.paste(first, (0, 0))
        page.paste(second, (first.width, 0))
        return page

    def _each(self, act: Callable[[Panel], Panel], values: dict[str, Any] | None = None) -> "Pair":
        for name in values or {}:
            if not any(name in panel.choices for panel in self.panels):
                known = ", ".join(dict.fromkeys(n for p in self.panels for n in p.choices))
                raise ValueError(f"neither panel has a control {name!r}; they have {known}")
        for panel in self.panels:
            act(panel)
        return self

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**options)
        picture = base64.b64encode(self.picture).decode()
        return {**bundle, "image/png": picture, "text/plain": self.summary}
