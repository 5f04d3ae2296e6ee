"""Does missviz work on this machine's GPU? What `make gpu` runs, in at most `--limit` seconds.

    python tools/gpu.py [--device cuda] [--limit 540] [--out DIR] [--wheels DIR] [--small]

Needs a Python with torch, and nothing else where `--wheels` is a folder that `make wheels` filled:
what is in it goes into a temporary folder, and torch stays as it is. The steps run most valuable
first, each with a limit of its own, and go on after a failure. After every step DIR has

    summary.md    one page
    result.json   machine, versions, and each step's seconds and counts
    junit.xml     every test
    log.txt       all output

and, as they come, the benchmarks' <part>-<device>.json. Exit status 0 says that all steps passed.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steps import ROOT, Outcome, Step, python, run, table, undeaf

RESERVE = 8.0
"""Seconds kept back for what a step that was cut off still has to write."""

SMALL_LESSONS = ("00_start_here", "04_initial_gradients")

# What differs from the versions in constraints.txt may warn of its own future: no failure here.
# pytest-benchmark, where it is installed, refuses to be run by xdist.
PYTEST = ("-m", "pytest", "-q", "-p", "no:benchmark", "-W", "default")

FACTS = """
import importlib.metadata, json, os, platform, torch
versions = {}
for name in ("torch", "numpy", "scipy", "pandas", "matplotlib", "peft", "transformers", "jaxtyping",
             "ipykernel", "ipywidgets", "nbclient", "nbmake", "pytest", "hypothesis", "missviz"):
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = None
card = None
if torch.cuda.is_available():
    properties = torch.cuda.get_device_properties(0)
    card = {"name": properties.name, "bytes": properties.total_memory,
            "capability": [properties.major, properties.minor]}
print(json.dumps({"card": card, "cuda": torch.version.cuda, "python": platform.python_version(),
                  "cores": os.cpu_count(), "packages": versions}))
"""


def report_of(name: str, reports: Path) -> Path:
    """Where a step of tests writes its JUnit report."""
    return reports / f"{name.replace(' ', '-')}.xml"


def steps_for(device: str, small: bool, out: Path, reports: Path) -> list[Step]:
    """Most valuable first. Tests report into `reports`, benchmarks write into `out`."""
    workers = ["-n", str(min(8, os.cpu_count() or 1))]
    lessons = [f"notebooks/{name}.ipynb" for name in SMALL_LESSONS] if small else ["notebooks"]
    folders = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").iterdir()
        if any(path.glob("test_*.py")) and path.name not in ("browser", "tools")
    )
    on_cuda = sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.cuda" in path.read_text(encoding="utf-8")
    )
    # Seconds and sizes with which all parts fit; by hand one takes the benchmark's own sizes.
    parts = {
        "no-free-lunch": (70, ["--seeds", "2" if small else "4", "--rounds", "1"]),
        "adapters": (40, []),
        "fine-tune": (60, ["--seeds", "16", "--rounds", "1"]),
        "spectra": (60, ["--rounds", "1"]),
        "init": (60, ["--rounds", "1"]),
    }
    if small:
        parts = {"no-free-lunch": parts["no-free-lunch"]}
        folders = ["--quick", "tests/adapters", "tests/analysis"]

    # A small run tries the script on machines of any speed; its limits are no promise.
    stretch = 2.5 if small else 1

    def tests(name: str, limit: float, *arguments: str) -> Step:
        report = f"--junitxml={report_of(name, reports)}"
        command = python(*PYTEST, report, f"-ojunit_suite_name={name}", *arguments)
        return Step(name, command, stretch * limit)

    def bench(part: str, limit: float, sizes: Sequence[str]) -> Step:
        command = python("-m", "missviz", "bench", part, "--device", device, "--out", str(out))
        return Step(f"bench {part}", [*command, *sizes], stretch * limit)

    return [
        tests("cuda tests", 90, *workers, "-m", "cuda", *on_cuda),
        tests("lessons", 120, *workers, "--nbmake", "--nbmake-timeout=100", *lessons),
        *(bench(part, *settings) for part, settings in parts.items()),
        tests("rest of the suite", 200, *workers, "-m", "not cuda", *folders),
    ]


def install(wheels: Path, site: Path) -> list[Step]:
    """The wheels, and then missviz by them, into `site`: nothing is fetched, torch stays."""
    pip = python("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile")
    pip += ["--no-cache-dir", "--upgrade", "--target", str(site)]
    # So that its version is known; the code that runs is this checkout's.
    itself = [*pip, "--no-build-isolation", str(ROOT)]
    return [
        Step("install wheels", [*pip, *map(str, sorted(wheels.glob("*.whl")))], 120),
        Step("install missviz", itself, 60),
    ]


def environment_for(device: str, site: Path | None) -> dict[str, str]:
    """This checkout first, then what was installed; one thread per process, as there are many."""
    paths = [str(ROOT), *([str(site)] if site else [])]
    more = {
        "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if site:
        more["JUPYTER_PATH"] = str(site / "share" / "jupyter")
        more["JUPYTER_CONFIG_PATH"] = str(site / "etc" / "jupyter")
    if device == "cpu":
        more["CUDA_VISIBLE_DEVICES"] = ""
    return more


def said(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a short command prints; nothing where there is no such command, or it fails."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def facts(environment: Mapping[str, str]) -> dict[str, Any]:
    """The machine and what is installed on it."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "commit": os.environ.get("COMMIT")
        or said(["git", "rev-parse", "--short", "HEAD"], {})
        or "unknown",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "driver": said(asked, {}) or None,
        **json.loads(said(python("-c", FACTS), environment) or "{}"),
    }


