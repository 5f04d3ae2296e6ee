"""adapter_config.json, its values checked when they are asked for."""

import contextlib
import functools
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
    def patterns(self, key: str) -> list[tuple[re.Pattern[str], float]]:
        """rank_pattern or alpha_pattern: what matches a module's name, and the number there."""
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, dict) or len(value) > 4096:
            raise ValueError(f"{CONFIG}: {key}={shown(value)} is no object of at most 4096 names")
        check = _whole if key == "rank_pattern" else _number
        return [(_compiled(key, pattern), check(key, own)) for pattern, own in value.items()]

    def _found(self, key: str, module: str) -> float | None:
        """The number of the first pattern that matches, as PEFT takes it; None without one."""
        return next((own for pattern, own in self.patterns(key) if pattern.match(module)), None)

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


_SIMPLE = re.compile(r"\^?((\\[^a-zA-Z0-9]|\\[dwDW]|\[\^?(\w-\w|\w)+\]|[\w\-. /])[*+?]?)+\$?")


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
