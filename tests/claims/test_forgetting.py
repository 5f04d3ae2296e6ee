"""Forgetting on the toy, and a planted one."""

from dataclasses import replace
from typing import Any

import pytest

from missviz.adapters.lora import LoRA
from missviz.claims import forgetting, judge
from missviz.claims.claim import FAILS, HOLDS

pytestmark = pytest.mark.slow
(CLAIM,) = forgetting.CLAIMS
SEEDS = (5, 6, 7)


@pytest.fixture
def two_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("periodic", "dense")
    monkeypatch.setattr(forgetting, "TARGETS", {n: forgetting.TARGETS[n] for n in names})
    monkeypatch.setattr(forgetting, "PROTOCOL", replace(forgetting.PROTOCOL, steps=40))
    right = forgetting.no_free_lunch

    def shorter(*given: Any, **options: Any) -> Any:
        return right(*given, **options, steps=40, tuning_seeds=1)

    monkeypatch.setattr(forgetting, "no_free_lunch", shorter)


@pytest.mark.usefixtures("two_targets")
def test_a_method_forgets_as_much_as_itself_and_more_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forgetting, "CONTESTANTS", (LoRA(2), LoRA(2, alpha=2.0000001)))
    assert judge(CLAIM, SEEDS, "cpu").verdict == FAILS
    right = forgetting.forgotten

    def planted(method: Any, *given: Any) -> Any:
        rise, left = right(method, *given)
        return rise + (0.2 if method.alpha else 0), left

    monkeypatch.setattr(forgetting, "forgotten", planted)
    assert judge(CLAIM, SEEDS, "cpu").verdict == HOLDS


@pytest.mark.usefixtures("two_targets")
def test_nothing_is_forgotten_before_anything_is_learnt() -> None:
    rise, left = forgetting.forgotten(LoRA(2), 1e-12, "dense", SEEDS, "cpu")
    assert abs(rise).max() < 1e-6
    assert left == pytest.approx(1, abs=1e-6)
    learnt, _ = forgetting.forgotten(LoRA(2), 1e-2, "dense", SEEDS, "cpu")
    assert learnt.min() > 1e-3
