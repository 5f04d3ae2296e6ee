"""`make gpu` with steps that fail, hang and skip: it goes on, in time, and leaves its files."""

import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import gpu
import pytest
import steps
from steps import Step, python

from missviz.cli import Part

pytestmark = pytest.mark.slow
ABOUT = {"commit": "abc", "date": "today", "device": "cpu", "small": True, "driver": None}
REPORT = """<testsuites><testsuite name="s" tests="5" failures="1" errors="1" skipped="1">
<testcase classname="tests.a" name="good"/><testcase classname="tests.a" name="lost"><skipped/>
</testcase><testcase classname="tests.a" name="bad"><failure/></testcase><testcase classname="tests.a"
name="broken"><error/></testcase><testcase classname="tests.b" name="good"/></testsuite></testsuites>"""


def code(name: str, text: str, limit: float = 20.0) -> Step:
    return Step(name, python("-c", text), limit)


def validated(tmp_path: Path, chosen: list[Step], limit: float = 60.0, **about) -> dict:
    out, reports = tmp_path / "out", tmp_path / "reports"
    for folder in (out, reports):
        folder.mkdir(exist_ok=True)
    gpu.validate(
        chosen,
        out,
        reports,
        began=time.monotonic(),
        limit=limit,
        environment={},
        about={**ABOUT, **about},
    )
    return json.loads((out / "result.json").read_text())


def writes_report(tmp_path: Path, name: str, report: str) -> Step:
    path = gpu.report_of(name, tmp_path / "reports")
    return code(name, f"import pathlib; pathlib.Path({str(path)!r}).write_text({report!r})")


def test_goes_on_after_a_failure_and_after_a_step_over_its_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "GRACE", 0.5)
    result = validated(
        tmp_path,
        [
            code("fails", "print('why it failed'); raise SystemExit(1)"),
            code("hangs", "import time; time.sleep(60)", 1.0),
            code("passes", ""),
        ],
    )
    ended = [step["status"] for step in result["steps"]]
    assert ended == ["failed", "over its limit", "passed"]
    assert result["passed"] is False
    assert result["seconds"] < 30
    assert "why it failed" in (tmp_path / "out" / "log.txt").read_text()
    page = (tmp_path / "out" / "summary.md").read_text()
    assert page.startswith("# missviz on no GPU: NOT passed")
    assert "| hangs | over its limit |" in page


def test_the_whole_ends_in_time_and_says_what_it_left_out(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "GRACE", 0.5)
    hangs = "import time; time.sleep(60)"
    chosen = [code("first", hangs, 40.0), code("second", hangs, 40.0), code("third", "")]
    result = validated(tmp_path, chosen, limit=gpu.RESERVE + 2)
    ended = [step["status"] for step in result["steps"]]
    assert ended == ["over its limit", "not started", "not started"]
    assert result["seconds"] < gpu.RESERVE + 2


def test_counts_and_names_of_failures_come_from_the_tests_reports(tmp_path: Path) -> None:
    chosen = [writes_report(tmp_path, "some tests", REPORT), code("no tests", "")]
    result = validated(tmp_path, chosen)
    counted = {"tests": 5, "passed": 2, "failed": 2, "skipped": 1}
    assert [step["counts"] for step in result["steps"]] == [counted, {}]
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "- `tests.a::bad`" in page
    assert "- `tests.a::broken`" in page
    assert "good" not in page
    root = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    assert len(list(root.iter("testcase"))) == 5


def test_a_report_that_was_cut_off_is_none(tmp_path: Path) -> None:
    result = validated(tmp_path, [writes_report(tmp_path, "cut", REPORT[:40])])
    assert result["steps"][0]["counts"] == {}


@pytest.mark.parametrize(("device", "ended"), [("cuda", "nothing passed"), ("cpu", "passed")])
def test_skipping_everything_is_no_proof_on_a_gpu(tmp_path: Path, device: str, ended: str) -> None:
    report = '<testsuite tests="2" failures="0" errors="0" skipped="2"/>'
    result = validated(tmp_path, [writes_report(tmp_path, "cuda tests", report)], device=device)
    assert result["steps"][0]["status"] == ended


def test_files_are_there_after_every_step(tmp_path: Path) -> None:
    look = f"""
import json, pathlib
known = json.loads(pathlib.Path({str(tmp_path / "out" / "result.json")!r}).read_text())
assert [step["name"] for step in known["steps"]] == ["first"]
"""
    assert validated(tmp_path, [code("first", ""), code("second", look)])["passed"] is True


@pytest.mark.parametrize("small", [True, False])
def test_the_steps_name_what_is_there(small: bool, tmp_path: Path) -> None:
    chosen = gpu.steps_for("cuda", small, tmp_path, tmp_path)
    assert [step.name for step in chosen][:2] == ["cuda tests", "lessons"]
    for step in chosen:
        for argument in step.command[1:]:
            if argument.startswith(("tests/", "notebooks")):
                assert (steps.ROOT / argument).exists(), argument
    parts = {step.name.removeprefix("bench ") for step in chosen if step.name.startswith("bench")}
    assert parts <= {part.value for part in Part}
    if not small:
        assert parts == {part.value for part in Part} - {"panels"}
        rest = {argument for argument in chosen[-1].command if argument.startswith("tests/")}
        assert {"tests/adapters", "tests/analysis", "tests/experiments", "tests/peers"} <= rest
    assert all(step.limit < 540 for step in chosen)


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu, "facts", lambda environment: {**ABOUT, "card": None})
    assert gpu.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_facts_name_versions_and_commit(monkeypatch) -> None:
    monkeypatch.setenv("COMMIT", "1234abc")
    known = gpu.facts(gpu.environment_for("cpu", None))
    assert known["commit"] == "1234abc"
    assert known["card"] is None
    assert known["packages"]["torch"]
    assert known["python"].startswith("3.")
