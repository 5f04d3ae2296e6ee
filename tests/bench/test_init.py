"""`missviz bench init` on a small layer."""

import json
from pathlib import Path

import pytest

from missviz.bench import init

ALIKE = {"PiSSA r=64", "OLoRA r=64", "DoRA r=64", "MiSS r=64", "Bat b=64"}
ONLY_OURS = {"LoRA-GA r=64", "MoRA r=64", "S2FT columns r=64", "DiSHA 64×64"}


@pytest.mark.slow
def test_measures_both_sides_and_starts_alike(tmp_path: Path, capsys) -> None:
    result = init.compare(rounds=1, features=128)
    written = json.loads(init.report(result, tmp_path).read_text())
    rows = {row["method"]: row for row in written["rows"]}
    assert {name for name, row in rows.items() if row["largest_difference"] is not None} == ALIKE
    assert all(rows[name]["largest_difference"] < 1e-5 for name in ALIKE)
    assert all(rows[name]["peft_ms"] is None for name in ONLY_OURS)
    for row in rows.values():
        assert row["missviz_ms"] > 0
        if row["peft_ms"] is not None:
            assert row["peft_ms"] > 0
            assert row["to_peft_low"] <= row["to_peft"] <= row["to_peft_high"]
    assert "PiSSA r=64 niter=4" in capsys.readouterr().out


@pytest.mark.slow
def test_another_start_would_show(monkeypatch) -> None:
    wrong = init.Case(
        init.PiSSA(64, alpha=8),
        init.lora(init_lora_weights="olora"),
        init.product,
        init.peft_product,
    )
    monkeypatch.setattr(init, "cases", lambda: [wrong])
    assert init.compare(rounds=1, features=128)["rows"][0]["largest_difference"] > 0.01
