"""Evidence is kept, judged, goes stale with the code, and is shown."""

import doctest
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import missviz as mv
from missviz import provenance
from missviz.claims import Claim, Evidence, Larger, ledger, showing
from missviz.claims.claim import FAILS, HOLDS, NOT_TESTABLE
from missviz.cli import app

CALLS: list[Sequence[int]] = []


def measure(seeds: Sequence[int], device: str) -> Evidence:
    CALLS.append(seeds)
    return Evidence.of([float(seed) for seed in seeds], first=seeds[0])


SMALL = Claim(
    "small", "Seeds are large.", "nobody", "their mean", "seeds", Larger(40), "made up", 1, measure
)
LONG = replace(SMALL, id="long", seconds=3600)
LACKING = replace(SMALL, id="lacking", measure=None, lacking="a longer life")


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    found = {claim.id: claim for claim in (SMALL, LONG, LACKING)}
    monkeypatch.setattr(ledger, "claims", lambda: found)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "evidence.json"
    monkeypatch.setattr(ledger, "KEPT", place)
    return place


def test_what_is_measured_is_kept_with_what_it_depends_on(path: Path) -> None:
    assert ledger.run(path=path, most_seconds=60, device="cpu", say=lambda line: None) == ["small"]
    assert [list(seeds) for seeds in CALLS] == [list(range(43, 53))]
    told = json.loads(path.read_text())
    assert list(told) == ["small"]
    assert told["small"]["verdict"] == HOLDS
    assert {"seeds", "seconds", "date", "commit", "machine", "versions", "code"} <= set(
        told["small"]
    )
    back = ledger.kept(path)
    assert back["small"].verdict == HOLDS
    assert back["small"].parts[""].effect == pytest.approx(47.5)
    assert back["long"].verdict == "not measured"
    assert back["lacking"].verdict == NOT_TESTABLE


def test_a_changed_verdict_is_said_and_a_check_keeps_nothing(path: Path) -> None:
    said: list[str] = []
    ledger.run(["small"], path=path, device="cpu", say=said.append)
    before = path.read_text()
    changed = ledger.run(
        ["small"], first_seed=10, path=path, keeping=False, device="cpu", say=said.append
    )
    assert changed == ["small"]
    assert [list(seeds) for seeds in CALLS[1:]] == [list(range(10, 20))] * 3, "looked at thrice"
    assert f"{FAILS} (was: {HOLDS})" in said[-1]
    assert path.read_text() == before


def test_a_disturbed_measurement_is_looked_at_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"small": replace(SMALL, measure=lambda seeds, device: Evidence.of(next(values)))}
    monkeypatch.setattr(ledger, "claims", lambda: found)
    values = iter([[50.0, 51.0], [0.0, 1.0], [50.0, 51.0]])
    ledger.run(path=path, device="cpu", say=lambda line: None)
    said: list[str] = []
    assert ledger.run(path=path, keeping=False, device="cpu", say=said.append) == []
    assert HOLDS in said[0]
    assert "was" not in said[0]


def test_what_other_seeds_say_stands_beside_the_evidence(path: Path) -> None:
    ledger.run(["small"], path=path, device="cpu", say=lambda line: None)
    ledger.run(first_seed=10, path=path, device="cpu", say=lambda line: None)
    assert len(CALLS) == 2, "what was never measured has no second time"
    kept = ledger.kept(path)["small"]
    assert kept.verdict == HOLDS
    assert kept.made["again"]["verdict"] == FAILS
    assert kept.made["again"]["seeds"] == list(range(10, 20))
    assert kept.made["again"]["parts"][""][0] == pytest.approx(14.5)


def test_claims_of_minutes_are_overdue_after_a_change(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.overdue(path) == ["small"]
    ledger.run(["small", "long"], path=path, device="cpu", say=lambda line: None)
    assert ledger.overdue(path) == []
    monkeypatch.setattr(ledger, "code_now", lambda claim: "another")
    assert ledger.overdue(path) == ["small"]
    options = ["run", "--check", "--device", "cpu", "--evidence", str(path)]
    checked = CliRunner().invoke(app, ["claims", *options])
    assert checked.exit_code == 1
    assert "Overdue after a change: small" in checked.output


def test_only_what_is_stale_is_measured_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "code_now", lambda claim: "one")
    ledger.run(["small", "long"], path=path, device="cpu", say=lambda line: None)
    assert len(CALLS) == 2
    ledger.run(path=path, stale_only=True, device="cpu", say=lambda line: None)
    assert len(CALLS) == 2
    monkeypatch.setattr(ledger, "code_now", lambda claim: "another")
    assert ledger.kept(path)["small"].is_stale
    assert ledger.table(path=path).set_index("id").loc["small", "stale"]
    ledger.run(path=path, stale_only=True, device="cpu", say=lambda line: None)
    assert len(CALLS) == 4


def test_runs_that_ship_are_read_and_other_seeds_are_run() -> None:
    made = {"seconds": 7200, "date": "then", "commit": "abc", "machine": "m", "code": "old"}
    claim = replace(SMALL, stored=lambda: (Evidence.of([1.0, 2.0]), made))
    judged = mv.claims.judge(claim, device="cpu")
    assert not CALLS
    assert (judged.verdict, judged.made) == (FAILS, made)
    assert judged.is_stale
    assert mv.claims.judge(claim, seeds=[90, 91], device="cpu").verdict == HOLDS
    nothing = replace(SMALL, stored=lambda: None)
    assert mv.claims.judge(nothing, device="cpu").verdict == HOLDS


def test_what_is_no_claim_is_refused() -> None:
    with pytest.raises(TypeError, match=r"is not a missviz\.claims\.Claim"):
        mv.claims.judge("low-rank")
    with pytest.raises(ValueError, match="claim='large' is unknown"):
        ledger.run(["large"])


