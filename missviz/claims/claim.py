"""What a claim is, what counts as evidence, and the rules by which a verdict follows from it.

A rule is fixed before anything is measured, and so is what interests: a verdict is never written by
hand. Evidence is an effect with its 95 % interval; where a claim speaks of several places (a toy, a
real network), there is a piece of evidence for each, and each is judged by the same rule.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from missviz.intervals import half_width

HOLDS = "holds here"
FAILS = "does not hold here"
IN_PART = "holds in part"
UNDECIDED = "undecided"
NOT_TESTABLE = "not testable here"
VERDICTS = (HOLDS, FAILS, IN_PART, UNDECIDED, NOT_TESTABLE)


@dataclass(frozen=True)
class Evidence:
    """What was measured: an effect in the claim's unit, and what else was seen."""

    effect: float
    low: float
    high: float
    """The 95 % interval; of an exact statement both are the effect."""
    n: int
    """Repetitions: seeds, or cases that were tried."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that a reader wants beside it, a counter-example's numbers among them."""

    @classmethod
    def of(cls, values: Float[np.ndarray, " n"] | Sequence[float], **seen: Any) -> "Evidence":
        """The mean of repeated effects, with Student's interval."""
        values = np.asarray(values, dtype=float)
        half = float(half_width(values))
        mean = float(values.mean())
        return cls(mean, mean - half, mean + half, len(values), seen)

    @classmethod
    def exact(cls, deviation: float, n: int, **seen: Any) -> "Evidence":
        """The largest deviation from an identity among n cases."""
        return cls(float(deviation), float(deviation), float(deviation), n, seen)


# --- Rules ------------------------------------------------------------------------------------


class Rule:
    """How a verdict follows from one piece of evidence."""

    @abstractmethod
    def verdict(self, evidence: Evidence) -> str:
        """HOLDS, FAILS or UNDECIDED; where a figure is not a number, UNDECIDED."""

    @property
    @abstractmethod
    def band(self) -> tuple[float, float]:
        """The effects with which the claim holds."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The rule, for a reader."""

    def nearest(self, effect: float) -> float:
        """The boundary that an undecided interval has to clear."""
        return min((end for end in self.band if math.isfinite(end)), key=lambda e: abs(e - effect))


@dataclass(frozen=True)
class Exact(Rule):
    """The claim is an identity; the effect is the largest deviation from it, relative to the size
    of what is compared."""

    tolerance: float = 1e-9

    def verdict(self, evidence: Evidence) -> str:
        if math.isnan(evidence.effect):
            return UNDECIDED
        return HOLDS if evidence.effect <= self.tolerance else FAILS

    @property
    def band(self) -> tuple[float, float]:
        return 0.0, self.tolerance

    @property
    def words(self) -> str:
        return f"holds if no case deviates by more than {self.tolerance:g}"


@dataclass(frozen=True)
class Larger(Rule):
    """The claim says that something is larger by an amount that matters."""

    interesting: float
    """Smallest effect of interest; negative where the claim is that nothing is lost."""

    def verdict(self, evidence: Evidence) -> str:
        if evidence.low > self.interesting:
            return HOLDS
        return FAILS if evidence.high < self.interesting else UNDECIDED

    @property
    def band(self) -> tuple[float, float]:
        return self.interesting, math.inf

    @property
    def words(self) -> str:
        return (
            f"holds if the interval lies above {self.interesting:g}, fails if it lies below; else "
            "undecided"
        )


@dataclass(frozen=True)
class Same(Rule):
    """The claim says that two things do not differ by an amount that matters."""

    interesting: float

    def verdict(self, evidence: Evidence) -> str:
        if -self.interesting < evidence.low and evidence.high < self.interesting:
            return HOLDS
        apart = evidence.low > self.interesting or evidence.high < -self.interesting
        return FAILS if apart else UNDECIDED

    @property
    def band(self) -> tuple[float, float]:
        return -self.interesting, self.interesting

    @property
    def words(self) -> str:
        return (
            f"holds if the interval lies within ±{self.interesting:g}, fails if it lies outside; "
            "else undecided"
        )


@dataclass(frozen=True)
class Probable(Rule):
    """The claim is a statement on one published figure, and the effect the probability that it
    would be made again, by what reruns scatter."""

    at_least: float = 0.9

    def verdict(self, evidence: Evidence) -> str:
        if evidence.low >= self.at_least:
            return HOLDS
        return FAILS if evidence.high < 1 - self.at_least else UNDECIDED

    @property
    def band(self) -> tuple[float, float]:
        return self.at_least, 1.0

    @property
    def words(self) -> str:
        return (
            f"holds if the probability is at least {self.at_least:g}, fails if it is below "
            f"{1 - self.at_least:.2g}; else undecided"
        )


