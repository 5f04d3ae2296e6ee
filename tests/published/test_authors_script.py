"""The published protocol is the authors' script, method by method: 60 seeds of theirs, 200 of ours."""

import numpy as np
import pandas as pd
import pytest

import missviz as mv
from missviz import published
from missviz.experiments.arguments import default_methods

pytestmark = [pytest.mark.slow, pytest.mark.ledger]
LIMIT = 3.5
"""Standard errors of the difference of the two means."""
SEEDS = 200
REFERENCE = "LoRA r=2"
THEIRS = published.table("authors_script")
METHODS = [
    method for method in default_methods("published") if method.name in set(THEIRS["method"])
]


def ours(methods: list[mv.Method]) -> pd.DataFrame:
    """One row per method and seed: train and valid, at the script's steps."""
    frame = mv.experiments.no_free_lunch(methods, "published", SEEDS).to_frame()
    steps = frame["step"].max()
    at = {"train": steps - 1, "valid": steps}
    rows = frame[frame["step"] == frame["split"].map(at)]
    return rows.pivot(index=["method", "seed"], columns="split", values="loss").reset_index()


def gaps(table: pd.DataFrame, method: str, split: str) -> np.ndarray:
    """Paired differences to LoRA, seed by seed."""
    wide = table.pivot(index="seed", columns="method", values=split)
    return (wide[method] - wide[REFERENCE]).to_numpy()


def standard_errors_apart(one: np.ndarray, another: np.ndarray) -> float:
    spread = one.var(ddof=1) / len(one) + another.var(ddof=1) / len(another)
    return float(abs(one.mean() - another.mean()) / np.sqrt(spread))


def apart(table: pd.DataFrame, method: str, name_there: str | None = None) -> dict[str, float]:
    theirs = THEIRS.rename(columns={"train_before_last_step": "train"})
    return {
        split: standard_errors_apart(
            gaps(table, method, split), gaps(theirs, name_there or method, split)
        )
        for split in ("train", "valid")
    }


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return ours([*METHODS, mv.VeRA(64)])


def test_nothing_of_the_script_is_left_out() -> None:
    assert {method.name for method in METHODS} == set(THEIRS["method"])
    assert THEIRS.groupby("method")["seed"].nunique().eq(60).all()


@pytest.mark.parametrize("method", [m.name for m in METHODS if m.name != REFERENCE])
def test_differences_to_lora_are_the_scripts(method: str, table: pd.DataFrame) -> None:
    found = apart(table, method)
    assert max(found.values()) < LIMIT, found


def test_the_losses_themselves_are_the_scripts(table: pd.DataFrame) -> None:
    theirs = THEIRS.rename(columns={"train_before_last_step": "train"})
    for split in ("train", "valid"):
        columns = [one[one["method"] == REFERENCE][split].to_numpy() for one in (table, theirs)]
        assert standard_errors_apart(*columns) < LIMIT


def test_vera_as_peft_draws_it_is_another_method(table: pd.DataFrame) -> None:
    """The comparison can fail: PEFT's A and B are √6 times as large each."""
    assert apart(table, "VeRA r=64", "VeRA r=64 linear")["train"] > LIMIT