@pytest.mark.parametrize(
    ("measured", "error", "message"),
    [
        (1.0, TypeError, "its measure gave float"),
        ({}, ValueError, "its measure gave no evidence"),
        ({"toy": 1.0}, TypeError, "'toy' is float"),
        (Evidence(1, 2, 0, 3), ValueError, "an interval from 2 to 0"),
        (Evidence(1, 0, 2, 0), ValueError, "n=0"),
    ],
)
def test_what_is_no_evidence_is_refused(
    measured: object, error: type[Exception], message: str
) -> None:
    claim = replace(SMALL, measure=lambda seeds, device: measured)
    with pytest.raises(error, match=message):
        mv.claims.judge(claim, device="cpu")


def test_table_has_a_row_for_each_place(path: Path) -> None:
    ledger.run(["small"], path=path, device="cpu", say=lambda line: None)
    table = ledger.table(path=path)
    assert list(table["id"]) == ["small", "long", "lacking"]
    row = table.iloc[0]
    assert (row["verdict"], row["n"], row["redo"]) == (HOLDS, 10, "missviz claims run small")
    assert table.iloc[2]["redo"] == ""


def test_words_and_picture_say_the_same(path: Path) -> None:
    ledger.run(["small"], path=path, device="cpu", say=lambda line: None)
    judged = ledger.kept(path)["small"]
    said = showing.words(judged)
    assert said.splitlines()[0] == f"small: {HOLDS}"
    assert "47.5 [45.33, 49.67], n = 10" in said
    assert "first: 43" in said
    drawn = showing.display(judged).plot()
    (bar,) = drawn.points_[""].lines[2]
    assert bar.get_segments()[0][:, 0] == pytest.approx([45.334, 49.666], abs=1e-3)
    assert drawn.band_.get_x() == 40
    assert "Takes: a longer life" in showing.words(ledger.kept(path)["lacking"])


def test_verdicts_stand_in_a_notebook(path: Path) -> None:
    ledger.run(["small"], path=path, device="cpu", say=lambda line: None)
    found = mv.claims.verdicts("small", "lacking")
    assert repr(found).splitlines()[0] == f"Seeds are large. {HOLDS}."
    rows = found._repr_markdown_().splitlines()
    assert rows[2] == f"| Seeds are large. | nobody | **{HOLDS}** | 47.5 [45.3, 49.7] seeds |"
    assert rows[3] == f"| Seeds are large. | nobody | **{NOT_TESTABLE}** |  |"
    with pytest.raises(ValueError, match="id='huge' is unknown"):
        mv.claims.verdicts("huge")
    with pytest.raises(ValueError, match="name at least one"):
        mv.claims.verdicts()


def test_the_command(path: Path, tmp_path: Path) -> None:
    def call(*words: str) -> str:
        found = CliRunner().invoke(app, ["claims", *words])
        assert found.exit_code == 0, found.output
        return found.output

    assert "not measured" in call()
    assert HOLDS in call("run", "small", "--device", "cpu", "--evidence", str(path))
    page = tmp_path / "page.html"
    assert "3 claims; " in call("--html", str(page))
    text = page.read_text()
    assert text.count("<img alt=") == 3
    assert not re.search(r"(src|href)=\"(?!data:|#)", text), "nothing is fetched"
    assert "47.5" in call("show", "small")
    refused = CliRunner().invoke(app, ["claims", "show", "huge"])
    assert refused.exit_code == 2
    assert "claim='huge' is unknown" in refused.output
    options = ["--first-seed", "10", "--check", "--evidence", str(path)]
    checked = CliRunner().invoke(app, ["claims", "run", "small", "--device", "cpu", *options])
    assert checked.exit_code == 1
    assert "Verdicts that changed: small" in checked.output


# --- Which code evidence depends on -----------------------------------------------------------


def house(root: Path, **files: str) -> Path:
    package = root / "missviz"
    package.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    return package / "a.py"


A = "import missviz.b\n\ndef f():\n    return missviz.b.g()\n"
B = '"""Says."""\n\n\ndef g():\n    """Says."""\n    return 1  # one\n'


@pytest.mark.parametrize(
    ("files", "is_same"),
    [
        ({"b": B.replace("Says", "Tells").replace("# one", "")}, True),
        ({"b": "\n\ndef g(): return 1\n"}, True),
        ({"b": B.replace("return 1", "return 2")}, False),
        ({"c": "x = 2"}, True),
        ({"a": A.replace("missviz.b.g()", "2")}, False),
    ],
)
def test_a_figure_depends_on_what_code_does_where_it_is_imported(
    tmp_path: Path, files: dict[str, str], is_same: bool
) -> None:
    texts = {"a": A, "b": B, "c": "x = 1"}
    before = provenance.code_behind(house(tmp_path / "one", **texts), tmp_path / "one")
    after = provenance.code_behind(house(tmp_path / "two", **texts | files), tmp_path / "two")
    assert (before == after) == is_same


def test_the_hash_reaches_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from missviz.claims import algebra

    root = provenance.PACKAGE
    found = provenance._imported(Path(str(algebra.__file__)), root.parent)
    for needed in (
        "adapters/miss.py",
        "adapters/base.py",
        "randomness.py",
        "published/__init__.py",
    ):
        assert root / needed in found, needed
    assert os.sep.join(("explore", "panel.py")) not in {str(f.relative_to(root)) for f in found}


def test_the_example_runs() -> None:
    (example,) = doctest.DocTestFinder().find(ledger.judge, globs={})
    results = doctest.DocTestRunner(verbose=False).run(example)
    assert results.attempted > 3
    assert results.failed == 0
