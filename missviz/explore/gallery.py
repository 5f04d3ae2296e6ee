"""Every panel as a thumbnail with its line of code."""

import base64
import html
from typing import Any

PANELS = (
    "update",
    "expansion",
    "reach",
    "rank",
    "colinearity",
    "gradient_norms",
    "landscape",
    "race",
    "lunch",
)
"""The functions of `missviz.explore` that work without arguments, in the order of the lessons."""


class Gallery:
    """What `gallery` returns: pictures and lines of code, for a notebook."""

    def __init__(self, entries: dict[str, bytes]) -> None:
        self.entries = entries

    def __repr__(self) -> str:
        return "\n".join(self.entries)

    def _repr_html_(self) -> str:
        tiles = "".join(
            '<figure style="display:inline-block;width:30em;margin:0.5em;vertical-align:top">'
            f'<img style="width:100%" alt="{html.escape(line)}" '
            f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
            f"<figcaption><code>{html.escape(line)}</code></figcaption></figure>"
            for line, picture in self.entries.items()
        )
        return f"<div>{tiles}</div>"


def gallery() -> Gallery:
    """Every panel at its defaults as a thumbnail, with the line of code that opens it."""
    from missviz import explore

    panels: list[Any] = [getattr(explore, name)() for name in PANELS]
    return Gallery({panel.state: panel.picture for panel in panels})
