"""What texts say of claims comes from the ledger, and from nowhere else."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import missviz as mv
from missviz.claims.claim import FAILS, HOLDS, VERDICTS, Evidence, Order, kind_of
from missviz.claims.ledger import HOURS, KEPT, claims, kept
from missviz.claims.showing import words

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.py"))
NAMED = re.compile(r"claims\.(?:show|verdicts|table)\(([^)]*)\)")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ledger_tool", ROOT / "tools" / "ledger.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readmes_tables_are_the_ledgers(tool: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tool.MARKED.search(text), "there is such a table"
    assert tool.rendered(text) == text, "run `make ledger`"
    planted = text.replace(f"**{VERDICTS[1]}**", f"**{VERDICTS[0]}**", 1)
    assert planted != text
    assert tool.rendered(planted) == text


@pytest.mark.parametrize("path", [ROOT / "README.md", *LESSONS], ids=lambda path: path.stem)
def test_no_verdict_is_typed_by_hand(path: Path, tool: ModuleType) -> None:
    text = tool.MARKED.sub("", path.read_text(encoding="utf-8"))
    joined = " ".join(text.replace("\n#", "\n").split())
    typed = [verdict for verdict in VERDICTS if verdict != "undecided" and verdict in joined]
    assert not typed, "write mv.claims.verdicts(…), or a table between marks"


@pytest.mark.parametrize("path", [ROOT / "README.md", *LESSONS], ids=lambda path: path.stem)
def test_claims_that_a_text_names_are_there(path: Path) -> None:
    for arguments in NAMED.findall(path.read_text(encoding="utf-8")):
        for name in re.findall(r'"([^"]+)"', arguments):
            assert name in claims(), name


def test_lessons_end_with_the_ledger() -> None:
    for name in ("05_no_free_lunch", "08_cost_and_pareto"):
        text = (ROOT / "notebooks" / f"{name}.py").read_text(encoding="utf-8")
        assert "mv.claims.verdicts(" in text[text.index("# ## What holds") :]


def test_the_ledger_is_full() -> None:
    """At least 40 judged rows, at most 6 that cannot be; every verdict follows from its evidence."""
    judged = kept()
    measured = [one for one in judged.values() if one.parts]
    assert len(measured) >= 40
    assert sum(one.claim.measure is None for one in judged.values()) <= 6
    assert sum(one.claim.seconds <= 20 for one in measured) >= 25
    missing = [name for name, one in judged.items() if one.claim.seconds < HOURS and not one.parts]
    assert not missing, "run `missviz claims run --stale --seconds 1800`"
    written = json.loads(KEPT.read_text(encoding="utf-8"))
    for name, one in judged.items():
        assert kind_of(one.verdict) in (*VERDICTS, "not measured")
        if one.parts:
            assert written[name]["verdict"] == one.verdict, name


def test_every_claim_is_whole_and_says_it_in_a_sentence() -> None:
    for claim in claims().values():
        for text in (claim.claim, claim.said, claim.test, claim.unit, claim.because):
            assert text
        assert claim.claim[0].isupper()
        assert claim.claim.endswith(".")
        assert claim.seconds > 0


def test_other_seeds_never_say_the_opposite() -> None:
    """Of no place; where a verdict is another all the same, the ledger says so."""
    tried = {name: one for name, one in kept().items() if "again" in one.made}
    assert len(tried) >= 35
    apart = []
    for name, one in tried.items():
        again = one.made["again"]
        for place, ends in again["parts"].items():
            if isinstance(one.claim.rule, Order):
                continue  # its steps are not among what is noted of other seeds
            other = one.claim.rule.verdict(Evidence(*ends, n=one.parts[place].n))
            assert {other, one.claim.rule.verdict(one.parts[place])} != {HOLDS, FAILS}, name
        if again["verdict"] != one.verdict:
            apart.append(name)
            assert f"Other seeds, {again['date']}: {again['verdict']}." in words(one)
    assert len(apart) <= 6


def test_the_panel_shows_any_claim() -> None:
    panel = mv.claims.show("one-layout")
    assert panel.values == {"claim": "one-layout"}
    assert claims()["one-layout"].claim in panel.summary
    panel.set(claim="low-rank")
    assert claims()["low-rank"].claim in panel.summary
    with pytest.raises(ValueError, match="id='huge' is unknown"):
        mv.claims.show("huge")
