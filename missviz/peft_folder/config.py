"""adapter_config.json, its values checked when they are asked for."""

import contextlib
import functools
import itertools
import math
import re
from typing import Any

from missviz.peft_folder.untrusted import shown

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
BASE = "base_model."
PREFIX = "base_model.model."


class Config:
    """adapter_config.json with its values checked when they are asked for; null is absent."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{CONFIG}: {key}={shown(value)} is not true or false")
        return bool(value)

    def whole(self, key: str, default: int) -> int:
        return _whole(key, default if self.get(key) is None else self.get(key))

    def number(self, key: str, default: float) -> float:
        return _number(key, default if self.get(key) is None else self.get(key))

    def seed(self, key: str) -> int:
        value = 0 if self.get(key) is None else self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise ValueError(f"{CONFIG}: {key}={shown(value)} is not a seed")
        return value

    @functools.cache  # noqa: B019 (a config lives as long as its folder's adapter)
    def patterns(self, key: str) -> "Patterns":
        """rank_pattern or alpha_pattern."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{CONFIG}: {key}={shown(value)} is no object of names")
        check = _whole if key == "rank_pattern" else _number
        return Patterns(key, {name: check(key, own) for name, own in (value or {}).items()})

    def _found(self, key: str, module: str) -> float | None:
        """The number of the first pattern that matches, as PEFT takes it; None without one."""
        return self.patterns(key).find(module)

    def rank_of(self, module: str) -> float:
        found = self._found("rank_pattern", module)
        return self.whole("r", 8) if found is None else found

    def alpha_of(self, module: str, key: str) -> float:
        found = self._found("alpha_pattern", module)
        return self.number(key, 8) if found is None else found


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ValueError(f"{CONFIG}: {key}={shown(value)} is not a whole number above 0")
    return value


def _number(key: str, value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float):
        with contextlib.suppress(OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise ValueError(f"{CONFIG}: {key}={shown(value)} is not a finite number")


MOST_PATTERNS = 4096
"""Each of them may be tried on every module; names, which are looked up, count only where they
differ in length or in where they have dots."""

_PART = r"\\[^a-zA-Z0-9]|[\w\-. /]"
_SIMPLE = re.compile(rf"\^?(({_PART}|\\[dwDW]|\[\^?(\w-\w|\w)+\])[*+?]?)+\$?")
_NAME = re.compile(rf"\^?({_PART})+\$?")
_HOLE = "\0"
"""Stands in a name for any character, as its dots do; no module's name has it."""


class Patterns:
    """Names and regular expressions with a number each, first come first served, as PEFT matches
    them: `(.*\\.)?(pattern)$`.

    Names, which a folder may have by the thousand, are looked up. As a regular expression
    "layers.1" is the name of "layers_1" too, so they are kept by length and by where their dots
    are: what is asked is then a word with holes.
    """

    def __init__(self, key: str, numbers: dict[str, float]) -> None:
        self._names: dict[int, dict[Layout, dict[str, tuple[int, float]]]] = {}
        self._others: list[tuple[int, re.Pattern[str], float]] = []
        kinds = 0
        for order, (pattern, number) in enumerate(numbers.items()):
            if (parts := _parts(pattern)) is None:
                self._others.append((order, _compiled(key, pattern), number))
                kinds += 1
            else:
                layout, text = parts
                alike = self._names.setdefault(len(text), {})
                kinds += layout not in alike
                alike.setdefault(layout, {}).setdefault(text, (order, number))
            if kinds > MOST_PATTERNS:
                raise ValueError(f"{CONFIG}: {key} has more than {MOST_PATTERNS} patterns")

    def find(self, module: str) -> float | None:
        """The number of the first pattern that matches `module`; None where none does."""
        first: tuple[int, float] | None = None
        start = 0
        while True:
            end = module[start:]
            for (whole, holes), names in self._names.get(len(end), {}).items():
                known = None if whole and start else names.get(_with_holes(end, holes))
                if known and (first is None or known < first):
                    first = known
            start = module.find(".", start) + 1
            if not start:
                break
        for order, pattern, number in self._others:
            if first is not None and first[0] < order:
                break
            if pattern.match(module):
                return number
        return None if first is None else first[1]


Layout = tuple[bool, tuple[int, ...]]
"""Whether a name is the whole one (`^`), and the places of its dots."""


def _parts(pattern: str) -> tuple[Layout, str] | None:
    """Layout and text of a pattern that is a name, its dots as holes; None where it is none."""
    if len(pattern) > 256 or not _NAME.fullmatch(pattern):
        return None
    inner = pattern.removeprefix("^")
    if inner.endswith("$") and not inner.endswith("\\$"):
        inner = inner[:-1]
    text = re.sub(r"\\(.)|\.", lambda found: found[1] or _HOLE, inner)
    holes = tuple(place for place, letter in enumerate(text) if letter == _HOLE)
    return (pattern.startswith("^"), holes), text


def _with_holes(text: str, holes: tuple[int, ...]) -> str:
    edges = (-1, *holes, len(text))
    return _HOLE.join(text[a + 1 : b] for a, b in itertools.pairwise(edges))


def _compiled(key: str, pattern: str) -> re.Pattern[str]:
    """PEFT's `(.*\\.)?(pattern)$`, for patterns that cannot take for ever to match."""
    simple = len(pattern) <= 256 and _SIMPLE.fullmatch(pattern)
    if simple and len(re.findall(r"(?<!\\)[*+?]", pattern)) <= 2:
        with contextlib.suppress(re.error):
            return re.compile(rf"(.*\.)?({pattern})$")
    raise ValueError(
        f"{CONFIG}: {key} has {shown(pattern)}; in a folder of unknown origin only names are "
        "matched, and patterns without groups and with at most two of * + ?"
    )
