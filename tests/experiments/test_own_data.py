"""`no_free_lunch` on the reader's own points."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import raises_one_sentence

import missviz as mv
from missviz.experiments import Runs
from missviz.experiments.arguments import checked_protocol
from missviz.experiments.data import checked_data
from missviz.experiments.no_free_lunch import make_task
from missviz.experiments.tasks import base_models

METHODS = [mv.LoRA(2), mv.MiSS(2)]


def points(n: int = 40, inputs: int = 6, outputs: int = 3) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(n, inputs))
    return x, np.tanh(x @ np.random.default_rng(1).normal(size=(inputs, outputs)))


def run(data, protocol: str = "published", methods=METHODS, **options) -> Runs:
    settings = {"seeds": 3, "steps": 5, **options}
    return mv.experiments.no_free_lunch(methods, protocol, data=data, **settings)


def test_each_seed_splits_the_points_anew_and_uses_each_once() -> None:
    x, y = points()
    data = checked_data((x, y))
    seen = [data.task(seed, ("train", "valid", "test")) for seed in (43, 44)]
    for task in seen:
        assert [len(part[0]) for part in task.values()] == [20, 10, 10]
        together = torch.cat([part[0] for part in task.values()]).numpy()
        assert np.array_equal(np.unique(together, axis=0), np.unique(x, axis=0))
        for part_x, part_y in task.values():
            rows = [np.flatnonzero((x == row).all(1)).item() for row in part_x.numpy()]
            assert np.array_equal(part_y, y[rows])
    assert not torch.equal(seen[0]["train"][0], seen[1]["train"][0])
    # The same training points whether or not the protocol has a test split.
    assert torch.equal(data.task(43, ("train",))["train"][0], seen[0]["train"][0])


def test_the_run_is_a_loop_over_the_network_by_hand() -> None:
    runs = run(points(), methods=[mv.MiSS(2)], seeds=[43], steps=3)
    protocol = checked_protocol("published", 3, points())
    (base,) = base_models((43,), torch.float32, torch.device("cpu"), protocol.data)
    assert (base.fc1.in_features, base.fc1.out_features, base.fc2.out_features) == (6, 64, 3)
    task = make_task(protocol, "", None, base, 43)
    (x, y), (other_x, other_y) = (
        tuple(part.float() for part in task[split]) for split in ("train", "valid")
    )
    model = mv.attach(base, mv.MiSS(2), "fc1", seed=43, trainable=("fc2",))
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    expected = {"train": [], "valid": []}
    for _ in range(4):
        loss = (model(x) - y).square().mean()
        expected["train"].append(loss.item())
        expected["valid"].append((model(other_x) - other_y).square().mean().item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for split, losses in expected.items():
        rows = runs.losses[runs.losses["split"] == split]
        np.testing.assert_allclose(rows["loss"], losses, rtol=1e-5)


def test_the_constant_predictor_is_the_mean_of_each_output_over_the_training_points() -> None:
    x, y = points()
    data = {"train": (x[:30], y[:30]), "valid": (x[30:], y[30:])}
    floor = run(data).baselines.set_index(["baseline", "split"])["loss"]
    wanted = np.square(y[30:] - y[:30].mean(0)).mean()
    assert floor["constant", "valid"].to_numpy() == pytest.approx(np.full(3, wanted))


def test_given_splits_are_the_same_for_every_seed_and_the_network_is_not() -> None:
    x, y = points()
    data = {"train": (x[:30], y[:30]), "valid": (x[30:], y[30:])}
    runs = run(data)
    at_first = runs.losses[runs.losses["step"] == 0].pivot_table(
        index="seed", columns=["method", "split"], values="loss"
    )
    assert len(set(at_first["LoRA r=2", "train"])) == 3
    np.testing.assert_allclose(at_first["LoRA r=2", "train"], at_first["MiSS r=2", "train"])


def test_base_points_are_learnt_first() -> None:
    x, y = points()
    splits = {"train": (x[:30], y[:30]), "valid": (x[30:], y[30:])}
    untrained = run(splits).baselines
    learnt = run({**splits, "base": (x, y)}).baselines
    unadapted = [
        table[(table["baseline"] == "unadapted") & (table["split"] == "train")]["loss"].mean()
        for table in (untrained, learnt)
    ]
    assert unadapted[1] < 0.3 * unadapted[0]


def test_controlled_tunes_on_own_data_and_reports_on_the_third_split() -> None:
    with pytest.warns(UserWarning, match="edge of the grid"):  # five steps are few
        runs = run(points(), "controlled", learning_rates=[1e-3, 1e-2], tuning_seeds=2)
    assert {"train", "valid", "test"} == set(runs.losses["split"])
    assert runs.tuning is not None
    assert set(runs.losses["target"]) == {"own data"}
    assert (runs.losses["num_parameters"] == runs.losses["adapter_parameters"]).all()


def test_tensors_arrays_and_whole_numbers_are_the_same_points() -> None:
    x = np.random.default_rng(0).integers(-2, 3, (40, 6))
    y = (x[:, :3] > 0).astype(int)
    as_arrays = run((x, y)).losses["loss"]
    as_tensors = run((torch.tensor(x).to(torch.bfloat16), torch.tensor(y > 0))).losses["loss"]
    assert np.array_equal(as_arrays, as_tensors)


def test_later_changes_to_the_readers_arrays_change_nothing() -> None:
    x, y = points()
    data = checked_data((x, y))
    x[:] = 0
    assert data.task(43, ("train",))["train"][0].abs().min() > 0


def test_runs_keep_what_data_they_are_of(tmp_path) -> None:
    x, y = points()
    first, other = run((x, y), methods=[mv.LoRA(2)]), run((x, y + 1), methods=[mv.MiSS(2)])
    assert "6 inputs, 3 outputs, points: whole 40" in first.settings["protocol"]["data"]
    with pytest.raises(ValueError, match="parts differ in protocol"):
        Runs.join([first, other])
    first.save(tmp_path)
    assert (tmp_path / "settings.json").exists()


def test_finished_work_is_found_again_for_the_same_points_only(tmp_path, monkeypatch) -> None:
    x, y = points()
    kept = run((x, y), cache=tmp_path).losses["loss"]
    count = len(list(tmp_path.iterdir()))
    assert np.array_equal(run((x.copy(), y.copy()), cache=tmp_path).losses["loss"], kept)
    assert len(list(tmp_path.iterdir())) == count
    run((x, y + 1), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * count


def test_the_default_methods_fit_the_data() -> None:
    runs = run(points(inputs=16), methods=None)
    # The control has MiSS's gain √g, g = 16/4.
    assert "fixed orthogonal r=4 gain=2" in set(runs.losses["method"])


def test_what_is_not_given_stays_as_published() -> None:
    assert checked_protocol("published", None).data is None
    protocol = checked_protocol("published", None, points())
    assert protocol.noise == 0
    assert replace(protocol, data=None, samples={}, noise=0.05) == replace(
        checked_protocol("published", None), samples={}
    )


X, Y = points()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (X, TypeError, "data is a ndarray; give (x, y), two arrays or tensors"),
        ((X, Y, Y), TypeError, "data is a tuple; give (x, y)"),
        ((X, Y[:, 0]), ValueError, "y of data has shape (40,); it must be (n, outputs); for one"),
        ((X[:, None], Y), ValueError, "x of data has shape (40, 1, 6); it must be (n, inputs)"),
        ((X, Y[:-1]), ValueError, "data has 40 points x and 39 points y; give one y for each"),
        ((X[:3], Y[:3]), ValueError, "data has 3 points; at least 4 can be split"),
        ((X[:, :0], Y), ValueError, "x of data has shape (40, 0), which is empty"),
        ((np.where(X.max() == X, np.nan, X), Y), ValueError, "x of data has 1 values that are NaN"),
        ((X.astype(str), Y), TypeError, "x of data has dtype <U"),
        ((X + 1j, Y), TypeError, "x of data has dtype complex128; give real numbers"),
        ((torch.tensor(X + 1j), Y), TypeError, "x of data has dtype torch.complex128"),
        ({"train": (X, Y)}, ValueError, "data has no 'valid'; give {'train': (x, y), 'valid'"),
        ({"train": (X, Y), "dev": (X, Y)}, ValueError, "data has 'dev'; its splits are base, tr"),
        (
            {"train": (X, Y), "valid": (X[:, :5], Y)},
            ValueError,
            "data['valid'] has 5 inputs and 3 outputs, data['train'] 6 and 3",
        ),
        ({"train": (X, Y), "valid": X}, TypeError, "data['valid'] is a ndarray; give (x, y)"),
    ],
)
def test_wrong_data(data, error, message: str) -> None:
    raises_one_sentence(lambda: run(data), error, message)
    raises_one_sentence(lambda: mv.explore.race(*METHODS, data=data), error, message)


def test_where_own_data_make_no_sense() -> None:
    raises_one_sentence(
        lambda: run((X, Y), "teacher"), ValueError, 'data is for protocol="published" or "controll'
    )
    raises_one_sentence(
        lambda: run({"train": (X, Y), "valid": (X, Y)}, "controlled"),
        ValueError,
        "data has no 'test', on which protocol='controlled' reports",
    )
    for call in (run, lambda data, methods: mv.explore.race(*methods, data=data)):
        raises_one_sentence(
            lambda call=call: call((X, Y), methods=[mv.LoRA(2), mv.MiSS(7)]),
            ValueError,
            "MiSS r=7 does not fit data with 6 inputs (a 64 × 6 layer): rank=7 exceeds",
        )
