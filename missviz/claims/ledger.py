"""The ledger: all claims, the evidence that is kept of them, and what follows from it."""

import ast
import functools
import hashlib
import importlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import missviz
from missviz.adapters import validation
from missviz.claims.claim import (
    UNDECIDED,
    Claim,
    Evidence,
    parts_of,
    seeds_needed,
    verdict_of,
)
from missviz.experiments.arguments import checked_device, checked_seeds
from missviz.files import write_whole
from missviz.machine import conditions

KEPT = Path(__file__).with_name("evidence.json")
THEMES = ("algebra", "bat", "gradients", "training")
"""The files beside this one that have claims."""
COMMAND = "missviz claims run"


@functools.cache
def claims() -> dict[str, Claim]:
    """All claims, by id, theme by theme."""
    found: dict[str, Claim] = {}
    for theme in THEMES:
        for claim in importlib.import_module(f"missviz.claims.{theme}").CLAIMS:
            if claim.id in found:
                raise ValueError(f"two claims are called {claim.id!r}")
            found[claim.id] = claim
    return found


@dataclass(frozen=True)
class Judgement:
    """A claim, the evidence, and what follows."""

    claim: Claim
    parts: Mapping[str, Evidence]
    """By place; "" where there is but one; empty where nothing was measured."""
    made: Mapping[str, Any]
    """Seeds, seconds, date, commit, machine, versions; `code`, of what it depends on."""

    @property
    def verdict(self) -> str:
        if self.claim.measure is not None and not self.parts:
            return "not measured"
        return verdict_of(self.claim, self.parts)

    @property
    def is_stale(self) -> bool:
        """Whether the code that the evidence depends on has changed since."""
        return bool(self.parts) and self.made.get("code") != code_behind(self.claim)

    @property
    def more_seeds(self) -> int | None:
        """Where undecided: how many seeds would about decide."""
        needed = [
            seeds_needed(self.claim.rule, part)
            for part in self.parts.values()
            if self.claim.rule.verdict(part) == UNDECIDED
        ]
        known = [one for one in needed if one is not None]
        return max(known) if known and len(known) == len(needed) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `evidence.json`."""
        return {
            "verdict": self.verdict,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
            **self.made,
        }


def judge(
    claim: Claim, seeds: int | Iterable[int] | None = None, device: str | None = None
) -> Judgement:
    """Measure a claim now, one of your own too, and judge it.

    Args:
        claim: a `Claim`.
        seeds: the seeds, or how many from 43 on; None means the claim's own number.
        device: None means a GPU if there is one.

    Example:
        >>> import missviz as mv
        >>> from missviz.claims import Claim, Evidence, Exact
        >>> def measure(seeds, device):
        ...     adapters = [mv.MiSS(2).on(torch.nn.Linear(8, 8)) for _ in seeds]
        ...     return Evidence.exact(max(float(a.delta().abs().max()) for a in adapters), 10)
        >>> claim = Claim(
        ...     id="starts-at-zero",
        ...     claim="MiSS starts as the frozen layer.",
        ...     said="MiSS v12 §3",
        ...     test="ΔW of a new adapter",
        ...     unit="largest entry",
        ...     rule=Exact(0.0),
        ...     because="D is set to zero",
        ...     seconds=1,
        ...     measure=measure,
        ... )
        >>> mv.claims.judge(claim).verdict
        'holds here'
    """
    if not isinstance(claim, Claim):
        raise TypeError(f"claim={claim!r:.60} is not a missviz.claims.Claim")
    place = checked_device(device)
    chosen = checked_seeds("seeds", claim.seeds if seeds is None else seeds)
    if claim.measure is None:
        return Judgement(claim, {}, {})
    started = time.perf_counter()
    parts = parts_of(claim.measure(chosen, place))
    made = {
        "seeds": list(chosen),
        "seconds": round(time.perf_counter() - started, 1),
        "code": code_behind(claim),
        **conditions(place),
    }
    return Judgement(claim, parts, made)


# --- What is kept -----------------------------------------------------------------------------


def kept(path: Path = KEPT) -> dict[str, Judgement]:
    """The evidence that ships with missviz, for every claim; without parts where there is none."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = {}
    for name, claim in claims().items():
        row = dict(told.get(name, {}))
        parts = {place: Evidence(**part) for place, part in row.pop("parts", {}).items()}
        row.pop("verdict", None)
        found[name] = Judgement(claim, parts, row)
    return found


