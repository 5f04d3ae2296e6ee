"""How things look: one colour, marker and dash per method, everywhere; lecture and dark mode."""

import importlib
import pkgutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from missviz import adapters
from missviz.adapters import validation
from missviz.adapters.base import Method

FAINT = "#8c8c8c"
"""Ghosts, guides, and what was not measured: visible on light and on dark."""
DIVERGING = "RdBu_r"
"""For signed values, always with limits symmetric about zero."""

_COLORS = {
    # Okabe and Ito's, which stay apart under the common colour-vision deficiencies.
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#C9B200",  # darker than the original, for lines on white
    "blue": "#0072B2",
    "red": "#D55E00",
    "pink": "#CC79A7",
    "black": "#000000",
    # More, found by search: among the methods that any figure of the package draws together, every
    # two colours are at least 15 apart in CIE Lab, as seen with and without deficiency.
    "violet": "#664DFF",
    "mauve": "#7744FF",
    "indigo": "#4C5DD4",
    "cornflower": "#6699FF",
    "cyan": "#22CCEE",
    "aqua": "#00CCEE",
    "turquoise": "#00CCBB",
    "mint": "#22CC77",
    "forest": "#337755",
    "olive": "#AABB66",
    "mustard": "#CCBB00",
    "amber": "#EEAA00",
    "sand": "#EEAA66",
    "salmon": "#FF7C93",
    "crimson": "#DD2244",
    "brick": "#CC3344",
}
ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK, BLACK = list(_COLORS.values())[:8]


@dataclass(frozen=True)
class MethodStyle:
    """Colour, marker and dash; each alone tells the methods of one figure apart."""

    color: str
    marker: Any
    """As matplotlib takes it: a letter, (points, 1 for a star, angle), or corners."""
    linestyle: Any
    """A name or (offset, (on, off, …)), as matplotlib takes it."""


_DASHES: dict[str, Any] = {
    "solid": "-",
    "long": (0, (8, 2)),
    "short": (0, (4, 2)),
    "dots": (0, (1, 1)),
    "dashdot": (0, (5, 1, 1, 1)),
    "dashdotdot": (0, (5, 1, 1, 1, 1, 1)),
    "wide dots": (0, (1, 3)),
    "long-short": (0, (9, 2, 3, 2)),
    "very long": (0, (14, 3)),
    "long-dots": (0, (9, 1, 1, 1, 1, 1, 1, 1)),
    "pairs": (0, (3, 1, 3, 4)),
    "short-dots": (0, (3, 1, 1, 1, 1, 1, 1, 1)),
    "triples": (0, (2, 1, 2, 1, 2, 4)),
    "wide": (0, (5, 5)),
}

# Markers that none of matplotlib's letters has, as corners.
_SHAPES: dict[str, Any] = {
    "bar": ((-0.5, -1), (0.5, -1), (0.5, 1), (-0.5, 1), (-0.5, -1)),
    "slab": ((-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5), (-1, -0.5)),
    "hourglass": ((-0.8, -1), (0.8, -1), (-0.8, 1), (0.8, 1), (-0.8, -1)),
    "bow tie": ((-1, -0.8), (1, 0.8), (1, -0.8), (-1, 0.8), (-1, -0.8)),
    "house": ((-0.8, -1), (0.8, -1), (0.8, 0.1), (0, 1), (-0.8, 0.1), (-0.8, -1)),
    "arrow": ((0, 1), (0.9, 0), (0.35, 0), (0.35, -1), (-0.35, -1), (-0.35, 0), (-0.9, 0), (0, 1)),
    "chevron": ((-1, 0), (0, 1), (1, 0), (1, -0.9), (0, 0.1), (-1, -0.9), (-1, 0)),
    "ell": ((-0.8, 1), (-0.1, 1), (-0.1, -0.3), (0.8, -0.3), (0.8, -1), (-0.8, -1), (-0.8, 1)),
    "tee": (
        *((-1, 1), (1, 1), (1, 0.4), (0.3, 0.4), (0.3, -1)),
        *((-0.3, -1), (-0.3, 0.4), (-1, 0.4), (-1, 1)),
    ),
    "slant": ((-1, -0.7), (0.3, -0.7), (1, 0.7), (-0.3, 0.7), (-1, -0.7)),
    "wedge": ((-0.9, 0.9), (-0.9, -0.9), (0.9, -0.9), (-0.9, 0.9)),
    "beam": (
        *((-0.9, 1), (0.9, 1), (0.9, 0.5), (0.35, 0.5), (0.35, -0.5), (0.9, -0.5), (0.9, -1)),
        *((-0.9, -1), (-0.9, -0.5), (-0.35, -0.5), (-0.35, 0.5), (-0.9, 0.5), (-0.9, 1)),
    ),
    "zed": (
        *((-0.9, 1), (0.9, 1), (0.9, 0.5), (-0.2, -0.5), (0.9, -0.5), (0.9, -1), (-0.9, -1)),
        *((-0.9, -0.5), (0.2, 0.5), (-0.9, 0.5), (-0.9, 1)),
    ),
    "funnel": ((-1, 1), (1, 1), (0.3, 0), (0.3, -1), (-0.3, -1), (-0.3, 0), (-1, 1)),
    "corner": ((-0.9, 0.9), (0.9, 0.9), (0.9, -0.9), (-0.9, 0.9)),
}

