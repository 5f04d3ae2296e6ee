"""`missviz bench spectra` at small sizes."""

import json
from pathlib import Path

import pytest
import torch
from methods_under_test import VARIANTS

import missviz as mv
from missviz.bench import spectra
from missviz.testing import bound, random_linear


@pytest.mark.slow
def test_measures_both_sides_and_finds_the_same_numbers(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(spectra, "LLAMA_7B", {"q": (96, 96), "down": (96, 200)})
    methods = (mv.LoRA(64), mv.MiSS(64))
    sizes = ((80, 100), (120, 90))
    result = spectra.compare(rounds=2, sizes=sizes, layers=3, methods=methods)
    written = json.loads(spectra.report(result, tmp_path).read_text())
    assert written == json.loads(json.dumps(result))
    assert {"machine", "threads", "commit", "versions"} <= set(written)
    for row in written["rows"]:
        assert 0 < row["largest_difference"] < 1e-13
        assert row["largest_own_difference"] < 1e-10
        assert row["times_faster_low"] <= row["times_faster"] <= row["times_faster_high"]
    for row, method in zip(written["methods"], methods, strict=True):
        assert (row["method"], row["rank_of_factors"]) == (method.name, 64)
        assert (row["out_features"], row["in_features"]) == sizes[-1]
        assert row["to_bare_low"] <= row["to_bare"] <= row["to_bare_high"]
        assert row["largest_difference"] < 1e-13
    assert written["model"]["modules"] == 6
    for call in ("spectra", "inspect_adapter"):
        row = written["model"][call]
        assert row["seconds_lowest"] <= row["seconds"] <= row["seconds_highest"]
    assert written["model"]["factor_bytes"] == 3 * 4 * 64 * (96 + 96 + 96 + 200)
    assert written["model"]["largest_difference_to_one_by_one"] < 1e-14
    said = capsys.readouterr().out
    assert "6 modules of a 7B model" in said
    assert "mv.inspect_adapter(model)" in said


def test_wrong_numbers_would_show(monkeypatch) -> None:
    right = mv.spectrum

    def smallest_is_off(update: object) -> torch.Tensor:
        values = right(update)
        values[spectra.RANK - 1] *= 1 + 1e-6
        return values

    monkeypatch.setattr(mv, "spectrum", smallest_is_off)
    monkeypatch.setattr(spectra, "_whole_model", lambda *_: {})
    (row,) = spectra.compare(rounds=1, sizes=((80, 100),), layers=1, methods=())["rows"]
    assert 1e-9 < row["largest_difference"] < 5e-7
    assert 9e-7 < row["largest_own_difference"] < 1.1e-6


def test_milliseconds_are_those_of_one_spectrum(monkeypatch) -> None:
    seconds = {"missviz": [spectra.REPEATS * 0.001], "svdvals": [0.5]}
    monkeypatch.setattr(spectra, "in_turns", lambda *_, **__: seconds)
    monkeypatch.setattr(spectra, "_whole_model", lambda *_: {})
    (row,) = spectra.compare(rounds=1, sizes=((70, 80),), layers=1, methods=())["rows"]
    assert (row["missviz_ms"], row["svdvals_ms"]) == pytest.approx((1, 500))
    assert row["times_faster"] == pytest.approx(500)


def test_the_whole_model_has_the_size_of_a_7b_adapter() -> None:
    assert spectra.LAYERS * len(spectra.LLAMA_7B) == 224
    assert spectra.LLAMA_7B["mlp.down_proj"] == (4096, 11008)


def test_every_kind_that_has_factors_is_measured() -> None:
    """On a layer where each of them is thin; started products and started LoRAs are one kind."""
    linear = random_linear(128, 128, torch.float32)
    thin = {
        type(bound(method, linear)).factors.__qualname__
        for method in VARIANTS
        if bound(method, linear).factors() is not None
    }
    measured = {type(bound(method, linear)).factors.__qualname__ for method in spectra.THIN}
    # MoRA's square M is thin in name only: r̂ = 724 at rank 64.
    assert thin - measured == {"SumMoRAAdapter.factors"}
