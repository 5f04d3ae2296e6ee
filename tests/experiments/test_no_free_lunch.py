"""What the experiment finds, and the rules by which it is run."""

import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from adapters.test_contract import Tenth
from scipy import stats

import missviz as mv
from missviz.experiments.arguments import ELEMENTWISE
from missviz.experiments.rates import choose_rate
from missviz.experiments.runs import Runs, verdict
from missviz.experiments.tasks import TARGET_SIZE, TARGETS, TwoLayerNet
from missviz.randomness import generator_for

nfl = sys.modules[
    "missviz.experiments.no_free_lunch"
]  # the module; its name is also the function's

SMALL = [mv.LoRA(2), mv.PiSSA(2), mv.MiSS(4), mv.FixedFactor(4, "orthogonal", gain=4.0)]
CONTROL = "fixed orthogonal r=4 gain=4"


def student_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean, as scipy has it."""
    return stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))


@pytest.fixture(scope="module")
def published() -> Runs:
    return mv.experiments.no_free_lunch(SMALL, "published", seeds=range(43, 53))


@pytest.fixture(scope="module")
def teacher() -> Runs:
    methods = [mv.LoRA(2), mv.MiSS(4), mv.FixedFactor(4, "columns")]
    return mv.experiments.no_free_lunch(methods, "teacher", seeds=range(43, 53))


def per_seed(runs: Runs, method: str, metric: str) -> np.ndarray:
    frame = runs.to_frame()
    frame = frame[frame["method"] == method]
    if metric == "final train":
        rows = frame[(frame["split"] == "train") & (frame["step"] == frame["step"].max())]
        return rows.sort_values("seed")["loss"].to_numpy()
    return frame[frame["split"] == "valid"].groupby("seed")["loss"].min().to_numpy()


# --- (c) the published protocol -----------------------------------------------------------------


@pytest.mark.slow
def test_miss_has_the_lower_training_loss_on_every_seed(published: Runs) -> None:
    for rival in ("LoRA r=2", "PiSSA r=2"):
        gap = per_seed(published, "MiSS r=4", "final train") - per_seed(
            published, rival, "final train"
        )
        assert (gap < -0.01).all()


def test_miss_has_the_higher_validation_loss_on_every_seed(published: Runs) -> None:
    for rival in ("LoRA r=2", "PiSSA r=2"):
        gap = per_seed(published, "MiSS r=4", "min valid") - per_seed(published, rival, "min valid")
        assert (gap > 0).all()


def test_a_constant_beats_them_all(published: Runs) -> None:
    floor = published.baselines
    floor = floor[(floor["baseline"] == "constant") & (floor["split"] == "valid")]
    for method in SMALL:
        assert (
            per_seed(published, method.name, "min valid") > floor.sort_values("seed")["loss"]
        ).all()


def test_miss_is_its_orthogonal_control(published: Runs) -> None:
    for metric in ("final train", "min valid"):
        gap = per_seed(published, "MiSS r=4", metric) - per_seed(published, CONTROL, metric)
        low, high = student_interval(gap)
        assert -0.004 < low < high < 0.004


def test_published_counts(published: Runs) -> None:
    frame = published.to_frame().drop_duplicates("method").set_index("method")
    assert (frame["num_parameters"] == 256 + 4160).all()
    assert (frame["adapter_parameters"] == 256).all()
    full = mv.experiments.no_free_lunch([mv.FullFineTuning(bias=True)], seeds=2, steps=1)
    assert (full.to_frame()["num_parameters"] == 8320).all()


def test_with_alpha_16_lora_catches_up(published: Runs) -> None:
    scaled = mv.experiments.no_free_lunch([mv.LoRA(2, alpha=16)], seeds=range(43, 53))
    gap = per_seed(scaled, "LoRA r=2 α=16", "final train") - per_seed(
        published, "MiSS r=4", "final train"
    )
    assert student_interval(gap)[1] < 0


# --- (d) the teacher protocol -------------------------------------------------------------------


def on_test(runs: Runs, target: str) -> pd.DataFrame:
    summary = runs.summary()
    rows = summary[(summary["target"] == target) & (summary["metric"] == "test")]
    return rows.set_index("method")


@pytest.mark.slow
def test_lora_recovers_a_low_rank_target_and_miss_does_not(teacher: Runs) -> None:
    rows = on_test(teacher, "low rank")
    assert rows.loc["LoRA r=2", "high"] < 0.01 * rows.loc["unadapted", "mean"]
    assert rows.loc["MiSS r=4", "low"] > 0.5 * rows.loc["unadapted", "mean"]


@pytest.mark.slow
def test_miss_recovers_a_periodic_target_and_lora_does_not(teacher: Runs) -> None:
    rows = on_test(teacher, "periodic")
    assert rows.loc["MiSS r=4", "high"] < 0.01 * rows.loc["unadapted", "mean"]
    assert rows.loc["LoRA r=2", "low"] > 0.2 * rows.loc["unadapted", "mean"]


@pytest.mark.slow
def test_columns_win_on_their_own_columns(teacher: Runs) -> None:
    rows = on_test(teacher, "columns")
    assert rows.loc["fixed columns r=4", "high"] < 0.01 * rows.loc["unadapted", "mean"]
    for rival in ("LoRA r=2", "MiSS r=4"):
        assert rows.loc[rival, "low"] > 0.2 * rows.loc["unadapted", "mean"]


@pytest.mark.slow
def test_nobody_wins_everything(teacher: Runs) -> None:
    winners = mv.displays.TargetsDisplay.from_runs(teacher).winners
    assert winners["low rank"] == "LoRA r=2"
    assert winners["periodic"] == "MiSS r=4"
    assert winners["columns"] == "fixed columns r=4"


@pytest.mark.slow
def test_equal_budgets_and_no_edges(teacher: Runs) -> None:
    assert (teacher.to_frame()["num_parameters"] == 256).all()
    assert not teacher.summary()["rate_on_edge"].any()
    assert not set(teacher.settings["tuning_seeds"]) & set(teacher.settings["seeds"])


@pytest.mark.slow
def test_reported_loss_is_the_test_loss_at_the_step_chosen_on_validation(teacher: Runs) -> None:
    frame = teacher.to_frame()
    cell = frame[(frame["target"] == "dense") & (frame["method"] == "LoRA r=2")]
    reported = []
    for _, run in cell.groupby("seed"):
        table = run.pivot(index="step", columns="split", values="loss")
        reported.append(table["test"][table["valid"].idxmin()])
    assert on_test(teacher, "dense").loc["LoRA r=2", "mean"] == pytest.approx(np.mean(reported))


@pytest.mark.parametrize("name", TARGETS)
def test_target_families(name: str) -> None:
    weight = TwoLayerNet(generator_for(0)).fc1.weight.detach().double()
    M = TARGETS[name](weight, generator_for(1))
    assert torch.linalg.norm(M) / torch.linalg.norm(weight) == pytest.approx(TARGET_SIZE)
    assert torch.linalg.matrix_rank(M) == {"low rank": 2, "dense": 64}.get(name, 4)
    if name == "periodic":
        assert torch.equal(M[:, 4:], M[:, :-4])
    if name == "columns":
        assert M[:, :4].all()
        assert not M[:, 4:].any()


# --- The controlled protocol --------------------------------------------------------------------


@pytest.mark.slow
def test_controlled_freezes_layer_two_and_nobody_generalises() -> None:
    methods = [mv.LoRA(2), mv.MiSS(4)]
    runs = mv.experiments.no_free_lunch(methods, "controlled", seeds=10)
    assert (runs.to_frame()["num_parameters"] == 256).all()
    rows = on_test(runs, ELEMENTWISE)
    for method in methods:
        assert abs(rows.loc[method.name, "mean"] - rows.loc["unadapted", "mean"]) < 0.01
        assert rows.loc[method.name, "low"] > rows.loc["constant", "high"]


@pytest.mark.slow
def test_tuned_on_training_loss_the_order_flips() -> None:
    methods = [mv.LoRA(2), mv.MiSS(4)]
    runs = mv.experiments.no_free_lunch(methods, "controlled", seeds=10, tune_on="train")
    gap = per_seed(runs, "LoRA r=2", "final train") - per_seed(runs, "MiSS r=4", "final train")
    assert (gap < 0).all()


# --- Rules --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_depend_on_nothing_else() -> None:
    alone = mv.experiments.no_free_lunch([mv.MiSS(4)], seeds=[45], steps=20).to_frame()
    state = torch.get_rng_state()
    for methods, seeds in (
        ([mv.LoRA(2), mv.MiSS(4)], [44, 45]),
        ([mv.MiSS(4), mv.Bat(4)], [45, 44, 43]),
        ([mv.MiSS(4)], range(20, 60)),
    ):
        torch.manual_seed(int(seeds[0]))
        frame = mv.experiments.no_free_lunch(
            methods, seeds=seeds, steps=20, learning_rates=[1e-2, 1e-3]
        ).to_frame()
        same = frame[
            (frame["method"] == "MiSS r=4")
            & (frame["seed"] == 45)
            & (frame["learning_rate"] == 1e-3)
        ]
        assert same["loss"].to_numpy().tolist() == alone["loss"].to_numpy().tolist()
    torch.set_rng_state(state)
    mv.experiments.no_free_lunch([mv.PiSSA(2, niter=2)], seeds=2, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_tidy_frame(published: Runs) -> None:
    frame = published.to_frame()
    key = ["target", "method", "seed", "learning_rate", "step", "split"]
    assert set(frame.columns) >= {*key, "loss", "num_parameters", "init_seconds", "train_seconds"}
    assert not frame.duplicated(key).any()
    assert len(frame) == len(SMALL) * 10 * 101 * 2
    assert set(frame["split"]) == {"train", "valid"}
    assert set(frame["seed"]) == set(range(43, 53))
    assert frame["step"].min() == 0
    assert frame["step"].max() == 100
    assert np.isfinite(frame["loss"]).all()
    assert (frame[["init_seconds", "train_seconds"]] > 0).all(axis=None)
    frame["loss"] = 0.0
    assert published.to_frame()["loss"].all()


def test_all_methods_start_at_the_unadapted_network(published: Runs) -> None:
    frame = published.to_frame()
    start = frame[frame["step"] == 0]
    floor = published.baselines[published.baselines["baseline"] == "unadapted"]
    joined = start.merge(floor, on=["seed", "split"], suffixes=("", "_floor"))
    np.testing.assert_allclose(joined["loss"], joined["loss_floor"], atol=1e-5)


def test_the_readers_own_method_runs_by_vmap() -> None:
    runs = mv.experiments.no_free_lunch([Tenth(), mv.MiSS(4)], seeds=3, steps=10)
    frame = runs.to_frame()
    own = frame[(frame["method"] == Tenth().name) & (frame["split"] == "train")]
    assert (
        own[own["step"] == 10]["loss"].to_numpy() < own[own["step"] == 0]["loss"].to_numpy()
    ).all()
    with pytest.raises(ValueError, match='engine="native" needs a stackable'):
        mv.experiments.no_free_lunch([Tenth()], seeds=3, steps=1, engine="native")


def test_summary(published: Runs) -> None:
    summary = published.summary(reference="MiSS r=4").set_index(["method", "metric"])
    row = summary.loc[("LoRA r=2", "final train")]
    values = per_seed(published, "LoRA r=2", "final train")
    assert row["mean"] == pytest.approx(values.mean())
    assert row["low"] < row["mean"] < row["high"]
    paired = values - per_seed(published, "MiSS r=4", "final train")
    assert row["difference"] == pytest.approx(paired.mean())
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(
        student_interval(paired)
    )
    assert row["verdict"] == "higher"
    assert summary.loc[("MiSS r=4", "final train"), "verdict"] == "reference"
    assert summary.loc[(CONTROL, "final train"), "verdict"] == "same"
    assert ("constant", "min valid") in summary.index
    from_start = published.summary(reference="unadapted").set_index(["method", "metric"])
    assert from_start.loc[("MiSS r=4", "final train"), "verdict"] == "lower"
    with pytest.raises(ValueError, match="reference='DoRA' did not run; choose from"):
        published.summary(reference="DoRA")


def test_one_seed_has_no_interval() -> None:
    summary = mv.experiments.no_free_lunch([mv.MiSS(4), mv.LoRA(2)], seeds=1, steps=2).summary()
    assert summary["low"].isna().all()
    assert set(summary["verdict"]) == {"reference", "undecided"}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (-3.0, -2.0, "lower"),
        (2.0, 3.0, "higher"),
        (-0.5, 0.5, "same"),
        (-0.5, 3.0, "undecided"),
        (-3.0, 3.0, "undecided"),
        (-3.0, -0.5, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, word: str) -> None:
    assert verdict(low, high, 1.0) == word


def bowl(best: float):
    tried: list[float] = []

    def score(rates):
        tried.extend(rates)
        yield from ()
        return {rate: abs(math.log10(rate / best)) for rate in rates}

    return score, tried


def chosen(score, grid, widen):
    with pytest.raises(StopIteration) as end:
        next(choose_rate(score, grid, widen))
    return end.value.value


def test_grid_widens_towards_the_best_rate() -> None:
    score, tried = bowl(0.3)
    table = chosen(score, [1e-3, 1e-2], widen=True)
    best = table[table["chosen"]].iloc[0]
    assert best["learning_rate"] == pytest.approx(0.316, rel=0.01)
    assert not table["on_edge"].any()
    assert len(tried) == len(set(tried)) == len(table)


def test_a_grid_that_was_given_is_kept_and_its_edge_flagged() -> None:
    score, tried = bowl(0.3)
    table = chosen(score, [1e-3, 1e-2], widen=False)
    assert table[table["on_edge"]]["learning_rate"].tolist() == [1e-2]
    assert tried == [1e-3, 1e-2]


def test_a_best_rate_that_runs_away_stays_flagged() -> None:
    score, _ = bowl(1e9)
    assert chosen(score, [1e-3, 1e-2], widen=True)["on_edge"].any()


def test_edge_is_a_warning_and_a_column() -> None:
    with pytest.warns(UserWarning, match="on the edge of the grid for LoRA r=2 at 0.0001"):
        runs = mv.experiments.no_free_lunch(
            [mv.LoRA(2)], "teacher", 2, [1e-5, 1e-4], targets=["low rank"], steps=5
        )
    rows = runs.summary()
    assert rows[rows["method"] == "LoRA r=2"]["rate_on_edge"].all()


def test_own_targets() -> None:
    def corner(weight, generator):
        M = torch.zeros_like(weight)
        M[0, 0] = 1.0
        return M

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        runs = mv.experiments.no_free_lunch(
            [mv.LoRA(1)], "teacher", 2, targets={"corner": corner}, steps=5
        )
    assert set(runs.to_frame()["target"]) == {"corner"}


def test_interrupted_work_is_kept_and_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(methods=[mv.LoRA(2), mv.MiSS(4)], seeds=3, steps=5)
    whole = mv.experiments.no_free_lunch(**options).to_frame()
    attach, calls = nfl.attach, []

    def interrupted(model, method, *args, **kwargs):
        calls.append(method.name)
        if method == mv.MiSS(4):
            raise KeyboardInterrupt
        return attach(model, method, *args, **kwargs)

    monkeypatch.setattr(nfl, "attach", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mv.experiments.no_free_lunch(**options, cache=str(tmp_path))
    assert "LoRA r=2" in calls
    calls.clear()
    monkeypatch.setattr(nfl, "attach", lambda *a, **k: calls.append(a[1].name) or attach(*a, **k))
    again = mv.experiments.no_free_lunch(**options, cache=str(tmp_path)).to_frame()
    assert set(calls) == {"MiSS r=4"}
    assert again["loss"].tolist() == whole["loss"].tolist()


def test_own_code_is_never_taken_from_the_cache(tmp_path: Path) -> None:
    def double(weight, generator):
        return factor * weight

    losses = []
    for factor in (1.0, 2.0):  # noqa: B007 (read by `double`)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            runs = mv.experiments.no_free_lunch(
                [mv.LoRA(1)], "teacher", 2, targets={"own": double}, steps=2, cache=tmp_path
            )
        losses.append(runs.losses["loss"].tolist())
    assert losses[0] != losses[1]


def test_a_target_cannot_change_the_base_network() -> None:
    def vandal(weight, generator):
        return weight.mul_(2)

    options = dict(methods=[mv.LoRA(2)], seeds=2, steps=2, dtype=torch.float64)
    before = mv.experiments.no_free_lunch(**options).losses["loss"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mv.experiments.no_free_lunch(**options, protocol="teacher", targets={"vandal": vandal})
    assert mv.experiments.no_free_lunch(**options).losses["loss"].equals(before)


def test_join() -> None:
    lora, miss = (
        mv.experiments.no_free_lunch([method], seeds=3, steps=2)
        for method in (mv.LoRA(2), mv.MiSS(4))
    )
    both = mv.experiments.no_free_lunch([mv.LoRA(2), mv.MiSS(4)], seeds=3, steps=2)
    joined = Runs.join([lora, miss])
    assert joined.losses["loss"].tolist() == both.losses["loss"].tolist()
    assert joined.settings == both.settings
    pd.testing.assert_frame_equal(joined.summary(), both.summary())
    with pytest.raises(ValueError, match="LoRA r=2 more than once"):
        Runs.join([lora, lora])
    with pytest.raises(ValueError, match="parts differ in seeds"):
        Runs.join([lora, mv.experiments.no_free_lunch([mv.MiSS(4)], seeds=2, steps=2)])
    with pytest.raises(ValueError, match="parts is empty"):
        Runs.join([])


def test_ensemble_refuses_what_does_not_fit() -> None:
    from missviz.experiments import Ensemble, train

    nets = [TwoLayerNet(generator_for(seed)) for seed in (0, 1)]
    x = torch.ones(2, 3, 64)
    with pytest.raises(ValueError, match="models is empty"):
        Ensemble([])
    with pytest.raises(ValueError, match="engine='fast' is unknown"):
        Ensemble(nets, "fast")
    with pytest.raises(ValueError, match="learning_rates has 1 values for 2 members"):
        train(Ensemble(nets), {"train": (x, x)}, [1e-3], 1)
    with pytest.raises(ValueError, match="splits has no 'train'"):
        train(Ensemble(nets), {"valid": (x, x)}, [1e-3] * 2, 1)
    with pytest.raises(ValueError, match="nothing to train"):
        train(
            Ensemble([net.requires_grad_(False) for net in nets]), {"train": (x, x)}, [1e-3] * 2, 1
        )


def test_save(published: Runs, tmp_path: Path) -> None:
    published.save(tmp_path / "out")
    read = pd.read_csv(tmp_path / "out" / "losses.csv")
    np.testing.assert_allclose(read["loss"], published.losses["loss"])
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["seeds"] == list(range(43, 53))
    assert settings["methods"]["MiSS r=4"].startswith("MiSS(rank=4")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "baselines.csv",
        "losses.csv",
        "settings.json",
        "summary.csv",
    ]


def test_timings() -> None:
    table = mv.experiments.adapter_timings(
        [mv.LoRA(2), mv.Bat(4), mv.FullFineTuning()], ranks=[1, 4], steps=2, repeats=2
    )
    assert table["method"].tolist() == [
        "LoRA r=1",
        "LoRA r=4",
        "Bat b=1",
        "Bat b=4",
        "full fine-tuning",
    ]
    assert table["family"].tolist() == ["LoRA r=2"] * 2 + ["Bat b=4"] * 2 + ["full fine-tuning"]
    assert table["num_parameters"].tolist() == [128, 512, 64, 256, 4096]
    assert (table[["init_seconds", "train_seconds"]] > 0).all(axis=None)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"protocol": "paper"}, ValueError, "protocol='paper' is unknown"),
        ({"methods": []}, ValueError, "methods is empty"),
        ({"methods": mv.MiSS(4)}, TypeError, "is not a list of methods"),
        ({"methods": ["MiSS"]}, TypeError, "one of methods='MiSS' is not a missviz method"),
        ({"methods": [mv.MiSS(4), mv.MiSS(4, form="expand")]}, ValueError, "more than once"),
        ({"methods": [mv.MiSS(65)]}, ValueError, "rank=65 exceeds in_features=64"),
        ({"seeds": 0}, ValueError, "seeds=0 is not positive"),
        ({"seeds": []}, ValueError, "seeds is empty"),
        ({"seeds": [1, 1]}, ValueError, "seeds repeats a seed"),
        ({"seeds": ["a"]}, TypeError, "seeds has 'a'"),
        ({"seeds": True}, TypeError, "seeds=True is not an integer"),
        ({"learning_rates": []}, ValueError, "learning_rates is empty"),
        ({"learning_rates": [0.0]}, ValueError, "learning_rates=0.0 is not a positive"),
        ({"learning_rates": 1e-3}, TypeError, "learning_rates=0.001 is not a list of rates"),
        ({"methods": "LoRA"}, TypeError, "one of methods='L' is not a missviz method"),
        ({"engine": "fast"}, ValueError, "engine='fast' is unknown"),
        ({"dtype": torch.int32}, ValueError, "dtype=torch.int32 is not"),
        ({"device": "gpu"}, ValueError, "device='gpu' cannot be used here"),
        ({"cache": 5}, TypeError, "cache=5 is not a folder"),
        ({"learning_rates": ["fast"]}, TypeError, "learning_rates='fast' is not a number"),
        ({"targets": ["dense"]}, ValueError, 'targets are for protocol="teacher"'),
        ({"protocol": "teacher", "targets": ["smooth"]}, ValueError, "targets='smooth' is unknown"),
        ({"protocol": "teacher", "targets": {"a": 1}}, TypeError, "target 'a' is no function"),
        ({"protocol": "teacher", "seeds": [1000]}, ValueError, r"tuning_seeds share \[1000\]"),
        ({"protocol": "controlled", "tune_on": "test"}, ValueError, "tune_on='test' is unknown"),
        ({"steps": 0}, ValueError, "steps=0 is not positive"),
        (
            {"protocol": "teacher", "targets": {"a": lambda W, g: W[0]}},
            ValueError,
            r"target 'a' gave \(64,\); expected a tensor \(64, 64\)",
        ),
    ],
)
def test_bad_input(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mv.experiments.no_free_lunch(**options)
