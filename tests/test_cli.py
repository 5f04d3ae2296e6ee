"""The command line, as a user runs it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import missviz as mv
from missviz.cli import app, copy_lessons, lessons_folder
from missviz.experiments.arguments import default_methods

runner = CliRunner()


@pytest.mark.slow
def test_reproduce_writes_tables_and_figures(tmp_path: Path) -> None:
    out = tmp_path / "results"
    options = ["reproduce", "no-free-lunch", "--seeds", "3", "--steps", "5", "--out", str(out)]
    result = runner.invoke(app, options)
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir() if path.is_file()}
    assert names >= {
        "losses.csv",
        "summary.csv",
        "baselines.csv",
        "timings.csv",
        "settings.json",
        "figure-2.svg",
        "figure-2.png",
        "race-train.svg",
        "race-valid.png",
    }
    losses = pd.read_csv(out / "losses.csv")
    assert set(losses["seed"]) == {43, 44, 45}
    assert losses["step"].max() == 5
    settings = json.loads((out / "settings.json").read_text())
    assert settings["protocol"]["name"] == "published"
    assert "MiSS r=4" in settings["methods"]


@pytest.mark.slow
def test_interrupt_keeps_what_is_finished_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    module = sys.modules["missviz.experiments.no_free_lunch"]
    run_chunk, done = module.run_chunk, []

    def stop_at_miss(chunk):
        if chunk.method.name == "MiSS r=4" and "MiSS r=4" not in done:
            done.append("MiSS r=4")
            raise KeyboardInterrupt
        done.append(chunk.method.name)
        return run_chunk(chunk)

    monkeypatch.setattr(module, "run_chunk", stop_at_miss)
    options = ["reproduce", "no-free-lunch", "--seeds", "2", "--steps", "3", "--out", str(tmp_path)]
    result = runner.invoke(app, options)
    assert result.exit_code == 130
    assert "has: full fine-tuning + bias, LoRA r=2, PiSSA r=2" in result.output
    assert set(pd.read_csv(tmp_path / "losses.csv")["method"]) == {
        "full fine-tuning + bias",
        "LoRA r=2",
        "PiSSA r=2",
    }
    done[:] = ["MiSS r=4"]
    assert runner.invoke(app, options).exit_code == 0
    assert "LoRA r=2" not in done
    assert "MiSS r=4" in set(pd.read_csv(tmp_path / "losses.csv")["method"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["reproduce", "no-free-lunch", "--seeds", "0"], "seeds=0 is not positive"),
        (["reproduce", "no-free-lunch", "--device", "gpu"], "device='gpu' cannot be used"),
        (["reproduce", "pareto"], "no-free-lunch"),
        (["reproduce", "no-free-lunch", "--protocol", "paper"], "published"),
    ],
)
def test_bad_options(options: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, options)
    assert result.exit_code == 2
    assert message in result.output + result.stderr


def test_copied_lessons_never_overwrite(tmp_path: Path) -> None:
    assert copy_lessons(lessons_folder(), tmp_path) == []
    first = tmp_path / "00_start_here.ipynb"
    assert first.exists()
    assert copy_lessons(lessons_folder(), tmp_path) == []
    first.write_text("my answers")
    assert copy_lessons(lessons_folder(), tmp_path) == [first]
    assert first.read_text() == "my answers"


@pytest.mark.slow
def test_lab_serves_the_lessons(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "missviz", "lab", "--folder", str(tmp_path / "lessons")]
    command += ["--no-browser", f"--port={port}", "--IdentityProvider.token=abc"]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}/api/contents?token=abc"
        for _ in range(120):
            assert server.poll() is None, server.stdout.read()
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    names = {entry["name"] for entry in json.load(answer)["content"]}
                break
            except OSError:
                time.sleep(0.5)
        assert {"00_start_here.ipynb", "05_no_free_lunch.ipynb"} <= names
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        output = server.communicate(timeout=30)[0]
    assert re.search(rf"http://\S+:{port}/lab\?token=", output)


@pytest.mark.slow
def test_bench_measures_both_sides(tmp_path: Path) -> None:
    options = ["bench", "no-free-lunch", "--seeds", "2", "--rounds", "1", "--out", str(tmp_path)]
    result = runner.invoke(app, options)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "no-free-lunch-cpu.json").read_text())
    peers = {row["method"]: row["peer"] for row in written["rows"]}
    assert peers.keys() == {method.name for method in [*default_methods(), mv.DoRA(1)]}
    in_peft = {
        "LoRA r=2",
        "PiSSA r=2",
        "MiSS r=4",
        "DoRA r=1",
        "VeRA r=64 linear",
        "AdaLoRA r=2 γ=0",
    }
    assert in_peft <= {name for name, peer in peers.items() if peer == "PEFT"}
    assert all(row["largest_loss_difference"] < 1e-5 for row in written["rows"])
    assert all(row["ratio"] > 0 for row in written["rows"])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["bench", "panels", "--presses", "0"], "--presses"),
        (["bench", "no-free-lunch", "--seeds", "0"], "--seeds"),
        (["bench", "init", "--rounds", "1", "--out", ""], "the path is empty"),
        (["inspect", "here", "--html", ""], "the path is empty"),
        (["reproduce", "no-free-lunch", "--seeds", "1", "--out", ""], "the path is empty"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    command: list[str], said: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, command)
    assert result.exit_code == 2, result.output
    assert said in result.output
    assert not list(tmp_path.iterdir())


def test_bench_looks_at_its_folder_before_it_measures(tmp_path: Path, monkeypatch) -> None:
    init = pytest.importorskip("missviz.bench.init")
    monkeypatch.setattr(init, "compare", lambda **_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    result = runner.invoke(app, ["bench", "init", "--out", str(tmp_path / "file" / "folder")])
    assert result.exit_code == 2, result.output
    assert "missviz: --out: " in result.output
