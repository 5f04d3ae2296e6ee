"""The ledger: all claims, the evidence that is kept of them, and what follows from it."""

import functools
import importlib
import inspect
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from missviz import provenance
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
THEMES = (
    "algebra",
    "bat",
    "gradients",
    "training",
    "forgetting",
    "real",
    "sharing",
    "cost",
    "published_figures",
)
"""The files beside this one that have claims."""
COMMAND = "missviz claims run"
SECOND_LOOKS = 2
HOURS = 1800.0
"""Seconds from which on measuring anew is nobody's duty after a change."""


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
    """Seeds, seconds, date, commit, machine, versions; `code`, of what it depends on; `again`, the
    seeds, verdict and date of the last time that it was tried on other seeds."""

    @property
    def verdict(self) -> str:
        if self.claim.measure is not None and not self.parts:
            return "not measured"
        return verdict_of(self.claim, self.parts)

    @property
    def is_stale(self) -> bool:
        """Whether the code that the evidence depends on has changed since."""
        return bool(self.parts) and self.made.get("code") != code_now(self.claim)

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
        seeds: the seeds, or how many from 43 on; None means the claim's own number, and where runs
            of hours ship with missviz, what these say.
        device: None means a GPU if there is one.

    Example:
        >>> import torch, missviz as mv
        >>> from missviz.claims import Claim, Evidence, Exact
        >>> def measure(seeds, device):
        ...     adapters = [mv.MiSS(2).on(torch.nn.Linear(8, 8)) for _ in seeds]
        ...     return Evidence.exact(max(float(mv.spectrum(a)[0]) for a in adapters), len(seeds))
        >>> claim = Claim(
        ...     id="starts-at-zero",
        ...     claim="MiSS starts as the frozen layer.",
        ...     said="MiSS v12 §3",
        ...     test="ΔW of a new adapter",
        ...     unit="largest singular value",
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
    if seeds is None and claim.stored is not None and (known := claim.stored()) is not None:
        found, of_runs = known
        return Judgement(claim, parts_of(found), of_runs)
    started = time.perf_counter()
    parts = _checked_parts(claim, claim.measure(chosen, place))
    made = {
        "seeds": list(chosen),
        "seconds": round(time.perf_counter() - started, 1),
        "code": code_now(claim),
        **conditions(place),
    }
    return Judgement(claim, parts, made)


def _checked_parts(claim: Claim, measured: Any) -> dict[str, Evidence]:
    """What a measure gave, by place; TypeError or ValueError where that is no evidence."""
    if not isinstance(measured, Evidence | Mapping):
        raise TypeError(
            f"claim {claim.id!r}: its measure gave {type(measured).__name__}; give Evidence, or "
            "{place: Evidence}"
        )
    parts = parts_of(measured)
    if not parts:
        raise ValueError(f"claim {claim.id!r}: its measure gave no evidence")
    for place, part in parts.items():
        if not isinstance(part, Evidence):
            kind = type(part).__name__
            raise TypeError(f"claim {claim.id!r}: {place!r} is {kind}, which is no Evidence")
        if part.n < 1 or part.low > part.high:
            raise ValueError(
                f"claim {claim.id!r}: evidence with n={part.n} and an interval from {part.low:g} "
                f"to {part.high:g}"
            )
    return parts


# --- What is kept -----------------------------------------------------------------------------


def kept(path: Path | None = None) -> dict[str, Judgement]:
    """The evidence that ships with missviz, for every claim; without parts where there is none."""
    told = _told(path or KEPT)
    found = {}
    for name, claim in claims().items():
        row = dict(told.get(name, {}))
        parts = {place: Evidence(**part) for place, part in row.pop("parts", {}).items()}
        row.pop("verdict", None)
        found[name] = Judgement(claim, parts, row)
    return found


def _told(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return told


def keep(judgement: Judgement, path: Path | None = None, *, again: bool = False) -> None:
    """Put one judgement among those that are kept, the others as they are; `again` notes it beside
    the evidence that is there, as what other seeds said."""
    path = path or KEPT
    told = _told(path)
    name, new = judgement.claim.id, judgement.to_dict()
    if again:
        shown = {part: (one.effect, one.low, one.high) for part, one in judgement.parts.items()}
        wanted = ("seeds", "verdict", "seconds", "date", "commit")
        told[name]["again"] = {**{key: new[key] for key in wanted}, "parts": shown}
    else:
        told[name] = new
    ordered = {name: told[name] for name in claims() if name in told}
    write_whole(path, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def run(
    names: Sequence[str] = (),
    *,
    most_seconds: float | None = None,
    stale_only: bool = False,
    seeds: int | Iterable[int] | None = None,
    first_seed: int | None = None,
    device: str | None = None,
    path: Path | None = None,
    keeping: bool = True,
    say: Callable[[str], Any] = print,
) -> list[str]:
    """Measure claims anew, keep each as soon as it is measured, and say where a verdict changed.

    Args:
        names: ids; none means all.
        most_seconds: leave out what is expected to take longer.
        stale_only: leave out what was measured with the present code: what was cut goes on.
        seeds, device: as for `judge`.
        first_seed: as many other seeds as each claim has, from here on. What they say is kept
            beside the evidence (`made["again"]`), which stays.
        path: where evidence is kept; None means beside this file.
        keeping: False leaves it as it is. A verdict that differs is then looked at twice more:
            where it hangs on seconds, others may have been at work on the machine.
        say: gets a line for each.

    Returns the ids whose verdict is not the kept one.
    """
    before = kept(path)
    for name in names:
        validation.one_of("claim", name, tuple(before))
    changed = []
    for name in names or before:
        old = before[name]
        claim = old.claim
        too_long = most_seconds is not None and claim.seconds > most_seconds
        fresh = stale_only and old.parts and not old.is_stale
        is_reading = first_seed is not None and (not old.parts or claim.seeds == 1)
        if claim.measure is None or too_long or fresh or is_reading:
            continue
        others = None if first_seed is None else range(first_seed, first_seed + claim.seeds)
        chosen = seeds if others is None else others
        new = judge(claim, chosen, device)
        for _ in range(0 if keeping else SECOND_LOOKS):
            if new.verdict == old.verdict:
                break
            new = judge(claim, chosen, device)
        if keeping:
            keep(new, path, again=first_seed is not None)
        note = ""
        if old.verdict != new.verdict:
            changed.append(name)
            note = f" (was: {old.verdict})"
        say(f"{name:24}{new.verdict}{note}, {new.made.get('seconds', 0)} s")
    return changed


def table(ids: Sequence[str] | None = None, path: Path | None = None) -> pd.DataFrame:
    """One row per claim, of these or of all: id, place, claim, said, verdict, effect, low, high, n,
    unit, date, seconds, stale, more_seeds (about how many would decide), redo (the command).

    A claim that was tried in several places has a row for each, with `place`.
    """
    rows, all_kept = [], kept(path)
    for name in all_kept if ids is None else ids:
        judged = all_kept[validation.one_of("ids", name, tuple(all_kept))]
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


def overdue(path: Path | None = None) -> list[str]:
    """Claims of minutes whose code has changed since they were measured, and those that never were.

    Where measuring takes hours, the mark "stale" in the table has to do.
    """
    return [
        name
        for name, one in kept(path).items()
        if one.claim.measure is not None
        and one.claim.seconds < HOURS
        and (one.is_stale or not one.parts)
    ]


def code_now(claim: Claim) -> str:
    """A hash of the code that evidence depends on; "" for code that is in no file of missviz."""
    run_by = claim.code or claim.measure
    module = None if run_by is None else inspect.getmodule(run_by)
    if module is None or not module.__name__.startswith("missviz."):
        return ""
    return provenance.code_behind(Path(str(module.__file__)))
