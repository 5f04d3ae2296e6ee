"""The parts are fair by design, run as a command, and come back from where they are stored."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner
from word_task import encoder, first_word_task, word_task

import missviz as mv
from missviz import networks, real_network
from missviz.cli import app
from missviz.experiments import Runs
from missviz.real_network import parts, storage
from missviz.real_network.parts import PARTS, WIDTH, Part

SQUARE = [(WIDTH, WIDTH)]
MLP = [(4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]


def numbers(method: mv.Method, shapes: list[tuple[int, int]]) -> int:
    return sum(method.num_parameters(*shape) for shape in shapes)


@pytest.mark.parametrize("name", ["sentiment", "swapped-words"])
def test_contestants_train_equal_numbers(name: str) -> None:
    *adapters, full = PARTS[name].methods
    first = numbers(adapters[0], SQUARE)
    for method in adapters:
        assert numbers(method, SQUARE) == pytest.approx(first, rel=0.07)
    assert isinstance(full, mv.FullFineTuning)
    (miss,) = [m for m in adapters if isinstance(m, mv.MiSS)]
    (control,) = [m for m in adapters if isinstance(m, mv.FixedFactor)]
    assert control.gain == pytest.approx((WIDTH / miss.rank) ** 0.5)
    assert control.rank == miss.rank


def test_ranks_and_places_compare_equal_numbers() -> None:
    methods = PARTS["ranks"].methods
    for lora, miss in zip(methods[::2], methods[1::2], strict=True):
        assert numbers(lora, SQUARE) == numbers(miss, SQUARE)
    places = [
        numbers(method, shapes)
        for part, shapes in (("attention", 4 * SQUARE), ("mlp", MLP))
        for method in PARTS[part].methods
    ]
    assert len(set(places)) == 1


def test_places_are_the_layers_that_they_say(packages: None) -> None:
    network = networks.minilm()
    layers = {
        name: [
            place.removeprefix("bert.encoder.layer.")
            for place, part in mv.attach(network, mv.LoRA(1), targets).named_modules()
            if isinstance(part, mv.Adapter)
        ]
        for name, targets in (
            ("both", parts.QUERY_AND_VALUE),
            ("attention", parts.ATTENTION),
            ("mlp", parts.MLP),
        )
    }
    upper = ("3", "4", "5")
    assert layers["both"] == [f"{n}.attention.self.{p}" for n in upper for p in ("query", "value")]
    assert len(layers["attention"]) == 3 * 4
    assert layers["mlp"] == [f"{n}.{p}.dense" for n in upper for p in ("intermediate", "output")]


TINY = Part(
    "Does it run?",
    word_task,
    (mv.LoRA(2), mv.MiSS(4)),
    ("blocks.2*",),
    remembered=(first_word_task,),
    seeds=2,
    tune_seeds=1,
    steps=4,
    evaluate_every=2,
    batch_size=40,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PARTS", {"tiny": TINY, "other": replace(TINY, seeds=3)})
    monkeypatch.setattr(networks, "minilm", encoder)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_the_command_writes_each_part_and_goes_on(tmp_path: Path) -> None:
    call = [
        "reproduce",
        "real-network",
        "--part",
        "tiny",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    first = CliRunner().invoke(app, call)
    assert first.exit_code == 0, first.output
    assert "Redone by: missviz reproduce real-network --part tiny" in first.output
    assert "majority class" in first.output
    runs = Runs.load(tmp_path / "tiny")
    assert runs.settings["made"]["seconds"] >= 0
    assert runs.settings["made"]["commit"]
    assert (tmp_path / "tiny" / "accuracy.svg").exists()
    assert not (tmp_path / "other").exists()
    CliRunner().invoke(app, call)
    again = Runs.load(tmp_path / "tiny")
    # Seconds too: nothing was trained again.
    pd.testing.assert_frame_equal(again.to_frame(), runs.to_frame())


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["real-network", "--part", "large"], "--part='large'"),
        (["real-network", "--protocol", "teacher"], "--protocol is for no-free-lunch"),
        (["no-free-lunch", "--part", "tiny"], "--part is for real-network"),
        (["real-network", "--device", "gpu"], "device='gpu' cannot be used"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], said: str) -> None:
    found = CliRunner().invoke(app, ["reproduce", *options])
    assert found.exit_code == 2
    assert said in found.output


@pytest.mark.slow
def test_stored_runs_say_what_they_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "minilm", encoder)
    runs = TINY.run(device="cpu")
    runs.settings["made"] = storage.made(runs, "cpu")
    monkeypatch.setattr(storage, "FOLDER", tmp_path)
    real_network.store(runs, "tiny")
    assert real_network.stored_parts() == ["tiny"]
    back = real_network.stored("tiny")
    assert back.settings == runs.settings
    for measure in ("loss", "accuracy"):
        kept, whole = (part.summary(measure=measure) for part in (back, runs))
        columns = ["mean", "low", "high", "difference", "difference_low", "difference_high"]
        pd.testing.assert_frame_equal(kept[columns], whole[columns], rtol=1e-4, atol=1e-5)
        assert kept[["method", "metric", "verdict"]].equals(whole[["method", "metric", "verdict"]])
    with pytest.raises(ValueError, match="part='huge'"):
        real_network.stored("huge")


@pytest.mark.slow
def test_what_a_command_wrote_is_stored_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "minilm", encoder)
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "package")
    monkeypatch.setattr(storage, "PARTS", {"tiny": TINY, "other": TINY})
    TINY.run(device="cpu", seeds=2, steps=2).save(tmp_path / "out" / "tiny")
    assert storage.store_all(tmp_path / "out") == ["tiny"]
    assert real_network.stored_parts() == ["tiny"]


def test_what_ships_is_small_and_says_where_it_is_from() -> None:
    files = [path for path in storage.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1_000_000
    for name in real_network.stored_parts():
        runs, part = real_network.stored(name), PARTS[name]
        assert runs.settings["methods"] == {m.name: repr(m) for m in part.methods}
        assert len(runs.settings["seeds"]) == part.seeds
        assert runs.settings["protocol"]["steps"] == part.steps
        assert {"commit", "machine", "date", "seconds", "tuning_seconds"} <= set(
            runs.settings["made"]
        )
