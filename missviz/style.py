"""How things look: one colour, marker and dash per method, everywhere; lecture and dark mode."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from missviz.adapters import validation

FAINT = "#8c8c8c"
"""Ghosts, guides, and what was not measured: visible on light and on dark."""
DIVERGING = "RdBu_r"
"""For signed values, always with limits symmetric about zero."""

# Okabe and Ito's colours, which stay apart under the common colour-vision deficiencies.
ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK, BLACK = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#C9B200",  # darker than the original, for lines on white
    "#0072B2",
    "#D55E00",
    "#CC79A7",
    "#000000",
)
# More of them, as far from those and from each other as they can be with and without deficiency.
VIOLET, LIME, LILAC, BRICK, SAGE, CRIMSON = (
    "#664DFF",
    "#99CC66",
    "#8080FF",
    "#CC4D33",
    "#99CC99",
    "#CC334D",
)


@dataclass(frozen=True)
class MethodStyle:
    """Colour, marker and dash; each alone tells the methods of one figure apart."""

    color: str
    marker: Any
    """As matplotlib takes it: a letter, or (points, 1 for a star, angle)."""
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

_BY_PREFIX = {
    "full fine-tuning": MethodStyle(BLACK, "s", _DASHES["long"]),
    "frozen fine-tuning": MethodStyle(FAINT, "H", _DASHES["wide dots"]),
    "LoRA": MethodStyle(BLUE, "o", _DASHES["short"]),
    "rsLoRA": MethodStyle(BLUE, "<", _DASHES["long-short"]),
    "LoRA-FA": MethodStyle(SKY, ">", _DASHES["dots"]),
    "BigLoRA": MethodStyle(BLUE, "h", _DASHES["wide dots"]),
    "PiSSA": MethodStyle(GREEN, "^", _DASHES["dashdot"]),
    "MiSS": MethodStyle(RED, "D", _DASHES["solid"]),
    "MiSS rows": MethodStyle(RED, "d", _DASHES["dashdotdot"]),
    "MiSS mini": MethodStyle(ORANGE, "p", _DASHES["dots"]),
    "MiSS block": MethodStyle(ORANGE, "8", _DASHES["dashdot"]),
    "Bat": MethodStyle(PINK, "X", _DASHES["long-short"]),
    "Bat input": MethodStyle(PINK, "P", _DASHES["short"]),
    "Bat left": MethodStyle(PINK, "*", _DASHES["dots"]),
    "fixed orthogonal": MethodStyle(ORANGE, "v", _DASHES["dashdotdot"]),
    "fixed columns": MethodStyle(SKY, (4, 1, 45), _DASHES["long-short"]),
    "fixed gaussian": MethodStyle(YELLOW, (6, 1, 0), _DASHES["dashdot"]),
    "DoRA": MethodStyle(VIOLET, (5, 0, 36), _DASHES["very long"]),
    "VeRA": MethodStyle(LIME, (8, 1, 0), _DASHES["long-dots"]),
    "AdaLoRA": MethodStyle(LILAC, (3, 1, 0), _DASHES["pairs"]),
    "ProLoRA": MethodStyle(SAGE, (7, 0, 0), _DASHES["short-dots"]),
    "MoS": MethodStyle(CRIMSON, (3, 1, 180), _DASHES["triples"]),
    "MoRA": MethodStyle(BRICK, (10, 1, 0), _DASHES["wide"]),
    "LoHa": MethodStyle(VIOLET, (5, 1, 36), _DASHES["short-dots"]),
    "OLoRA": MethodStyle(GREEN, (4, 0, 22.5), _DASHES["pairs"]),
    "LoRA-GA": MethodStyle(GREEN, (3, 0, 20), _DASHES["wide"]),
    "LoRA+": MethodStyle(BLUE, "x", _DASHES["triples"]),
    "S2FT": MethodStyle(SKY, (6, 1, 30), _DASHES["very long"]),
    "DiSHA": MethodStyle(ORANGE, (9, 0, 0), _DASHES["long-dots"]),
}
_OTHERS = [
    MethodStyle(color, marker, dash)
    for color, marker, dash in zip(
        (YELLOW, SKY, PINK, GREEN, ORANGE),
        ("1", "2", "3", "4", "+"),
        _DASHES.values(),
        strict=False,
    )
]


def method_style(name: str) -> MethodStyle:
    """The style of a method, from its short name: by the longest prefix known, else by its letters.

    The same name has the same style in every figure, whatever else is drawn.
    """
    known = [prefix for prefix in _BY_PREFIX if name == prefix or name.startswith(f"{prefix} ")]
    if known:
        style = _BY_PREFIX[max(known, key=len)]
    else:
        style = _OTHERS[sum(map(ord, name)) % len(_OTHERS)]
    return replace(style, color=_on_paper(style.color))


def method_styles(names: Iterable[str]) -> dict[str, MethodStyle]:
    """Styles for the methods of one figure: where two would look the same (LoRA at two ranks), the
    later takes another one."""
    styles: dict[str, MethodStyle] = {}
    for name in names:
        spare = (replace(style, color=_on_paper(style.color)) for style in _OTHERS)
        own = method_style(name)
        styles[name] = (
            own
            if own not in styles.values()
            else next((style for style in spare if style not in styles.values()), own)
        )
    return styles


def _on_paper(color: str) -> str:
    """The colour as seen on dark: black turns, others are a little lighter."""
    if color == BLACK:
        return ink()
    if sum(to_rgb(paper())) > 1.5:
        return color
    red, green, blue = (channel + LIGHTER * (1 - channel) for channel in to_rgb(color))
    return to_hex((red, green, blue)).upper()


# --- Lecture and dark mode --------------------------------------------------------------------


LECTURE_SCALE = 1.4
"""Text and lines in lecture mode, relative to a page."""
LIGHTER = 0.1
"""How far colours go towards white on dark."""

_DARK = {
    "figure.facecolor": "#16181d",
    "savefig.facecolor": "#16181d",
    "axes.facecolor": "#16181d",
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e8e8e8"
    ),
}
_before_lecture: dict[str, Any] = {}
_settings: Any = mpl.rcParams


def lecture(on: bool = True, *, dark: bool = False) -> None:
    """Projector scale for every figure and panel that is made from now on.

    Args:
        on: False goes back to what was there before.
        dark: light on dark.
    """
    validation.boolean("on", on)
    validation.boolean("dark", dark)
    _settings.update(_before_lecture)
    _before_lecture.clear()
    if not on:
        return
    scale = LECTURE_SCALE
    settings = {
        "font.size": 10 * scale,
        "axes.linewidth": 0.8 * scale,
        "lines.linewidth": 1.5 * scale,
        "lines.markersize": 6 * scale,
        **(_DARK if dark else {}),
    }
    _before_lecture.update({name: _settings[name] for name in settings})
    _settings.update(settings)


def look() -> Any:
    """The settings that `lecture` changes, as they are now."""
    names = ("font.size", "axes.linewidth", "lines.linewidth", "lines.markersize", *_DARK)
    return {name: _settings[name] for name in names}


def is_lecture() -> bool:
    """Whether pictures are for a projector."""
    return bool(_before_lecture)


def text_scale() -> float:
    """How large text is, relative to a page: 1, or more in lecture mode."""
    return float(mpl.rcParams["font.size"]) / 10


def ink() -> str:
    """The colour of text and of lines that stand for no method."""
    return str(mpl.rcParams["text.color"])


def paper() -> str:
    """The colour behind everything."""
    return str(mpl.rcParams["figure.facecolor"])


# --- Figures ----------------------------------------------------------------------------------


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that pyplot does not know of: drawn when shown, and never twice.

    matplotlib arranges its axes; `row_of_axes` makes figures for panels.
    """
    figure = Figure(figsize=(width, height), dpi=100, facecolor=paper())
    figure.set_layout_engine("constrained")
    return figure


