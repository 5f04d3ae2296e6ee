"""`missviz bench`: its parts, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from missviz.bench import fine_tuning, init, spectra
from missviz.cli import Part, app

runner = CliRunner()


def test_help_says_what_each_part_measures() -> None:
    shown = runner.invoke(app, ["bench", "--help"]).output
    assert all(f"\n {part.value} " in shown for part in Part)


def test_spectra_and_init_write_their_results(tmp_path: Path, monkeypatch) -> None:
    compare_spectra, compare_init = spectra.compare, init.compare
    monkeypatch.setattr(spectra, "LLAMA_7B", {"q": (70, 80)})
    few = {"sizes": ((70, 80),), "layers": 1, "methods": ()}
    monkeypatch.setattr(spectra, "compare", lambda **said: compare_spectra(**said, **few))
    monkeypatch.setattr(init, "compare", lambda **said: compare_init(**said, features=128))
    monkeypatch.setattr(init, "cases", lambda: [init.Case(init.MiSS(64), init.miss())])
    for part in ("spectra", "init"):
        options = ["bench", part, "--rounds", "1", "--out", str(tmp_path)]
        result = runner.invoke(app, options)
        assert result.exit_code == 0, result.output
        written = json.loads((tmp_path / f"{part}-cpu.json").read_text())
        assert written["part"] == part
        assert len(written["rows"]) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT reads it
def test_fine_tune_measures_the_same_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fine_tuning, "FEATURES", 24)
    compare = fine_tuning.compare
    monkeypatch.setattr(fine_tuning, "compare", lambda **said: compare(**said, examples=64))
    options = ["bench", "fine-tune", "--seeds", "3", "--rounds", "1", "--out", str(tmp_path)]
    result = runner.invoke(app, options)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "fine-tune-cpu.json").read_text())
    assert written["largest_loss_difference"] < 1e-4
    assert written["ratio_lowest"] <= written["ratio"] <= written["ratio_highest"]


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_there(device: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = runner.invoke(app, ["bench", "spectra", "--device", device])
    assert result.exit_code == 2
    assert f"no device '{device}' here; give cpu or cuda" in result.output
