"""Published figures: that verdicts turn where other figures had been published."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from missviz import published
from missviz.claims import published_figures as figures
from missviz.claims.claim import FAILS, HOLDS, IN_PART, UNDECIDED, parts_of, verdict_of

CLAIMS = {claim.id: claim for claim in figures.CLAIMS}
Patch = pytest.MonkeyPatch
Doctored = Callable[[pd.DataFrame], pd.DataFrame]


def verdict(name: str) -> str:
    return verdict_of(CLAIMS[name], parts_of(CLAIMS[name].measure((1, 2), "cpu")))


def doctor(table: str, change: Doctored) -> Callable[[Patch], None]:
    """Publish something else in one table."""

    def mutant(patch: Patch) -> None:
        patch.setattr(
            figures,
            "published_table",
            lambda name: change(published.table(name)) if name == table else published.table(name),
        )

    return mutant


def averages_that_add_up(table: pd.DataFrame) -> pd.DataFrame:
    keys = ["source", "model", "method", "group"]
    table = table.fillna({"group": ""})
    means = table[table["task"] != "average"].groupby(keys)["value"].mean().round(2)
    printed = table["task"] == "average"
    table.loc[printed, "value"] = [
        means[tuple(row)] for row in table.loc[printed, keys].to_numpy().tolist()
    ]
    return table


def smallest_of_all(table: pd.DataFrame) -> pd.DataFrame:
    mine = table["experiment"] == "miss-default"
    table.loc[mine, ["file_bytes", "num_parameters"]] = 1
    return table


def better_miss(by: float) -> Doctored:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        mine = table["experiment"].isin(["miss-default", "bone-default"])
        return table.assign(accuracy=table["accuracy"] + by * mine)

    return change


def miss_forgets_little(table: pd.DataFrame) -> pd.DataFrame:
    mine = table["experiment"].isin(["miss-default", "bone-default"])
    return table.assign(forgetting=table["forgetting"] / (1 + 9 * mine))


def same_order(table: pd.DataFrame) -> pd.DataFrame:
    best = figures.latest().groupby("family")["accuracy"].max()
    return table.assign(similarity=table["family"].map(best))


def faster_july(table: pd.DataFrame) -> pd.DataFrame:
    now = table["date"].str.startswith("2026-07")
    return table.assign(train_seconds=table["train_seconds"] * np.where(now, 0.6, 1.0))


@pytest.mark.parametrize(
    ("name", "found", "mutant", "turned"),
    [
        ("tables-add-up", FAILS, doctor("miss_tables", averages_that_add_up), HOLDS),
        (
            "on-the-front",
            f"{IN_PART}: memory; training time",
            doctor("peft_benchmark", smallest_of_all),
            HOLDS,
        ),
        ("more-accurate-than-lora", UNDECIDED, doctor("peft_history", better_miss(0.02)), HOLDS),
        ("more-accurate-than-lora", UNDECIDED, doctor("peft_history", better_miss(-0.03)), FAILS),
        (
            "forgets-more-published",
            f"{IN_PART}: published, July 2026",
            doctor("peft_history", miss_forgets_little),
            FAILS,
        ),
        ("carries-over", UNDECIDED, doctor("peft_image_gen", same_order), HOLDS),
        ("benchmark-got-faster", FAILS, doctor("peft_history", faster_july), HOLDS),
    ],
)
@pytest.mark.slow
def test_verdict_and_mutant(
    name: str, found: str, mutant: Callable[[Patch], None], turned: str, monkeypatch: Patch
) -> None:
    assert verdict(name) == found
    mutant(monkeypatch)
    assert verdict(name) == turned


def test_every_claim_of_the_file_has_a_mutant() -> None:
    (mark,) = [m for m in test_verdict_and_mutant.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(CLAIMS)


def test_published_bat_follows_what_was_published(monkeypatch: Patch) -> None:
    ahead = figures.bat_beats_miss_published()
    assert 0 < ahead.low < ahead.effect < ahead.high
    assert ahead.n == 12
    doctor("peft_history", better_miss(0.01))(monkeypatch)
    assert figures.bat_beats_miss_published().effect == pytest.approx(ahead.effect - 1)


def test_a_difference_is_weighted_by_how_often_both_ran(monkeypatch: Patch) -> None:
    """Two runs against one, and one against one: the variances are 1/2 + 1 and 2."""
    rows = [("a", 1, 0.5), ("a", 1, 0.5), ("b", 1, 0.4), ("a", 7, 0.6), ("b", 7, 0.3)]
    table = pd.DataFrame(
        {
            "experiment": [row[0] for row in rows],
            "month": [f"2026-0{row[1]}" for row in rows],
            "accuracy": [row[2] for row in rows],
        }
    )
    monkeypatch.setattr(figures, "runs", lambda: table)
    monkeypatch.setattr(figures, "noise", lambda column, share: np.array([-0.01, 0.01, 0.0]))
    found = figures.published_difference("a", "b")
    assert found.effect == pytest.approx((10 / 1.5 + 30 / 2) / (1 / 1.5 + 1 / 2))
    deviation = 100 * (2e-4 / 3) ** 0.5
    half = 4.302653 * deviation / (1 / 1.5 + 1 / 2) ** 0.5
    assert found.high - found.effect == pytest.approx(half, rel=1e-6)


def test_noise_is_of_one_run() -> None:
    """From pairs whose difference has twice the variance of a run."""
    found = figures.noise("accuracy", share=False)
    differences = figures.changes("accuracy", "2026-01", "2026-07", share=False)
    learnt = figures.runs().groupby("experiment")["accuracy"].min() > figures.LEAST
    spread = differences[learnt[differences.index]].std()
    assert np.sqrt((found**2).mean()) == pytest.approx(spread / 2**0.5)


def test_memory_of_lora_fa_is_no_noise() -> None:
    found = figures.noise("memory_bytes", share=True)
    assert np.abs(found).max() < 0.02


def test_chance_without_noise_is_the_front() -> None:
    accuracies, costs = np.array([0.3, 0.5, 0.4]), np.array([1.0, 2.0, 3.0])
    none = np.zeros(1), np.zeros(1)
    found = [figures._chance(accuracies, costs, none, place, None) for place in range(3)]
    assert found == [1, 1, 0]


def test_chance_of_two_is_the_normal_law() -> None:
    """The dearer one has to be better: Φ(gap / √2 σ)."""
    from scipy.stats import norm

    errors = np.array([0.01, -0.01]), np.zeros(1)
    found = figures._chance(np.array([0.49, 0.5]), np.array([1.0, 2.0]), errors, 1, None)
    assert found == pytest.approx(norm.cdf(1 / 2**0.5), abs=0.03)


def test_history_is_the_benchmark_where_both_have_a_run() -> None:
    now = published.table("peft_benchmark").set_index("experiment")["accuracy"]
    again = figures.latest()["accuracy"].reindex(now.index)
    assert len(now) == 63
    assert not again.isna().any()
    apart = (again - now).abs()
    # One configuration was run twice in July.
    assert (apart > 1e-5).sum() <= 1