@dataclass(frozen=True)
class Order(Rule):
    """The claim is an order. Evidence is the smallest paired difference of neighbours, in the
    claimed direction; all of them stand in `seen["neighbours"]`: {name: (effect, low, high)}."""

    interesting: float

    def verdict(self, evidence: Evidence) -> str:
        ends = [(low, high) for _, low, high in evidence.seen["neighbours"].values()]
        if any(high < self.interesting for _, high in ends):
            return FAILS
        return HOLDS if all(low > self.interesting for low, _ in ends) else UNDECIDED

    @property
    def band(self) -> tuple[float, float]:
        return self.interesting, math.inf

    @property
    def words(self) -> str:
        return (
            f"holds if each step of the order is larger than {self.interesting:g}, fails if one "
            "is not; else undecided"
        )


def order_of(values: Mapping[str, Float[np.ndarray, " n"]]) -> Evidence:
    """Evidence for an order: by name, in the claimed order from the largest on, paired values."""
    names = list(values)
    neighbours = {}
    for first, second in itertools.pairwise(names):
        found = Evidence.of(np.asarray(values[first]) - np.asarray(values[second]))
        neighbours[f"{first} − {second}"] = (found.effect, found.low, found.high)
    effect, low, high = min(neighbours.values())
    means = {name: float(np.mean(one)) for name, one in values.items()}
    seen = {"neighbours": neighbours, "means": means}
    return Evidence(effect, low, high, len(values[names[0]]), seen)


# --- Claims -----------------------------------------------------------------------------------


Measured = Evidence | Mapping[str, Evidence]
"""One piece of evidence, or one for each place where the claim was tried."""


@dataclass(frozen=True)
class Claim:
    """One claim on trial.

    `measure(seeds, device)` gives the evidence. Where it is None, `lacking` says what a test would
    take.
    """

    id: str
    claim: str
    """In our words."""
    said: str
    """Who says it, where: version, section, table."""
    test: str
    """How it is tried here."""
    unit: str
    """Of the effect."""
    rule: Rule
    because: str
    """Why that tolerance, or that smallest effect of interest; set before measuring."""
    seconds: float
    """Expected, on two cores."""
    measure: Callable[[Sequence[int], str], Measured] | None = None
    seeds: int = 10
    """How many, from 43 on."""
    lacking: str = ""
    stored: "Callable[[], tuple[Measured, Mapping[str, Any]] | None] | None" = None
    """Where measuring takes hours: what the runs that ship say, and when and by which code they
    were made; None where none ship."""
    code: Callable[..., Any] | None = None
    """On whose code the evidence depends, if not on that of `measure`."""

    def __post_init__(self) -> None:
        if (self.measure is None) == (not self.lacking):
            raise ValueError(f"claim {self.id!r} needs a measure, or what is lacking for one")


def parts_of(measured: Measured) -> dict[str, Evidence]:
    """By place; "" where there is but one."""
    return {"": measured} if isinstance(measured, Evidence) else dict(measured)


def verdict_of(claim: Claim, parts: Mapping[str, Evidence]) -> str:
    """What follows from all pieces of evidence together.

    All alike: that. Some hold and others do not: "holds in part", and where. Otherwise undecided,
    and where it fails.
    """
    if claim.measure is None:
        return NOT_TESTABLE
    each = {name: claim.rule.verdict(evidence) for name, evidence in parts.items()}
    found = set(each.values())
    if len(found) == 1:
        return found.pop()
    decided = HOLDS if HOLDS in found else FAILS
    places = "; ".join(name for name, one in each.items() if one == decided)
    return f"{IN_PART}: {places}" if decided == HOLDS else f"{UNDECIDED}, but fails: {places}"


def kind_of(verdict: str) -> str:
    """Which of VERDICTS it is, without the places."""
    return next((kind for kind in VERDICTS if verdict.startswith(kind)), verdict)


def seeds_needed(rule: Rule, evidence: Evidence) -> int | None:
    """About how many repetitions would decide, were the effect what it seems to be; None where no
    number would, or there is no spread to go by."""
    half = (evidence.high - evidence.low) / 2
    away = abs(evidence.effect - rule.nearest(evidence.effect))
    if not (math.isfinite(half) and half > 0 and away > 0):
        return None
    return math.ceil(evidence.n * (half / away) ** 2)