def counts(report: Path) -> dict[str, int]:
    """Tests of a JUnit report: all, passed, failed, skipped. Empty where there is none."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return {}
    total = {
        name: sum(int(suite.get(name, 0)) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    }
    failed = total["failures"] + total["errors"]
    return {
        "tests": total["tests"],
        "passed": total["tests"] - failed - total["skipped"],
        "failed": failed,
        "skipped": total["skipped"],
    }


def joined(reports: Path) -> ElementTree.Element:
    """The JUnit reports of a folder as one."""
    whole = ElementTree.Element("testsuites")
    for report in sorted(reports.glob("*.xml"), key=lambda report: report.stat().st_mtime):
        if counts(report):
            whole.extend(ElementTree.parse(report).getroot().iter("testsuite"))
    return whole


def failures(whole: ElementTree.Element) -> list[str]:
    """Names of the tests that failed."""
    return [
        f"{case.get('classname')}::{case.get('name')}"
        for case in whole.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]


def summary(result: Mapping[str, Any], failed: Sequence[str]) -> str:
    """The page that one reads."""
    card = result.get("card") or {"name": "no GPU"}
    packages = result.get("packages", {})
    lines = [
        f"# missviz on {card['name']}: {'passed' if result['passed'] else 'NOT passed'}",
        "",
        f"commit {result['commit']}, {result['date']}; device {result['device']}"
        + (", small" if result["small"] else ""),
        "",
        f"torch {packages.get('torch')}, CUDA {result.get('cuda')}, driver {result['driver']}, "
        f"Python {result.get('python')}, {result.get('cores')} cores",
        "",
        "| step | ended | seconds | limit | passed | failed | skipped |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for step in result["steps"]:
        told = [str(step["counts"].get(name, "")) for name in ("passed", "failed", "skipped")]
        numbers = [f"{step['seconds']:.1f}", f"{step['limit']:.0f}", *told]
        lines.append(f"| {step['name']} | {step['status']} | {' | '.join(numbers)} |")
    lines += ["", f"{result['seconds']:.0f} s of {result['limit']:.0f}. All output: log.txt."]
    if failed:
        lines += ["", "Failed:", "", *(f"- `{name}`" for name in failed[:30])]
        lines += [f"- and {len(failed) - 30} more, in junit.xml"] if len(failed) > 30 else []
    return "\n".join(lines) + "\n"


def validate(
    steps: Sequence[Step],
    out: Path,
    reports: Path,
    *,
    began: float,
    limit: float,
    environment: Mapping[str, str],
    about: Mapping[str, Any],
) -> list[Outcome]:
    """Run the steps; after each one the folder `out` holds all that is known."""
    outcomes: list[Outcome] = []
    log = out / "log.txt"
    for step in steps:
        print(f"=== {step.name} (at most {step.limit:.0f} s)", flush=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n=== {step.name}: {' '.join(step.command)}\n")
        outcome = run(step, deadline=began + limit - RESERVE, environment=environment, log=log)
        outcome.counts = counts(report_of(step.name, reports))
        if about["device"] == "cuda" and outcome.counts.get("passed") == 0:
            outcome.status = "nothing passed"  # all skipped is no proof
        outcomes.append(outcome)
        print(f"    {outcome.status}, {outcome.seconds:.1f} s, {outcome.counts}", flush=True)
        write(out, joined(reports), outcomes, time.monotonic() - began, limit, about)
    return outcomes


def write(
    out: Path,
    tests: ElementTree.Element,
    outcomes: Sequence[Outcome],
    seconds: float,
    limit: float,
    about: Mapping[str, Any],
) -> None:
    """junit.xml, result.json and summary.md of the steps so far."""
    result = {
        **about,
        "passed": all(one.good for one in outcomes),
        "seconds": round(seconds, 1),
        "limit": limit,
        "steps": [
            {
                "name": one.step.name,
                "status": one.status,
                "seconds": round(one.seconds, 1),
                "limit": one.step.limit,
                "counts": one.counts,
                "command": list(one.step.command),
            }
            for one in outcomes
        ],
    }
    document = ElementTree.ElementTree(tests)
    document.write(out / "junit.xml", encoding="utf-8", xml_declaration=True)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "summary.md").write_text(summary(result, failures(tests)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--limit", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    parser.add_argument("--wheels", type=Path, help="a folder that `make wheels` filled")
    parser.add_argument("--small", action="store_true", help="two minutes: does the script work?")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("log.txt", "junit.xml", "result.json", "summary.md"):
        (out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="missviz-gpu-") as temporary:
        reports, site = Path(temporary) / "reports", Path(temporary) / "site"
        reports.mkdir()
        environment = environment_for(options.device, site if options.wheels else None)
        installed = all(
            run(step, environment=environment, log=out / "log.txt").good
            for step in (install(options.wheels, site) if options.wheels else [])
        )
        about = {"device": options.device, "small": options.small, **facts(environment)}
        if not installed or (options.device == "cuda" and not about.get("card")):
            why = "torch finds no CUDA device" if installed else "the wheels did not install"
            print(f"make gpu: {why}; see {out / 'log.txt'}, or try DEVICE=cpu", file=sys.stderr)
            return 2
        outcomes = validate(
            steps_for(options.device, options.small, out, reports),
            out,
            reports,
            began=began,
            limit=options.limit,
            environment=environment,
            about=about,
        )
    print(f"\n=== make gpu\n{table(outcomes)}\n{out / 'summary.md'}")
    return 0 if all(one.good for one in outcomes) else 1


if __name__ == "__main__":
    undeaf()
    sys.exit(main())
