"""What all displays share: they show themselves in a notebook, and say in words what they show."""

import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from missviz.displays.saving import save_figure
from missviz.style import CSS_PER_INCH, FAINT

FROM_DATA: Any = None
"""Default of a field that is found from the others where it is not given."""
HIDDEN = "The outcome is hidden: guess first, then reveal it."


class Display:
    """Data in `__init__`, artists (with a trailing underscore) after `.plot()`, which returns self.
    Those here are dataclasses, whose fields are the data.

    As the last line of a notebook cell a plotted display is its picture, with one line of text
    for those who cannot see it. For a panel a display has, besides `plot` and `summary`:

    `_fill()`         give the artists that are there the data; the end of `plot`;
    `_fixed()`        what `plot` draws once and `_fill` leaves: `update` keeps the artists where it
                      is the same, and by default nowhere;
    `outcome_`        the artists that `reveal(False)` hides, for a class to guess first;
    `ghost(pinned)`   grey artists that keep another display of the kind in view.

    Limits and colour ranges are set once, in `plot`, and stay.
    """

    figure_: Figure
    outcome_: Sequence[Artist] = ()
    ghosts_: Sequence[Artist] = ()
    revealed_: bool = True

    def summary(self) -> str:
        """What the picture shows, in one line."""
        raise NotImplementedError

    def plot(self) -> Self:
        """Draw into a figure of its own."""
        raise NotImplementedError

    def update(self, other: Any) -> None:
        """Show another display's data with the artists that are there, or, where those do not fit,
        drawn anew."""
        fixed = self._fixed()
        if fixed is not None and fixed == other._fixed():
            for field in fields(other):
                setattr(self, field.name, getattr(other, field.name))
            self._fill()
        else:
            data = dict(vars(other))
            vars(self).clear()  # artists, a ghost, what is hidden
            vars(self).update(data)
            plotted(self)

    def _fixed(self) -> Any:
        return None

    def _fill(self) -> None:
        raise NotImplementedError

    def reveal(self, shown: bool = True) -> Self:
        """Show the outcome, or hide it; axes, limits and what is given stay."""
        self.revealed_ = shown
        for artist in (*self.outcome_, *self.ghosts_):
            artist.set_visible(shown)
        return self

    def ghost(self, pinned: Any) -> list[Artist]:
        """Add `pinned`, a display of this kind, to the axes in grey; the artists it took."""
        raise NotImplementedError(f"{type(self).__name__} cannot be pinned")

    def pin(self, pinned: Any, label: str) -> Self:
        """Keep `pinned` in view as a grey ghost, in place of an earlier one."""
        self.unpin()
        self.ghosts_ = self.ghost(pinned)
        note = self.figure_.text(
            0.995, 0.01, f"grey: {label}", ha="right", color=FAINT, parse_math=False
        )
        self.ghosts_ = [*self.ghosts_, note]
        return self.reveal(self.revealed_)

    def unpin(self) -> Self:
        """Take the ghost away."""
        for artist in self.ghosts_:
            artist.remove()
        self.ghosts_ = ()
        return self

    def save(
        self, path: str | Path, *, dpi: float | None = None, size: tuple[int, int] | None = None
    ) -> None:
        """Write the picture; the ending (.svg, .png, .pdf) says how. See
        `missviz.displays.saving.save_figure` for `dpi` and `size`."""
        save_figure(self.figure_, path, dpi=dpi, size=size)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if not hasattr(self, "figure_"):
            return {"text/plain": f"{type(self).__name__}, not drawn yet: call .plot()"}, {}
        picture = io.BytesIO()
        self.figure_.savefig(picture, format="png")
        words = self.summary() if self.revealed_ else HIDDEN
        # As wide as in a panel: a PNG does not say how many of its pixels an inch has.
        width = round(CSS_PER_INCH * self.figure_.get_size_inches()[0])
        return (
            {"image/png": picture.getvalue(), "text/plain": words},
            {"image/png": {"alt": words, "width": width}},
        )


def plotted(display: Display) -> Display:
    """`display` after its `plot`, whatever that returns; TypeError where it keeps no figure."""
    display.plot()
    if not isinstance(getattr(display, "figure_", None), Figure):
        kind = type(display).__name__
        raise TypeError(f"{kind}.plot() left no matplotlib Figure in self.figure_")
    return display
