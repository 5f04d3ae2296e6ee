"""Steps end within their limits, with all that they started, and the next ones run."""

import os
import time
from pathlib import Path

import pytest
import steps
from steps import Step, end_left_over, python, run, table

pytestmark = pytest.mark.slow
HANGS = "import time; time.sleep(60)"


def code(text: str, limit: float = 20.0) -> Step:
    return Step("a step", python("-c", text), limit)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_step_passes_or_fails_by_its_exit_status() -> None:
    assert run(code("")).good
    outcome = run(code("raise SystemExit(3)"))
    assert (outcome.status, outcome.good) == ("failed", False)


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    for word in ("one", "two"):
        run(code(f"import sys; print('{word}'); print('aside', file=sys.stderr)"), log=log)
    assert sorted(log.read_text().split()) == ["aside", "aside", "one", "two"]


def test_over_its_limit_a_step_is_asked_to_end_and_may_still_write(tmp_path: Path) -> None:
    written = tmp_path / "written"
    text = f"""
import pathlib, time
try:
    pathlib.Path({str(tmp_path / "started")!r}).touch()
    time.sleep(60)
finally:
    pathlib.Path({str(written)!r}).touch()
"""
    outcome = run(code(text, 3.0), log=tmp_path / "log.txt")
    assert outcome.status == "over its limit"
    assert 3.0 <= outcome.seconds < 15
    assert written.exists() == (tmp_path / "started").exists()


def test_who_does_not_listen_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "GRACE", 0.5)
    pids = tmp_path / "pids"
    text = f"""
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {HANGS!r}], start_new_session=True)
pathlib.Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
time.sleep(60)
"""
    outcome = run(code(text, 5.0), log=tmp_path / "log.txt")
    assert outcome.status == "over its limit"
    started = [int(pid) for pid in pids.read_text().split()]
    time.sleep(0.2)
    assert [pid for pid in started if alive(pid)] == []
    assert alive(os.getpid())


def test_what_a_finished_step_leaves_behind_is_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    text = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {HANGS!r}], start_new_session=True)
pathlib.Path({str(pids)!r}).write_text(str(child.pid))
"""
    assert run(code(text), log=tmp_path / "log.txt").good
    time.sleep(0.2)
    assert not alive(int(pids.read_text()))


def test_only_its_own_are_ended() -> None:
    end_left_over("no such mark")
    assert alive(os.getppid())


def test_nothing_starts_after_the_deadline() -> None:
    outcome = run(code(HANGS), deadline=time.monotonic() - 1)
    assert (outcome.status, outcome.seconds) == ("not started", 0.0)
    cut = run(code(HANGS), deadline=time.monotonic() + 1)
    assert cut.status == "over its limit"
    assert cut.seconds < 15


def test_every_step_runs_and_one_failure_is_a_failure(monkeypatch, capsys) -> None:
    chosen = [Step("first", python("-c", "raise SystemExit(1)")), Step("second", python("-c", ""))]
    monkeypatch.setattr(steps, "quick", lambda arguments: chosen)
    assert steps.main("quick") == 1
    shown = capsys.readouterr().out
    lines = shown.partition("=== make quick\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == ["first", "second", "all"]
    assert [line.split()[-1] for line in lines] == ["failed", "passed", "s"]
    chosen.pop(0)
    assert steps.main("quick") == 0


def test_the_table_sums_seconds() -> None:
    outcomes = [steps.Outcome(code(""), "passed", seconds) for seconds in (1.25, 2.5)]
    assert table(outcomes).splitlines()[-1].split() == ["all", "3.8", "s"]