def keep(judgement: Judgement, path: Path = KEPT) -> None:
    """Put one judgement among those that are kept, the others as they are."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    told[judgement.claim.id] = judgement.to_dict()
    ordered = {name: told[name] for name in claims() if name in told}
    write_whole(path, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def run(
    names: Sequence[str] = (),
    *,
    most_seconds: float | None = None,
    stale_only: bool = False,
    seeds: int | Iterable[int] | None = None,
    device: str | None = None,
    path: Path = KEPT,
    say: Callable[[str], Any] = print,
) -> list[Judgement]:
    """Measure claims anew, keep each as soon as it is measured, and say where a verdict changed.

    Args:
        names: ids; none means all.
        most_seconds: leave out what is expected to take longer.
        stale_only: leave out what was measured with the present code: what was cut goes on.
        seeds, device: as for `judge`.
        path: where evidence is kept.
        say: gets a line for each.
    """
    before = kept(path)
    for name in names:
        validation.one_of("claim", name, tuple(before))
    done = []
    for name in names or before:
        old = before[name]
        claim = old.claim
        too_long = most_seconds is not None and claim.seconds > most_seconds
        fresh = stale_only and old.parts and not old.is_stale
        if claim.measure is None or too_long or fresh:
            continue
        new = judge(claim, seeds, device)
        keep(new, path)
        changed = f" (was: {old.verdict})" if old.verdict != new.verdict else ""
        say(f"{name:24}{new.verdict}{changed}, {new.made['seconds']} s")
        done.append(new)
    return done


def table(path: Path = KEPT) -> pd.DataFrame:
    """One row per claim: id, claim, said, verdict, effect, low, high, unit, n, date, seconds,
    stale, more_seeds (about how many would decide), redo (the command). A claim that was tried in
    several places has a row for each, with `place`."""
    rows = []
    for name, judged in kept(path).items():
        parts = {place: asdict(part) for place, part in judged.parts.items()}
        for place, figures in (parts or {"": {}}).items():
            rows.append(
                {
                    "id": name,
                    "place": place,
                    "claim": judged.claim.claim,
                    "said": judged.claim.said,
                    "verdict": judged.verdict,
                    **{key: figures.get(key) for key in ("effect", "low", "high", "n")},
                    "unit": judged.claim.unit,
                    "date": judged.made.get("date"),
                    "seconds": judged.made.get("seconds"),
                    "stale": judged.is_stale,
                    "more_seeds": judged.more_seeds,
                    "redo": f"{COMMAND} {name}" if judged.claim.measure else "",
                }
            )
    return pd.DataFrame(rows)


# --- Which code evidence depends on -----------------------------------------------------------


def code_behind(claim: Claim) -> str:
    """A hash of the code that `claim.measure` runs: its module and all of missviz that this
    imports, without comments and docstrings, which change no figure."""
    if claim.measure is None:
        return ""
    module = inspect.getmodule(claim.measure)
    if module is None or module.__name__ == "__main__" or module.__file__ is None:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(_imported(Path(module.__file__))):
        digest.update(_meaning(path))
    return digest.hexdigest()


def _imported(path: Path) -> set[Path]:
    """`path` and what it imports of missviz, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        here = waiting.pop()
        if here not in found:
            found.add(here)
            waiting += _imports(here)
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    """The files of the package's modules that a file imports."""
    names: list[str] = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    root = Path(missviz.__file__).parent.parent
    files = []
    for name in names:
        if name.split(".")[0] == "missviz" and name != "missviz":
            place = root / Path(*name.split("."))
            both = (place.with_suffix(".py"), place / "__init__.py")
            files += [file for file in both if file.exists()]
    return tuple(files)


@functools.cache
def _meaning(path: Path) -> bytes:
    """What a file does, without what it says of itself."""
    tree = _tree(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                part
                for part in body
                if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
    return ast.dump(tree).encode()
