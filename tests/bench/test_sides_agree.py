"""The benchmarks that train: both sides must give the same numbers, or their times mean nothing."""

from pathlib import Path

import pytest
import torch

import missviz as mv
from missviz.bench import adapters, no_free_lunch

pytestmark = pytest.mark.slow


def test_no_free_lunch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(no_free_lunch, "LOOP", 2)  # fewer than the ensemble has
    methods = [mv.PiSSA(2), mv.FixedFactor(4, "orthogonal", gain=4.0), mv.MoRA(2)]
    result = no_free_lunch.compare(seeds=3, rounds=1, only=methods)
    assert (result["seeds"], result["loop"]) == (3, 2)
    for row, peer in zip(result["rows"], ["PEFT", "PEFT", "plain loop"], strict=True):
        assert row["peer"] == peer
        assert row["largest_loss_difference"] < 1e-5
        assert row["ratio"] == pytest.approx(row["peer_ms_per_run"] / row["missviz_ms_per_run"])
        assert row["peak_bytes"] == {"missviz": None, "peer": None, "call": None}
        assert row["call_ms_per_run"] > 0
    assert no_free_lunch.report(result, tmp_path).exists()
    assert "3 runs per method (2 in the loop)" in capsys.readouterr().out


def test_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr(adapters, "SETTINGS", {"cpu": (128, 16, torch.float32)})
    result = adapters.compare(rounds=1)
    assert [row["method"] for row in result["rows"]] == [case[0].name for case in adapters.cases()]
    for row in result["rows"]:
        difference = row["largest_difference"]
        assert difference is None or difference < 1e-5
        assert row["kept_bytes"] <= row["peft_kept_bytes"]
    assert adapters.report(result, tmp_path).exists()
    assert "DoRA r=64" in capsys.readouterr().out
