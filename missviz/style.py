"""How things look: one colour, marker and dash per method, everywhere; no pyplot state."""

from dataclasses import dataclass

from matplotlib.figure import Figure

INK, FAINT = "#333333", "#999999"
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


@dataclass(frozen=True)
class MethodStyle:
    """Colour, marker and dash; each alone tells the methods of one figure apart."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[int, ...]]


Dash = str | tuple[int, tuple[int, ...]]

_DASHES: dict[str, Dash] = {
    "solid": "-",
    "long": (0, (8, 2)),
    "short": (0, (4, 2)),
    "dots": (0, (1, 1)),
    "dashdot": (0, (5, 1, 1, 1)),
    "dashdotdot": (0, (5, 1, 1, 1, 1, 1)),
    "wide dots": (0, (1, 3)),
    "long-short": (0, (9, 2, 3, 2)),
}

_BY_PREFIX = {
    "full fine-tuning": MethodStyle(BLACK, "s", _DASHES["long"]),
    "frozen fine-tuning": MethodStyle(FAINT, "s", _DASHES["wide dots"]),
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
    "fixed columns": MethodStyle(SKY, "P", _DASHES["long-short"]),
    "fixed gaussian": MethodStyle(YELLOW, "*", _DASHES["dashdot"]),
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
        return _BY_PREFIX[max(known, key=len)]
    return _OTHERS[sum(map(ord, name)) % len(_OTHERS)]


def new_figure(width: float, height: float, *, fixed: bool = False) -> Figure:
    """A figure in inches that pyplot does not know of: drawn when shown, and never twice.

    With fixed=True its axes stay where they are put, so that a picture does not depend on what
    was drawn before; else matplotlib arranges them.
    """
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    figure.set_layout_engine("none" if fixed else "constrained")
    return figure
