"""An adapter on a whole model: how large ΔW is in each module, and the spectra of some of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from missviz.displays.base import FROM_DATA, Display
from missviz.displays.colors import Cells
from missviz.displays.labels import LETTER, ROW, WordsAbove
from missviz.style import (
    FAINT,
    GREEN,
    ORANGE,
    PINK,
    in_lecture,
    ink,
    paper,
    row_of_axes,
    text_scale,
)

COLORS = (ORANGE, PINK, GREEN)
MARKERS = ("o", "^", "D")
"""One for each module whose spectrum is shown."""
CONTROL_DASHES = ("--", ":", "-.")
SPELT = {"--": "- -", ":": "· · ·", "-.": "- ·"}
"""How a dash is written."""
TALLEST = 12
LONGEST_NAME = 18
"""Characters of a module's name in the picture; the end says more than the beginning."""
MOST_TICKS = 6
"""Beside the scale of colours."""
MOST_NUMBERED = 24
"""Cells with their value in them."""
TALLEST_CELL = 2.0
"""Height of a cell over its width; a single kind of module would fill the axes with bars."""
MOST_LABELS = 8
"""Numbers of layers at the axis; more would run into each other."""


@dataclass(frozen=True)
class Limits:
    """Where axes and colours end, the same for all pictures of a panel."""

    sizes: tuple[float, float]
    values: tuple[float, float]
    count: int

    @classmethod
    def of(cls, *tables: pd.DataFrame) -> "Limits":
        """Those that hold all of these tables from `missviz.inspect_adapter`; colours only the
        first, which the map shows."""
        values = [value for table in tables for row in table["singular_values"] for value in row]
        counts = [len(row) for table in tables for row in table["singular_values"]]
        return cls(
            _room(sizes_of(tables[0])[1], 1.2),
            _room(values, 1.5),
            max(1, *counts),
        )


def _room(values: Sequence[float], room: float) -> tuple[float, float]:
    above = [value for value in values if value > 0 and math.isfinite(value)]
    return (min(above) / room, max(above) * room) if above else (0.1, 1.0)


