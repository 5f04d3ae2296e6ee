"""The browser's side of panels and questions: one module, which knows nothing of methods."""

import time
from collections import deque
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


TALLEST = 0.63
"""Share of the window's height that a slide takes in a notebook: the rest is for JupyterLab's bars,
controls and words."""


def look_of_text() -> dict[str, Any]:
    """Scale of text, and colours, as they are now."""
    return {
        "scale": text_scale(),
        "paper": paper(),
        "ink": ink(),
        "fill": in_lecture(),
        "tallest": TALLEST,
    }


class Line:
    """The way from a kernel to its front ends. Jupyter's server drops what goes beyond a million
    bytes a second, over three seconds, and tells the reader so in red; frames stay below that.
    """

    window = 3.0
    """Seconds."""
    most = 2_400_000
    """Bytes in the window, which leaves some for others."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, int]] = deque()

    def note(self, size: int) -> None:
        """`size` bytes were sent."""
        self._sent.append((time.monotonic(), size))

    def seconds_until_free(self, size: int) -> float:
        """How long to wait before `size` bytes more."""
        now = time.monotonic()
        while self._sent and self._sent[0][0] < now - self.window:
            self._sent.popleft()
        over = sum(sent for _, sent in self._sent) + size - self.most
        for when, sent in self._sent:
            if over <= 0:
                break
            over -= sent
            wait = when + self.window - now
            if over <= 0:
                return max(wait, 0.0)
        return 0.0

    def is_quiet(self) -> bool:
        """Whether there is room for what nobody asked for yet."""
        return self.seconds_until_free(self.most // 2) == 0


LINE = Line()
"""Of this kernel."""
