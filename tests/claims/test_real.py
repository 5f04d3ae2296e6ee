"""What is read off runs on MiniLM, tried on made-up runs: an effect planted in them turns verdicts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from missviz.claims import judge, real
from missviz.claims.claim import FAILS, HOLDS
from missviz.claims.real import BAT, FULL, LORA, MISS, PISSA
from missviz.experiments.runs import Runs
from missviz.networks.tasks import TRANSFER
from missviz.real_network.parts import PARTS

CLAIMS = {claim.id: claim for claim in real.CLAIMS}
SEEDS = range(43, 53)
Planted = Mapping[tuple[str, str], float]
"""By method and split ("rate" and "valid loss" too): what is added, or for rates a factor."""


def made_up(part: str, planted: Planted) -> Runs:
    """Runs of a part in which all methods are as accurate, but for what is planted."""
    noise = np.random.default_rng(0)
    rows, tuning = [], []
    names = [method.name for method in PARTS[part].methods]
    for method in names:
        rate = 1e-2 * (0.1 if method == FULL else 1.0) * planted.get((method, "rate"), 1.0)
        tuning.append((part, method, rate, 0.5, True, False, 1.0))
        for seed in SEEDS:
            shared = 0.01 * np.sin(seed)  # seeds differ, methods on a seed hardly
            for split in ("test", *TRANSFER, "topics"):
                own = planted.get((method, split), 0.0) + 1e-4 * noise.normal()
                rows.append((part, method, rate, seed, 100, split, 0.5, 0.8 + shared + own))
            for step in (0, 50, 100, 200):
                loss = 0.5 + planted.get((method, "valid loss"), 0.0) + shared
                rows.append((part, method, rate, seed, step, "valid", loss, 0.8))
    losses = pd.DataFrame(
        rows,
        columns=["target", "method", "learning_rate", "seed", "step", "split", "loss", "accuracy"],
    )
    columns = ["target", "method", "learning_rate", "score", "chosen", "on_edge", "seconds"]
    floor = [(part, seed, "unadapted", "topics", 0.5, 0.9) for seed in SEEDS]
    baselines = pd.DataFrame(
        floor, columns=["target", "seed", "baseline", "split", "loss", "accuracy"]
    )
    settings: dict[str, Any] = {
        "methods": dict.fromkeys(names),
        "seeds": list(SEEDS),
        "made": {"seconds": 1, "tuning_seconds": 1, "commit": "abc", "code": "old"},
    }
    return Runs(losses, baselines, settings, pd.DataFrame(tuning, columns=columns))


def verdict(name: str, planted: Planted, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(real, "stored_parts", lambda: list(PARTS))
    patch.setattr(real, "stored", lambda part: made_up(part, planted))
    return judge(CLAIMS[name], device="cpu").verdict


BETTER = 0.03
"""Three points of accuracy."""


@pytest.mark.parametrize(
    ("name", "before", "planted", "after"),
    [
        ("glue-like", FAILS, {(MISS, "test"): BETTER}, HOLDS),
        ("tuned-are-equal", HOLDS, {(PISSA, "test"): BETTER}, FAILS),
        ("transfers", FAILS, {(MISS, split): BETTER for split in TRANSFER}, HOLDS),
        ("forgets-more-minilm", FAILS, {(LORA, "topics"): BETTER}, HOLDS),
        (
            "attention-or-mlp",
            FAILS,
            {(method.name, "test"): BETTER for method in PARTS["mlp"].methods},
            HOLDS,
        ),
        ("same-rate-ten-times", HOLDS, {(LORA, "rate"): 0.03}, FAILS),
        ("pissa-faster-minilm", FAILS, {(PISSA, "valid loss"): -0.1}, HOLDS),
        ("bat-beats-miss-minilm", FAILS, {(BAT, "test"): BETTER}, HOLDS),
        (
            "rank-helps-minilm",
            FAILS,
            {(method.name, "test"): BETTER for method in PARTS["ranks"].methods[-2:]},
            HOLDS,
        ),
    ],
)
def test_verdict_and_mutant(
    name: str, before: str, planted: Planted, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict(name, {}, monkeypatch) == before
    assert verdict(name, planted, monkeypatch) == after


def test_every_claim_of_the_file_has_a_mutant() -> None:
    (mark,) = [m for m in test_verdict_and_mutant.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(CLAIMS)


def test_what_ships_says_when_and_by_which_code_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdict("glue-like", {}, monkeypatch)
    judged = judge(CLAIMS["glue-like"], device="cpu")
    assert judged.made["seconds"] == 4, "two parts, with their tuning"
    assert judged.is_stale
    assert set(judged.parts) == {
        f"{task}, against {other}" for task in real.CONTESTS for other in (LORA, PISSA)
    }


def test_where_nothing_ships_other_claims_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "stored_parts", lambda: [])
    for claim in real.CLAIMS:
        assert claim.stored is not None
        assert claim.stored() is None
    assert replace(CLAIMS["glue-like"], seeds=3).seeds == 3
