"""The steps of `make quick` and `make test`, one after the other, with their seconds at the end.

    python tools/steps.py quick      lint, types, and a thinned suite: at most 90 seconds
    python tools/steps.py test       all else that CI proves: at most 10 minutes
    python tools/steps.py claims     the ledger: rows measured anew, and every row's mutant

Further arguments go to pytest. A step that fails does not keep the next ones from running.
`tools/gpu.py` runs its steps with the same functions.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GRACE = 10.0
"""Seconds between asking a step to end (pytest then still writes what it knows) and ending it."""
MARK = "MISSVIZ_STEP"
"""Environment variable that a step's processes inherit, wherever they end up: kernels and servers
leave their parent's process group."""


@dataclass(frozen=True)
class Step:
    """A command, and the seconds that it may take."""

    name: str
    command: Sequence[str]
    limit: float = float("inf")


@dataclass
class Outcome:
    """How a step ended: "passed", "failed", "over its limit" or "not started"."""

    step: Step
    status: str
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    """What a test step's report says: tests, passed, failed, skipped."""

    @property
    def good(self) -> bool:
        return self.status == "passed"


def run(
    step: Step,
    *,
    deadline: float = float("inf"),
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Outcome:
    """Run one step until it ends, its limit is over, or `deadline` (of time.monotonic) comes.

    Its output goes to `log`, or where this process's own goes.
    """
    started = time.monotonic()
    seconds = min(step.limit, deadline - started)
    if seconds <= 0:
        return Outcome(step, "not started")
    mark = uuid.uuid4().hex
    with log.open("ab") if log else open(os.devnull, "wb") as output:
        process = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env={**os.environ, **(environment or {}), MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output if log else None,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=log is not None,
        )
        try:
            code = process.wait(None if seconds == float("inf") else seconds)
            status = "failed" if code else "passed"
        except subprocess.TimeoutExpired:
            status = "over its limit"
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        finally:
            end_left_over(mark)
    return Outcome(step, status, time.monotonic() - started)


def end_left_over(mark: str) -> None:
    """Kill what a step left behind; only where /proc shows whose child a process is (Linux)."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)
        except OSError:
            continue  # gone by now, or another user's


def undeaf() -> None:
    """Hear Ctrl-C, and let steps hear it, also where a shell started this with `&`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def table(outcomes: Sequence[Outcome]) -> str:
    """A line per step, and the sum."""
    lines = [f"{one.step.name:28}{one.seconds:8.1f} s   {one.status}" for one in outcomes]
    lines.append(f"{'all':28}{sum(one.seconds for one in outcomes):8.1f} s")
    return "\n".join(lines)


def python(*arguments: str) -> list[str]:
    """A command for the Python that runs this."""
    return [sys.executable, *arguments]


def lint() -> list[Step]:
    tool = Path(sys.executable).with_name
    return [
        Step("ruff", [str(tool("ruff")), "check", "."]),
        Step("format", [str(tool("ruff")), "format", "--check", "."]),
        Step("imports", [str(tool("lint-imports"))]),
        # What did not change comes from mypy's cache.
        Step("types", [str(tool("mypy"))]),
    ]


def quick(arguments: Sequence[str]) -> list[Step]:
    # Without nbmake, which is quick in nothing, and takes a second to load in each process.
    options = ("--quick", "-n2", "-p", "no:nbmake", "-m", "not ledger")
    suite = python("-m", "pytest", *options, *arguments)
    return [*lint(), Step("thinned suite", suite)]


def test(arguments: Sequence[str]) -> list[Step]:
    return [
        *lint(),
        # The limit is there for what hangs.
        Step(
            "suite",
            python("-m", "pytest", "-n2", "-m", "not ledger", "--durations=15", *arguments),
            limit=3000,
        ),
        # Once more with every shape annotation checked. (beartype itself draws from random.)
        Step(
            "contract, shapes checked",
            python(
                *("-m", "pytest", "-q", "-n2", "--dist=load", "tests/adapters/test_contract.py"),
                *("-k", "not compiles"),
                "--jaxtyping-packages=missviz.adapters,missviz.analysis,beartype.beartype",
                *("-W", "ignore::hypothesis.errors.HypothesisDeprecationWarning"),
            ),
        ),
    ]


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Empty is off: what one of a hundred processes has compiled, the others read.
    "PYTHONDONTWRITEBYTECODE": "",
}


def claims(arguments: Sequence[str]) -> list[Step]:
    anew = ("-m", "missviz", "claims", "run", "--check", "--seconds", "20", "--device", "cpu")
    return [
        # Alone on the machine: some rows are times.
        Step("rows of at most 20 s, anew", python(*anew), limit=1800),
        Step(
            "each row's mutant",
            python("-m", "pytest", "-n2", "-m", "ledger", "--durations=5", *arguments),
            limit=1800,
        ),
    ]


def main(tier: str, *arguments: str) -> int:
    outcomes = []
    for step in {"quick": quick, "test": test, "claims": claims}[tier](arguments):
        print(f"\n=== {step.name}", flush=True)
        outcomes.append(run(step, environment=ENVIRONMENT))
    print(f"\n=== make {tier}\n{table(outcomes)}")
    return 0 if all(one.good for one in outcomes) else 1


if __name__ == "__main__":
    undeaf()
    sys.exit(main(*sys.argv[1:]))