# Methods have theirs in `Method.styles`; these are names that no method here has.
_OTHER_NAMES: dict[str, tuple[str, Any, str]] = {
    # In PEFT's benchmark.
    "C3A": ("forest", "zed", "pairs"),
    "TinyLoRA": ("amber", (3, 1, 0), "wide"),
    # Mixture of shards, switch by switch (lesson 06).
    "pure sharing": ("turquoise", "slant", "dashdot"),
    "subset": ("brick", "wedge", "long"),
    "+ pairs apart": ("mustard", "corner", "very long"),
    "+ vectors cut": ("violet", "beam", "dots"),
    "full MoS": ("cornflower", "funnel", "solid"),
}


def _styles() -> dict[str, MethodStyle]:
    """By what names begin with: figures, and stored runs, know a method by its name alone."""
    found = dict(_OTHER_NAMES)
    for module in pkgutil.iter_modules(adapters.__path__):
        for part in vars(importlib.import_module(f"missviz.adapters.{module.name}")).values():
            if isinstance(part, type) and issubclass(part, Method):
                found |= part.styles
    return {
        prefix: MethodStyle(_COLORS[color], _SHAPES.get(marker, marker), _DASHES[dash])
        for prefix, (color, marker, dash) in found.items()
    }


_BY_PREFIX = _styles()
# What has no place above (the reader's own, or a method for the second time) takes one of these.
_OTHERS = [
    MethodStyle(_COLORS[color], marker, dash)
    for color, marker, dash in zip(
        ("mustard", "turquoise", "mauve", "salmon", "forest", "cyan", "brick", "sand"),
        (
            (5, 0, 0),
            (5, 1, 180),
            (4, 1, 0),
            (3, 0, 40),
            (6, 0, 30),
            (3, 1, 180),
            (7, 1, 0),
            (4, 1, 45),
        ),
        _DASHES.values(),
        strict=False,
    )
]


def method_style(name: str) -> MethodStyle:
    """The style of a method, from its short name: by the longest prefix known, else by its letters.

    The same name has the same style in every figure, whatever else is drawn.
    """
    style = _known(name) or _OTHERS[sum(map(ord, name)) % len(_OTHERS)]
    return replace(style, color=_on_paper(style.color))


def method_styles(names: Iterable[str]) -> dict[str, MethodStyle]:
    """Styles for the methods of one figure, no two of one colour or marker while there are spare
    ones: where two would have (LoRA at two ranks), the later gives way, and a method of the
    reader's own to those of the house."""
    names = list(names)
    styles: dict[str, MethodStyle] = {}
    for name in sorted(names, key=lambda name: _known(name) is None):
        own = method_style(name)
        spare = (replace(style, color=_on_paper(style.color)) for style in _OTHERS)
        colors = {style.color for style in styles.values()}
        markers = {style.marker for style in styles.values()}
        apart = (
            style
            for style in (own, *spare)
            if style.color not in colors and style.marker not in markers
        )
        styles[name] = next(apart, own)
    return {name: styles[name] for name in names}


def _known(name: str) -> MethodStyle | None:
    return _BY_PREFIX.get(_prefix(name))


def _prefix(name: str) -> str:
    known = [prefix for prefix in _BY_PREFIX if name == prefix or name.startswith(f"{prefix} ")]
    return max(known, key=len, default="")


def _on_paper(color: str) -> str:
    """The colour as seen on dark: black turns, others are a little lighter."""
    if color == BLACK:
        return ink()
    if sum(to_rgb(paper())) > 1.5:
        return color
    red, green, blue = (channel + LIGHTER * (1 - channel) for channel in to_rgb(color))
    return to_hex((red, green, blue)).upper()


# --- Looks: page, lecture and dark mode ------------------------------------------------------


LECTURE_SCALE = 1.4
"""Text and lines in lecture mode, relative to a page."""
SLIDE = (9.2, 5.175)
"""Inches of a figure in lecture mode: 16:9, and no taller than JupyterLab has room for on a 1080p
projector at 150 %, with a row of controls and a line of words."""
LIGHTER = 0.1
"""How far colours go towards white on dark."""

_SLIDES: dict[Any, Any] = {
    "figure.figsize": list(SLIDE),  # as matplotlib keeps it
    "font.size": 10 * LECTURE_SCALE,
    "axes.linewidth": 0.8 * LECTURE_SCALE,
    "lines.linewidth": 1.5 * LECTURE_SCALE,
    "lines.markersize": 6 * LECTURE_SCALE,
}
_DARK: dict[Any, Any] = {
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "#16181d"),
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e8e8e8"
    ),
}