@dataclass(eq=False, repr=False)
class AdapterDisplay(Display):
    """A map of ‖ΔW‖ / ‖W₀‖, kinds of module × layers, and σ(ΔW) of up to three modules.

    Where W₀ is not known anywhere, the map shows ‖ΔW‖. Grey cells have ΔW = 0; where there is no
    module, or nothing could be measured, the map is empty. Both colours and singular values are on
    logarithmic scales. Dashed lines in the colour of text are a control's, in the same module.

    Args:
        table: from `missviz.inspect_adapter`.
        modules: whose spectra are shown, at most three; None means the modules with the smallest,
            the middle and the largest cell.
        control: a table of another adapter on the same layers, to compare spectra with.
        control_name: what it is.
        limits: None means those of this picture alone.

    Raises ValueError where a module is not in a table, or there are too many.

    After `plot`: `im_`, `numbers_` (values in the cells, where there are few), `frames_`, `lines_`,
    `control_lines_`, `texts_` (the last three in the order of `modules`), `axes_`, `figure_`.
    """

    table: pd.DataFrame
    modules: Sequence[str] = FROM_DATA
    _: KW_ONLY
    control: pd.DataFrame | None = None
    control_name: str = "control"
    limits: Limits = FROM_DATA
    rows: dict[str, dict[Any, Any]] = field(init=False)
    controls: dict[str, dict[Any, Any]] = field(init=False)
    measure: str = field(init=False)
    sizes: dict[str, float] = field(init=False)
    places: dict[str, tuple[str, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = {row["module"]: row for row in _records(self.table)}
        self.controls = {row["module"]: row for row in _records(self.control)}
        self.measure, sizes = sizes_of(self.table)
        self.sizes = dict(zip(self.rows, sizes, strict=True))
        self.modules = list(_extremes(self.sizes) if self.modules is None else self.modules)
        if len(self.modules) > len(COLORS):
            raise ValueError(f"modules has {len(self.modules)} names; at most {len(COLORS)}")
        for module in self.modules:
            if module not in self.rows:
                raise ValueError(f"modules: there is no {module!r} in the table")
            if self.control is not None and module not in self.controls:
                raise ValueError(f"control: there is no {module!r} in the table")
        shown = [self.table] if self.control is None else [self.table, self.control]
        self.limits = self.limits or Limits.of(*shown)
        self.places = places_of(list(self.rows))

    @property
    def kinds(self) -> list[str]:
        """What the rows of the map are."""
        return list(dict.fromkeys(kind for kind, _ in self.places.values()))

    @property
    def layers(self) -> list[int]:
        """What its columns are; −1 is none."""
        return sorted({layer for _, layer in self.places.values()})

    def summary(self) -> str:
        known = {name: size for name, size in self.sizes.items() if size > 0}
        methods = ", ".join(dict.fromkeys(str(row["method"]) for row in self.rows.values()))
        parts = [f"{methods}: {len(self.rows)} modules"]
        if known:
            low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
            parts += [
                f"{self.measure} from {known[low]:.2g} ({self._label(low)}) "
                f"to {known[high]:.2g} ({self._label(high)})"
            ]
        dead = sum(size == 0 for size in self.sizes.values())
        parts += [f"ΔW = 0 in {dead}"] if dead else []
        for module in self.modules:
            parts.append(f"{self._label(module)}: {_words(self.rows[module])}")
            if module in self.controls:
                control = self.controls[module]
                parts.append(f"{self.control_name}: stable rank {control['stable_rank']:.1f}")
        return "; ".join(parts)

    def plot(self) -> "AdapterDisplay":
        """Draw into a figure of its own."""
        height = max(3.4, 0.9 + 0.32 * len(self.kinds) * text_scale())
        # Two lines even without a control: a panel may have one at another setting.
        lines = max(2, len(self.modules) * (1 + bool(self.controls))) + in_lecture()
        top = 0.4 + ROW * lines
        left = 0.3 + LETTER * max(len(_short(kind)) for kind in self.kinds)
        self.axes_ = row_of_axes(
            11, min(TALLEST, height + top), (3.6, 3.4), left=left, right=0.15, gap=1.25, top=top
        )
        self.figure_ = self.axes_[0].figure  # type: ignore[assignment]
        self._words_above = WordsAbove(self.figure_, 2 * len(self.modules))
        self.texts_ = self._words_above.texts[::2]
        self.control_texts_ = self._words_above.texts[1::2]
        for text, color in zip(self.texts_, COLORS, strict=False):
            text.set_color(color)
        self._draw_map()
        self._draw_spectra()
        self.outcome_ = [
            self.im_,
            *self.numbers_,
            *self.lines_,
            *self.control_lines_,
            *self._words_above.texts,
        ]
        self._fill()
        return self

    def _draw_map(self) -> None:
        ax = self.axes_[0]
        low, high = self.limits.sizes
        colors = colormaps["Blues"].with_extremes(bad=paper(), under=FAINT)
        norm = LogNorm(low, high)
        shape = len(self.kinds), len(self.layers)
        cells = ax.bbox.height / max(shape[0], 1), ax.bbox.width / max(shape[1], 1)
        tall = cells[0] > TALLEST_CELL * cells[1]
        aspect = TALLEST_CELL if tall else "auto"
        self.im_ = Cells(ax, np.full(shape, np.nan), cmap=colors, norm=norm, aspect=aspect)
        numbered = len(self.places) if len(self.places) <= MOST_NUMBERED else 0
        self.numbers_ = [ax.text(0, 0, "", ha="center", va="center") for _ in range(numbered)]
        step = math.ceil(len(self.layers) / MOST_LABELS)
        layers = ["–" if layer < 0 else str(layer) for layer in self.layers]
        ax.set_xticks(range(0, len(layers), step), layers[::step])
        step = math.ceil(len(self.kinds) / (3 * TALLEST))
        ax.set_yticks(
            range(0, len(self.kinds), step),
            [_short(kind) for kind in self.kinds[::step]],
            parse_math=False,
        )
        ax.set(xlabel="layer", title=self.measure)
        self.frames_ = [
            Rectangle((-0.5, -0.5), 1, 1, fill=False, ec=color, lw=2.5)
            for color in COLORS[: len(self.modules)]
        ]
        for frame in self.frames_:
            ax.add_patch(frame)
        # By hand: a colour bar would take its room from the map's axes.
        place = ax.get_position()
        across = self.figure_.get_figwidth() / text_scale()
        left, width = place.x1 + 0.1 / across, 0.14 / across
        bar = self.figure_.add_axes((left, place.y0, width, place.height))
        steps, edges = np.geomspace(low, high, 64)[:, None], np.linspace(0, 1, 65)
        Cells(bar, steps, edges=(edges[[0, -1]], edges), cmap=colors, norm=norm, aspect="auto")
        bar.set_xticks([])
        bar.yaxis.tick_right()
        ticks = _round_numbers(low, high)
        heights = [math.log(tick / low) / math.log(high / low) for tick in ticks]
        bar.set_yticks(heights, [f"{tick:g}" for tick in ticks])

    def _draw_spectra(self) -> None:
        ax = self.axes_[1]
        count, (low, high) = self.limits.count, self.limits.values
        ax.set(xscale="log", xlim=(0.9, 1.15 * count), xlabel="n", title="σ(ΔW)")
        powers = [2**power for power in range(0, count.bit_length(), 1 if count < 9 else 2)]
        ax.set_xticks(powers, [str(power) for power in powers])
        ax.set_xticks([], minor=True)
        ax.set(yscale="log", ylim=(low, high))
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        step = math.ceil(len(decades) / 6) or 1
        ax.set_yticks(
            [10.0**decade for decade in decades[::step]],
            [f"$10^{{{decade}}}$" for decade in decades[::step]],
        )
        ax.set_yticks([], minor=True)
        slots = list(zip(COLORS, MARKERS, strict=True))[: len(self.modules)]
        self.lines_ = [ax.plot([], [], color=color, marker=mark)[0] for color, mark in slots]
        self.control_lines_ = [
            ax.plot([], [], ls=dash, color=ink())[0]
            for dash, _ in zip(CONTROL_DASHES, slots, strict=False)
        ]

    def _fixed(self) -> Any:
        return self.places, self.limits, self.measure, len(self.modules)

    def _fill(self) -> None:
        cells = np.full((len(self.kinds), len(self.layers)), np.nan)
        for module, (kind, layer) in self.places.items():
            size = self.sizes[module]
            cells[self._cell(kind, layer)] = self.limits.sizes[0] / 10 if size == 0 else size
        self.im_.set_data(cells)
        words: list[str] = []
        for slot, module in enumerate(self.modules):
            row, column = self._cell(*self.places[module])
            self.frames_[slot].set_xy((column - 0.5, row - 0.5))
            self.lines_[slot].set_data(*_curve(self.rows[module]))
            control = self.controls.get(module)
            self.control_lines_[slot].set_data(*_curve(control))
            words.append(f"{self._label(module)}: {_words(self.rows[module])}")
            stable = "" if control is None else f"{control['stable_rank']:.1f}"
            dash = SPELT[CONTROL_DASHES[slot]]
            words.append(f"{dash} {self.control_name}: stable rank {stable}" if stable else "")
        self._words_above.set(*words)
        self._fill_numbers()

    def _fill_numbers(self) -> None:
        low, high = self.limits.sizes
        for text, (module, place) in zip(self.numbers_, self.places.items(), strict=False):
            size = self.sizes[module]
            row, column = self._cell(*place)
            text.set_position((column, row))
            text.set_text("" if math.isnan(size) else f"{size:.2g}")
            deep = size > 0 and math.log(size / low) > 0.6 * math.log(high / low)
            text.set_color("white" if deep else "black")

    def _label(self, module: str) -> str:
        """Kind and layer; the name itself where both are numbers."""
        kind, layer = self.places[module]
        if layer < 0 or kind.isdecimal():
            return _short(module)
        return f"{_short(kind)} {layer}"

    def _cell(self, kind: str, layer: int) -> tuple[int, int]:
        return self.kinds.index(kind), self.layers.index(layer)

    def ghost(self, pinned: "AdapterDisplay") -> list[Artist]:
        """The pinned modules' singular values as dotted grey lines."""
        dotted: dict[str, Any] = {"color": FAINT, "ls": (0, (1, 1)), "lw": 3, "zorder": 1.5}
        return [
            line
            for module in pinned.modules
            for line in self.axes_[1].plot(*_curve(pinned.rows[module]), **dotted)
        ]


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high, and few enough to be read."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1,)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [number for number in found if low <= number <= high]
        if len(found) <= MOST_TICKS:
            return found
    return found[:: math.ceil(len(found) / MOST_TICKS)]


def sizes_of(table: pd.DataFrame) -> tuple[str, list[float]]:
    """What a map of this table shows, and each module's value."""
    if table["relative_norm"].notna().any():
        return "‖ΔW‖ / ‖W₀‖", table["relative_norm"].tolist()
    return "‖ΔW‖", table["norm"].tolist()


def places_of(modules: Sequence[str]) -> dict[str, tuple[str, int]]:
    """(kind, layer) of each module: "layers.3.attn.q_proj" is an "attn.q_proj" in layer 3.

    The first number in a name is the layer, −1 where there is none. What comes before it is part of
    the kind only where two modules would have the same place (an encoder's and a decoder's).
    """
    split = {}
    for module in modules:
        parts = module.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
        if number is None:
            split[module] = "", module, -1
        else:
            before, after = ".".join(parts[:number]), ".".join(parts[number + 1 :])
            split[module] = before, after or before or "layer", int(parts[number])
    stems: dict[tuple[str, int], set[str]] = {}
    for before, kind, layer in split.values():
        stems.setdefault((kind, layer), set()).add(before)
    ambiguous = {kind for (kind, _), befores in stems.items() if len(befores) > 1}
    return {
        module: (f"{before}…{kind}" if kind in ambiguous else kind, layer)
        for module, (before, kind, layer) in split.items()
    }


def _records(table: pd.DataFrame | None) -> list[dict[Any, Any]]:
    return [] if table is None else table.to_dict("records")


def _extremes(sizes: Mapping[str, float]) -> list[str]:
    ranked = sorted((name for name, size in sizes.items() if size > 0), key=sizes.__getitem__)
    picked = [ranked[place] for place in (0, len(ranked) // 2, -1)] if ranked else []
    return list(dict.fromkeys(picked))


def _curve(row: Mapping[Any, Any] | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([] if row is None else row["singular_values"])
    return np.arange(1, len(values) + 1), values


def _words(row: Mapping[Any, Any]) -> str:
    """Rank, never without stable rank and the number of trained numbers."""
    numbers = "? trained numbers"
    if row["num_parameters"] is not None:
        numbers = f"{row['num_parameters']} trained numbers"
    if row["norm"] > 0:
        ranks = f"rank {row['numerical_rank']:.0f}, stable rank {row['stable_rank']:.1f}"
        return f"{ranks}, {numbers}"
    return f"{'ΔW = 0' if row['norm'] == 0 else 'not measured'}, {numbers}"


def _short(name: str) -> str:
    """A name for a picture: its end, in letters that every font has."""
    plain = "".join(letter if " " <= letter <= "~" or letter == "…" else "?" for letter in name)
    return plain if len(plain) <= LONGEST_NAME else "…" + plain[1 - LONGEST_NAME :]
