"""Every panel as a thumbnail with its line of code."""

import base64
import html
import io
import json
from pathlib import Path

from PIL import Image

from missviz.style import PIXELS_PER_CSS

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
    "sharing",
    "pareto",
)
"""The functions of `missviz.explore` that work without arguments, in the order of the lessons."""

THUMBNAILS = Path(__file__).parent / "stored" / "thumbnails"


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
    """Every panel at its defaults as a thumbnail, with the line of code that opens it.

    The thumbnails ship with missviz, so that they are there at once.
    """
    lines = json.loads((THUMBNAILS / "lines.json").read_text(encoding="utf-8"))
    return Gallery(
        {line: (THUMBNAILS / f"{name}.png").read_bytes() for name, line in lines.items()}
    )


def draw_thumbnails() -> dict[str, tuple[str, bytes]]:
    """For each panel its line of code and its picture at half the size, one pixel per CSS pixel."""
    from missviz import explore

    drawn = {}
    for name in PANELS:
        panel = getattr(explore, name)()
        picture = Image.open(io.BytesIO(panel.picture))
        small = io.BytesIO()
        picture.reduce(2 * PIXELS_PER_CSS).save(small, "png", optimize=True)
        drawn[name] = panel.state, small.getvalue()
    return drawn