@dataclass(frozen=True)
class Look:
    """What pictures are drawn in: those of matplotlib's settings that `lecture` changes.

    `with look().on_slides(dark=True).scope():` draws in one, and then all is as before.
    """

    settings: dict[Any, Any]

    @classmethod
    def of_matplotlib(cls) -> "Look":
        """matplotlib's settings as they are now, by `lecture` or the reader's own."""
        with DRAWING:
            return cls({name: mpl.rcParams[name] for name in (*_SLIDES, *_DARK)})

    def on_slides(self, *, dark: bool = False) -> "Look":
        """This look at projector scale, and light on dark if so wanted."""
        return Look({**self.settings, **_SLIDES, **(_DARK if dark else {})})

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Draw in this look, whatever the process's is. What is drawn stays in it."""
        token = _SCOPE.set(self)
        try:
            with DRAWING, mpl.rc_context(self.settings):
                yield
        finally:
            _SCOPE.reset(token)


DRAWING = threading.RLock()
"""JupyterLab lets a kernel hear of controls in two threads, in its main shell and in a subshell;
matplotlib, whose settings are the process's, draws in one at a time."""
_SCOPE: ContextVar[Look | None] = ContextVar("look", default=None)
_page: Look | None = None
"""In lecture mode, what was there before. It is the process's, as matplotlib's settings are: of a
context's, neither threads nor Jupyter's subshells would know, nor the next cell if one awaits."""


def lecture(on: bool = True, *, dark: bool = False) -> None:
    """Projector scale for every figure and panel that is made from now on.

    Args:
        on: False goes back to what was there before.
        dark: light on dark.
    """
    global _page
    validation.boolean("on", on)
    validation.boolean("dark", dark)
    with DRAWING:
        page = _page or Look.of_matplotlib()
        _page = page if on else None
        mpl.rcParams.update((page.on_slides(dark=dark) if on else page).settings)


def look() -> Look:
    """That of the scope, or else of the process."""
    return _SCOPE.get() or Look.of_matplotlib()


def text_scale() -> float:
    """How large text is, relative to a page: 1, or more in lecture mode."""
    return float(look().settings["font.size"]) / 10


def in_lecture() -> bool:
    """Whether figures are slides."""
    return tuple(look().settings["figure.figsize"]) == SLIDE


def ink() -> str:
    """The colour of text and of lines that stand for no method."""
    return str(look().settings["text.color"])


def paper() -> str:
    """The colour behind everything."""
    return str(look().settings["figure.facecolor"])


# --- Figures ----------------------------------------------------------------------------------


CSS_PER_INCH = 100
"""A figure of one inch is shown 100 CSS pixels wide."""
PIXELS_PER_CSS = 2
"""Drawn: sharp on a laptop of high resolution, and at a browser's zoom."""
SLIDE_PIXELS = 1920
"""Across a figure in lecture mode: a projector's, once. More would only slow the sliders down."""


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that pyplot does not know of: drawn when shown, and never twice.

    matplotlib arranges its axes; `row_of_axes` makes figures for panels. In lecture mode every
    figure is a slide of 16:9, whatever size is asked for.
    """
    figure = _blank(width, height)
    figure.set_layout_engine("constrained")
    return figure


def _blank(width: float, height: float) -> Figure:
    dpi: float = CSS_PER_INCH * PIXELS_PER_CSS
    if in_lecture():
        (width, height), dpi = SLIDE, SLIDE_PIXELS / SLIDE[0]
    return Figure(figsize=(width, height), dpi=dpi, facecolor=paper())


STRIP = 0.18
"""Inches below everything, for what a ghost or a stored run is."""


def row_of_axes(
    width: float,
    height: float,
    columns: Sequence[float] = (1,),
    *,
    left: float = 0.7,
    right: float = 0.15,
    bottom: float = 0.48,
    top: float = 0.4,
    gap: float | Sequence[float] = 0.75,
) -> list[Axes]:
    """Axes beside each other in a new figure, at places that nothing drawn later can change.

    A panel needs that: with a layout engine a picture would depend on those before it.

    Args:
        width, height: of the figure, inches; in lecture mode it is a slide of 16:9.
        columns: relative widths of the axes.
        left, right, bottom, top, gap: room around and between the axes for their text, inches
            at normal text size; it grows with the text. Gaps may differ: from left to right.
    """
    left, right, bottom, top, strip = (
        side * text_scale() for side in (left, right, bottom, top, STRIP)
    )
    between = len(columns) - 1
    gaps = [
        text_scale() * one for one in ([gap] * between if isinstance(gap, int | float) else gap)
    ]
    figure = _blank(width, height + strip)
    width, height = figure.get_size_inches()
    bottom += strip
    room = width - left - right - sum(gaps)
    axes, start = [], left
    for share, beside in zip(columns, [*gaps, 0.0], strict=True):
        across = room * share / sum(columns)
        place = (start / width, bottom / height, across / width, (height - bottom - top) / height)
        ax = figure.add_axes(place)
        # Ticks and grid below all data, so that they can be drawn once (see explore/frames.py).
        ax.set_axisbelow(True)
        axes.append(ax)
        start += across + beside
    return axes
