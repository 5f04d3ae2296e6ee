"""Published figures: what was reported, and where."""

import pandas as pd
import pytest

from missviz import published


def test_every_row_has_a_source_and_a_number() -> None:
    for name in published.tables():
        table = published.table(name)
        assert table["source"].str.len().min() > 10


def test_initial_gradients_as_reported() -> None:
    table = published.table("initial_gradients")
    wanted = {
        "LoRA": [2.20, 3.15, 4.48, 6.31],
        "PiSSA": [9.1, 11.4, 13.9, 16.2],
        "MiSS": [27.1, 26.9, 25.0, 24.3],
    }
    for method, norms in wanted.items():
        rows = table[table["method"] == method]
        assert rows["rank"].tolist() == [32, 64, 128, 256]
        assert rows["norm"].tolist() == norms
        assert set(rows["read_from"]) == {"figure"}
        assert set(rows["uncertainty"]) == {0.1}
    big = table[table["method"] == "BigLoRA"].iloc[0]
    assert (big["rank"], big["norm"], big["read_from"], big["uncertainty"]) == (
        1024,
        12.64,
        "text",
        0,
    )
    flat = table[table["rank"].isna()].set_index("method")["norm"].to_dict()
    assert flat == {"full fine-tuning": 24.9, "frozen fine-tuning": 23.7}


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"name='x' is no published table; choose from .*initial"):
        published.table("x")


@pytest.mark.parametrize("columns", [{"norm": [1.0]}, {"norm": [1.0, 2.0], "source": ["a", None]}])
def test_a_row_without_a_source_is_refused(columns: dict, tmp_path, monkeypatch) -> None:
    pd.DataFrame(columns).to_csv(tmp_path / "rumours.csv", index=False)
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="rumours: every published figure needs a source"):
        published.table("rumours")


def test_benchmark_is_of_one_run_each() -> None:
    table = published.table("peft_benchmark")
    assert len(table) == table["experiment"].nunique() == 63
    rights = table["accuracy"] * 1319
    assert (rights - rights.round()).abs().max() < 1e-3
    assert table["date"].between("2026-07-14", "2026-08-11").all()
    named = table.dropna(subset="method").set_index("method")
    assert named.loc["MiSS r=64", "num_parameters"] == 28 * 64 * (3072 + 1024)
    assert named.loc["LoRA r=32", "num_parameters"] == 28 * 32 * (2 * 3072 + 3072 + 1024)
    assert named.loc["MiSS r=64", "accuracy"] == pytest.approx(0.4867, abs=5e-5)


def test_reruns_are_of_configurations_in_the_benchmark() -> None:
    reruns = published.table("peft_reruns")
    assert set(reruns["experiment"]) <= set(published.table("peft_benchmark")["experiment"])
    assert reruns["accuracy"].between(0, 1).all()
    dated = reruns.dropna(subset="period")
    assert all(
        date.startswith(period) for date, period in zip(dated["date"], dated["period"], strict=True)
    )
    miss = dated[dated["experiment"] == "miss-default"]["accuracy"]
    assert miss.round(4).tolist() == [0.5080, 0.5087, 0.4913, 0.5072]


def test_history_holds_the_benchmark_and_the_earlier_runs() -> None:
    history = published.table("peft_history")
    assert len(history) == 184
    named = history["experiment"].str.replace("bone-", "miss-")
    assert set(published.table("peft_reruns")["experiment"]) <= set(named)
    rights = history["accuracy"] * 1319
    assert (rights - rights.round()).abs().max() < 1e-3
    assert history["date"].between("2025-06-17", "2026-08-11").all()


def test_families_are_in_both_benchmarks() -> None:
    images = published.table("peft_image_gen")
    assert len(images) == 31
    assert images["similarity"].is_monotonic_decreasing
    assert len(set(images["family"]) & set(published.table("peft_history")["family"])) == 27


def test_tables_of_miss_have_one_average_per_row() -> None:
    table = published.table("miss_tables").fillna({"group": ""})
    rows = table.groupby(["source", "model", "method", "group"])["task"]
    assert (rows.apply(lambda tasks: (tasks == "average").sum()) == 1).all()
    assert rows.nunique().eq(rows.size()).all()
    assert table["value"].between(0, 100).all()
    one = table.query("model == 'Llama2-7B' and method == 'MiSS'").set_index("task")["value"]
    assert one["GSM8K"] == 48.16
