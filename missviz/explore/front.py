"""The browser's side of panels and questions: one module, which knows nothing of methods."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from missviz.style import in_lecture, ink, paper, text_scale

WEB = Path(__file__).parent / "web"


class FrontEnd(anywidget.AnyWidget):
    """What panels and questions share: the module, and text at the scale of `missviz.lecture`."""

    _esm = WEB / "widget.js"
    _css = WEB / "widget.css"
    _kind = traitlets.Unicode().tag(sync=True)
    _look = traitlets.Dict().tag(sync=True)


def look_of_text() -> dict[str, Any]:
    """Scale of text, and colours, as they are now."""
    return {"scale": text_scale(), "paper": paper(), "ink": ink(), "fill": in_lecture()}
