"""`missviz bench spectra` at small sizes."""

import json
from pathlib import Path

import pytest
import torch

from missviz.bench import spectra


def test_measures_both_sides_and_finds_the_same_numbers(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(spectra, "LLAMA_7B", {"q": (96, 96), "down": (96, 200)})
    result = spectra.compare(rounds=2, sizes=((80, 100), (120, 90)), layers=3)
    written = json.loads(spectra.report(result, tmp_path).read_text())
    assert written == json.loads(json.dumps(result))
    assert {"machine", "threads", "commit", "versions"} <= set(written)
    for row in written["rows"]:
        assert 0 < row["largest_difference"] < 1e-13
        assert row["largest_own_difference"] < 1e-10
        assert row["times_faster_low"] <= row["times_faster"] <= row["times_faster_high"]
    assert written["model"]["modules"] == 6
    assert written["model"]["factor_bytes"] == 3 * 4 * 64 * (96 + 96 + 96 + 200)
    assert written["model"]["largest_difference_to_one_by_one"] < 1e-14
    assert "6 modules of a 7B model" in capsys.readouterr().out


def test_wrong_numbers_would_show(monkeypatch) -> None:
    right = spectra.spectrum

    def smallest_is_off(update: object) -> torch.Tensor:
        values = right(update)
        values[spectra.RANK - 1] *= 1 + 1e-6
        return values

    monkeypatch.setattr(spectra, "spectrum", smallest_is_off)
    (row,) = spectra.compare(rounds=1, sizes=((80, 100),), layers=1)["rows"]
    assert 1e-9 < row["largest_difference"] < 5e-7
    assert 9e-7 < row["largest_own_difference"] < 1.1e-6


def test_milliseconds_are_those_of_one_spectrum(monkeypatch) -> None:
    seconds = {"missviz": [spectra.REPEATS * 0.001], "svdvals": [0.5]}
    monkeypatch.setattr(spectra, "in_turns", lambda *_, **__: seconds)
    (row,) = spectra.compare(rounds=1, sizes=((70, 80),), layers=1)["rows"]
    assert (row["missviz_ms"], row["svdvals_ms"]) == pytest.approx((1, 500))
    assert row["times_faster"] == pytest.approx(500)


def test_the_whole_model_has_the_size_of_a_7b_adapter() -> None:
    one = spectra.drawn((4096, 11008), "down", torch.device("cpu"))
    assert one.factors()[0].dtype == torch.float32
    assert spectra.LAYERS * len(spectra.LLAMA_7B) == 224
