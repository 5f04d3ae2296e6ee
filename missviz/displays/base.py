"""What all displays share: they show themselves in a notebook, and say in words what they show."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


class Display:
    """Data in `__init__`, artists (with a trailing underscore) after `.plot()`, which returns self.

    As the last line of a notebook cell a plotted display is its picture, with one line of text
    for those who cannot see it.
    """

    figure_: Figure

    def summary(self) -> str:
        """What the picture shows, in one line."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the picture; the ending (.svg, .png, .pdf) says how."""
        self.figure_.savefig(path)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if not hasattr(self, "figure_"):
            return {"text/plain": f"{type(self).__name__}, not drawn yet: call .plot()"}, {}
        picture = io.BytesIO()
        self.figure_.savefig(picture, format="png")
        return (
            {"image/png": picture.getvalue(), "text/plain": self.summary()},
            {"image/png": {"alt": self.summary()}},
        )
