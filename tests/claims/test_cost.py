"""What methods cost: that verdicts turn where they had cost something else.

Times are planted: `in_turns` is told what each side takes, and the sides are made but not run.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from missviz.adapters.lora import LoRA
from missviz.claims import cost
from missviz.claims.claim import FAILS, HOLDS, IN_PART, Evidence, parts_of, verdict_of

CLAIMS = {claim.id: claim for claim in cost.CLAIMS}
Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]
BATS = ("PEFT's Bat", "our Bat, as PEFT's", "our Bat input", "our Bat left")


def verdict(name: str) -> str:
    return verdict_of(CLAIMS[name], parts_of(CLAIMS[name].measure((1, 2, 3), "cpu")))


def small(patch: Patch) -> None:
    """Small layers, so that making them takes no time."""
    patch.setattr(cost, "SIZES", {"cpu": (128, 16, torch.float32)})
    patch.setattr(cost, "START", 128)


def planted(seconds: Mapping[str, float]) -> Mutant:
    """Sides take these seconds (others 1), give or take one part in a hundred."""

    def mutant(patch: Patch) -> None:
        small(patch)
        draw = np.random.default_rng(0)

        def in_turns(sides: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, list[float]]:
            return {
                side: [seconds.get(side, 1.0) * draw.uniform(0.99, 1.01) for _ in range(3)]
                for side in sides
            }

        patch.setattr(cost, "in_turns", in_turns)

    return mutant


def tables_as_counted(patch: Patch) -> None:
    right = cost.cost

    def wrong(methods: Any) -> pd.DataFrame:
        table = right(methods)
        counted = {"published_parameters": "num_parameters"}
        counted["published_flops"] = "extra_forward_flops"
        for column, source in counted.items():
            table[column] = table[source].where(table[column].notna())
        return table[table["extra_forward_flops"] > 0]

    patch.setattr(cost, "cost", wrong)


def nothing_kept(patch: Patch) -> None:
    patch.setattr(cost, "kept", lambda layer, *_: 1000)


def published(effect: float) -> Mutant:
    """What the benchmark's runs of both have as the logarithm of their ratio."""

    def mutant(patch: Patch) -> None:
        made = Evidence(effect, effect - 0.01, effect + 0.01, 9)
        patch.setattr(cost, "published_difference", lambda *_, **__: made)

    return mutant


def together(*mutants: Mutant) -> Mutant:
    def mutant(patch: Patch) -> None:
        for one in mutants:
            one(patch)

    return mutant


def a_context_that_does_nothing(patch: Patch) -> None:
    peft = pytest.importorskip("peft")
    patch.setattr(peft.PeftModel, "disable_adapter", contextlib.nullcontext)


EQUAL = {"LoRA": 1.0, "MiSS": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "found", "mutant", "turned"),
    [
        ("table-2-3-count", small, FAILS, tables_as_counted, HOLDS),
        (
            "cheaper-than-lora",
            together(planted(EQUAL), published(0.0)),
            f"{IN_PART}: bytes kept by a layer",
            together(nothing_kept),
            FAILS,
        ),
        (
            "cheaper-than-lora",
            together(planted(EQUAL), published(0.0)),
            f"{IN_PART}: bytes kept by a layer",
            together(planted({"MiSS": 0.8}), published(-0.2)),
            HOLDS,
        ),
        ("bone-ten-percent", planted(EQUAL), FAILS, planted({"MiSS": 0.9}), HOLDS),
        (
            "bat-twice-as-slow",
            together(planted({}), published(0.0)),
            FAILS,
            together(planted(dict.fromkeys(BATS, 2.0)), published(0.7)),
            HOLDS,
        ),
        ("bat-more-memory", small, HOLDS, together(nothing_kept, published(0.0)), FAILS),
        ("fast-start", planted({"MiSS": 0.1}), HOLDS, planted({}), FAILS),
        ("lora-fa-memory", small, f"{IN_PART}: as made", a_context_that_does_nothing, HOLDS),
    ],
)
def test_verdict_and_mutant(
    name: str, before: Mutant, found: str, mutant: Mutant, turned: str, monkeypatch: Patch
) -> None:
    before(monkeypatch)
    assert verdict(name) == found
    mutant(monkeypatch)
    assert verdict(name) == turned


def test_every_claim_of_the_file_has_a_mutant() -> None:
    (mark,) = [m for m in test_verdict_and_mutant.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cheaper-than-lora", "bone-ten-percent", "bat-twice-as-slow", "fast-start"]
)
def test_what_is_timed_gives_finite_evidence(name: str, monkeypatch: Patch) -> None:
    small(monkeypatch)
    for part in parts_of(CLAIMS[name].measure((1, 2), "cpu")).values():
        assert np.isfinite([part.effect, part.low, part.high]).all()
        assert part.low <= part.effect <= part.high


def test_both_sides_train_as_many_numbers() -> None:
    numbers = {one.num_parameters(2048, 2048) for one in cost.EQUAL.values()}
    assert len(numbers) == 1


def test_a_layer_keeps_the_inputs_of_lora_and_the_sums_of_miss() -> None:
    """In float32: x (256 × 1024) and A x (256 × 32) against S (256 × 64)."""
    lora, miss = (cost.kept(one.on(cost.a_layer(1024))) for one in cost.EQUAL.values())
    assert miss == 4 * 256 * 64
    assert lora == 4 * 256 * (1024 + 32)


def test_without_peft_one_sentence_says_so(monkeypatch: Patch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"about PEFT itself, .*missviz\[peft\]"):
        cost.required_peft()


def test_a_step_of_more_work_takes_longer(monkeypatch: Patch) -> None:
    """LoRA of full rank beside one of rank 1."""
    monkeypatch.setattr(cost, "SIZES", {"cpu": (256, 256, torch.float32)})
    times = cost.step_seconds({"small": LoRA(1), "large": LoRA(256)}, (1, 2, 3), "cpu")
    assert np.median(times["large"] / times["small"]) > 1.2