CSS_PER_INCH = 100
"""CSS pixels on a page for an inch of a figure."""
STRIP = 0.2
"""Inches below everything, for what a ghost or a stored run is."""


def row_of_axes(
    width: float,
    height: float,
    columns: Sequence[float] = (1,),
    *,
    left: float = 0.7,
    right: float = 0.15,
    bottom: float = 0.55,
    top: float = 0.4,
    gap: float = 0.75,
) -> list[Axes]:
    """Axes beside each other in a new figure, at places that nothing drawn later can change.

    A panel needs that: with a layout engine a picture would depend on those before it.

    Args:
        width, height: of the figure, inches.
        columns: relative widths of the axes.
        left, right, bottom, top, gap: room around and between the axes for their text, inches
            at normal text size; it grows with the text.
    """
    left, right, bottom, top, gap, strip = (
        side * text_scale() for side in (left, right, bottom, top, gap, STRIP)
    )
    bottom, height = bottom + strip, height + strip
    figure = Figure(figsize=(width, height), dpi=100, facecolor=paper())
    room = width - left - right - gap * (len(columns) - 1)
    axes, start = [], left
    for share in columns:
        across = room * share / sum(columns)
        place = (start / width, bottom / height, across / width, (height - bottom - top) / height)
        ax = figure.add_axes(place)
        # Ticks and grid below all data, so that they can be drawn once (see explore/frames.py).
        ax.set_axisbelow(True)
        axes.append(ax)
        start += across + gap
    return axes
