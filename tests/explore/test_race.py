"""Stored and fresh runs: the race, and who wins where."""

import functools
import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from explore.test_every_panel import check_text, points

import missviz as mv
from missviz.displays import RaceDisplay
from missviz.experiments.races import LAYER, SPLITS, RaceRuns
from missviz.explore import stored
from missviz.explore.lunch import least

race_module = sys.modules["missviz.explore.race"]  # its name is also the function's


def test_stored_runs_are_small_and_say_where_they_are_from() -> None:
    assert sum(path.stat().st_size for path in stored.FOLDER.iterdir()) < 2_000_000
    for name in ("race", "lunch"):
        about = stored.load(name)[1]
        assert {"seeds", "methods", "commit", "machine", "versions"} <= set(about)
        assert about["seeds"] >= 10


def test_a_stored_run_is_what_training_gives() -> None:
    table, _ = stored.load("race")
    runs = mv.experiments.no_free_lunch([mv.MiSS(4)], "published", 10, [3e-3])
    fresh = RaceDisplay.from_runs(runs, "valid")
    kept = table[
        (table["second_layer"] == "trained")
        & (table["split"] == "valid")
        & (table["learning_rate"] == 3e-3)
        & (table["method"] == "MiSS r=4")
    ]
    losses = kept[[str(step) for step in range(101)]].to_numpy()
    assert np.allclose(losses, fresh.losses["MiSS r=4"], rtol=1e-3)
    assert kept["constant"].iloc[0] == pytest.approx(fresh.constant, rel=1e-3)


def test_stored_runs_are_labelled_and_fresh_ones_are_not() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4))
    words = [text.get_text() for text in panel.figure.texts]
    assert any(text.startswith("stored run: 10 seeds, commit ") for text in words)
    assert set(panel.drawn().lines_) == {"LoRA r=2", "MiSS r=4"}


@dataclass(frozen=True)
class Gains(mv.Method):
    """A method of 15 lines, as a reader writes one: MiSS with a learned gain per copy."""

    rank: int = 4

    @property
    def name(self) -> str:
        return f"gains r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * out_features + in_features // self.rank

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(self.rank, out_features, in_features)

    def adapter(self, base, generator) -> "GainsAdapter":
        return GainsAdapter(self, base)


class GainsAdapter(mv.Adapter):
    def __init__(self, method: Gains, base) -> None:
        super().__init__(method, base)
        self.D = self.zeros(self.out_features, method.rank)
        self.gain = self.parameter(torch.ones(self.in_features // method.rank))

    def delta(self) -> torch.Tensor:
        return (self.gain[..., None, :, None] * self.D[..., :, None, :]).flatten(-2)


@pytest.fixture
def few(monkeypatch) -> None:
    """Races of two seeds at two rates."""
    monkeypatch.setattr(race_module, "RATES", (1e-3, 1e-2))
    small = functools.partial(RaceRuns, seeds=2, rates=(1e-3, 1e-2))
    monkeypatch.setattr(race_module, "RaceRuns", small)
    race_module._trained_now.cache_clear()
    yield
    race_module._trained_now.cache_clear()


@pytest.mark.slow
def test_a_readers_own_method_runs_the_shown_point_first_and_the_rest_in_the_background(
    few,
) -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4), Gains(4), second_layer="frozen")
    assert set(panel.drawn().lines_) == {"LoRA r=2", "MiSS r=4", "gains r=4"}
    assert not any("stored" in text.get_text() for text in panel.figure.texts)
    runs = race_module._trained_now(
        (mv.LoRA(2), mv.MiSS(4), Gains(4)), ("LoRA r=2", "MiSS r=4", "gains r=4")
    )
    assert {key[1:] for key in runs._losses} == {(1e-3, "frozen")}
    said = list(panel._work)
    assert said[0] == ("Training the other points: 4 of 12 (LoRA r=2 at 0.01, second layer frozen)")
    assert said[-1].startswith("Training the other points: 12 of 12 (gains r=4 at")
    assert len(runs._losses) == 12
    # What is there is not trained again.
    assert list(runs.work(1e-3, "trained")) == []
    assert mv.explore.race(mv.LoRA(2), mv.MiSS(4), Gains(4)).set(learning_rate=0.01).picture


@pytest.mark.slow
def test_trained_when_asked_for_equals_trained_all_at_once(few) -> None:
    methods = (mv.LoRA(2), Gains(4))
    asked = race_module._trained_now(methods, tuple(method.name for method in methods))
    panel = mv.explore.race(*methods, learning_rate=0.01, split="valid")
    panel.set(second_layer="frozen").set(learning_rate=1e-3)
    for _ in panel._work:
        pass
    for layer, protocol in LAYER.items():
        at_once = (
            mv.experiments.no_free_lunch(methods[::-1], "published", [44, 43], [1e-2, 1e-3])
            if protocol == "published"
            else None
        )
        alone = RaceRuns([Gains(4)], seeds=2)
        for rate in (1e-3, 1e-2):
            for split in SPLITS:
                losses = asked.losses(rate, split, layer)
                assert np.array_equal(
                    losses["gains r=4"], alone.losses(rate, split, layer)["gains r=4"]
                )
                if at_once is not None:
                    table = at_once.losses
                    rows = table[
                        (table["method"] == "LoRA r=2")
                        & (table["learning_rate"] == rate)
                        & (table["split"] == split)
                    ].pivot(index="seed", columns="step", values="loss")
                    assert np.array_equal(losses["LoRA r=2"], rows.to_numpy())


def test_the_frozen_race_is_the_controlled_protocol_at_one_rate() -> None:
    with pytest.warns(UserWarning, match="edge of the grid"):
        runs = mv.experiments.no_free_lunch([mv.MiSS(4)], "controlled", 3, [1e-2], tuning_seeds=1)
    shared = RaceRuns([mv.MiSS(4)], seeds=3)
    for split in SPLITS:
        rows = runs.losses[runs.losses["split"] == split]
        wanted = rows.pivot(index="seed", columns="step", values="loss").to_numpy()
        assert np.array_equal(shared.losses(1e-2, split, "frozen")["MiSS r=4"], wanted)
        floor = runs.baselines[runs.baselines["split"] == split]
        floor = floor[floor["baseline"] == "constant"]["loss"].mean()
        assert shared.constant(split) == pytest.approx(floor)


def test_fresh_trains_what_is_stored(few) -> None:
    panel = mv.explore.race(mv.LoRA(2), fresh=True)
    assert panel.drawn().seeds == 2
    assert not panel.figure.texts
    assert "fresh=True" in panel.state
    assert mv.explore.race(mv.LoRA(2))._work is None


def test_a_method_without_equality_is_not_taken_for_another(few) -> None:
    class Careless(Gains):  # no @dataclass, so that all of them are equal
        def __init__(self, rank: int) -> None:
            object.__setattr__(self, "rank", rank)

        __eq__ = lambda self, other: type(self) is type(other)  # noqa: E731
        __hash__ = lambda self: 0  # noqa: E731

    assert set(mv.explore.race(Careless(2)).drawn().lines_) == {"gains r=2"}
    assert set(mv.explore.race(Careless(4)).drawn().lines_) == {"gains r=4"}


@pytest.mark.slow
def test_own_data_are_raced_on(few) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=generator)
    data = x, torch.sin(x[:, :2])
    panel = mv.explore.race(mv.LoRA(2), Gains(4), data=data, split="valid")
    runs = mv.experiments.no_free_lunch([mv.LoRA(2), Gains(4)], seeds=2, data=data)
    direct = RaceDisplay.from_runs(runs, "valid")
    for name, losses in direct.losses.items():
        assert np.array_equal(panel.drawn().losses[name], losses)
    assert panel.drawn().constant == pytest.approx(direct.constant)
    assert not panel.figure.texts
    names = {"mv": mv, "Gains": Gains, "data": data}
    again = eval(panel.state, names)
    assert "data=data" in panel.state
    assert again.picture == panel.picture
    assert set(mv.explore.race(data=(x, x)).drawn().lines_) >= {"fixed orthogonal r=4 gain=1.41421"}


def test_race_table_has_every_setting(monkeypatch) -> None:
    monkeypatch.setattr(stored, "RATES", (1e-3,))
    table = stored.race_table([mv.MiSS(4)], seeds=2)
    assert set(table["second_layer"]) == {"trained", "frozen"}
    assert set(table["split"]) == {"train", "valid"}
    assert len(table) == 8
    assert set(table["seed"]) == {43, 44}
    assert np.isfinite(table[[str(step) for step in range(101)]].to_numpy()).all()


def test_the_picture_shows_miss_first_on_training_and_last_on_validation() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.PiSSA(2), mv.MiSS(4))
    for split, sign in (("train", -1), ("valid", 1)):
        display = panel.drawn(split=split)
        miss = display.differences["MiSS r=4"]
        # Clear of zero and of PiSSA, by intervals and as seen: a fifth of the picture's height.
        assert sign * miss.mean[-1] > abs(miss.high[-1] - miss.mean[-1])
        ax = display.axes_[1]
        low, high = ax.get_ylim()
        pissa = display.differences["PiSSA r=2"].mean[-1]
        assert sign * (miss.mean[-1] - pissa) > 0.2 * (high - low)
        assert sign * miss.mean[-1] > 0.2 * (high - low)
    assert panel.summary.startswith("train loss after 100 steps, mean of 10 seeds: MiSS r=4 0.324")
    assert "MiSS r=4 0.721 (+0.0276 ±" in panel.set(split="valid").summary


@pytest.mark.slow
@pytest.mark.parametrize("dark", [None, True])
def test_every_curve_of_the_race_is_in_view_and_named(dark: bool | None) -> None:
    if dark is not None:
        mv.lecture(dark=dark)
    try:
        panel = mv.explore.race()
        for point in points(panel, 8):
            figure = panel.set(**point).figure
            check_text(figure, point)
            for ax in figure.axes:
                low, high = ax.get_ylim()
                for line in ax.lines:
                    if line.get_transform() == ax.transData:
                        assert low <= line.get_ydata().min() <= line.get_ydata().max() <= high
                named = " ".join(text.get_text() for text in ax.texts).split()
                assert {"full", "LoRA", "PiSSA", "MiSS", "orthogonal"} <= set(named)
    finally:
        mv.lecture(False)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [None, True])
def test_a_hidden_race_says_who_runs_where_nothing_covers_it(dark: bool | None) -> None:
    if dark is not None:
        mv.lecture(dark=dark)
    try:
        for methods in ((), (mv.MiSS(4),)):
            check_text(mv.explore.race(*methods, reveal=False).figure, {})
    finally:
        mv.lecture(False)


@pytest.mark.slow
def test_limits_are_those_of_what_is_shown_however_one_came_there() -> None:
    view = mv.explore.race().view
    display = view.compute(**{name: options[-1] for name, options in view.choices.items()}).plot()
    training = set()
    for _, point in view.settings():
        display.update(view.compute(**point))
        direct = view.compute(**point).plot()
        for ax, other in zip(display.axes_, direct.axes_, strict=True):
            assert (ax.get_xlim(), ax.get_ylim()) == (other.get_xlim(), other.get_ylim())
        if point["split"] == "train":
            training.add(display.axes_[0].get_ylim())
    assert len(training) == 1  # on training loss nothing need move
    assert training.pop()[0] == 0


@pytest.mark.slow
def test_names_follow_a_zoom() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4), split="valid")
    panel.figure.axes[0].set_ylim(0.69, 0.70)
    panel.set(learning_rate=0.003).set(learning_rate=0.001)
    words = {text.get_text() for text in panel.figure.axes[0].texts}
    assert {"MiSS r=4 ↑\n0.721", "LoRA r=2"} <= words


@pytest.mark.slow
def test_a_ghost_of_another_rate_is_in_view() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4), split="valid", learning_rate=0.01)
    panel.pin("0.01").set(learning_rate=0.001)
    assert panel.figure.axes[0].get_ylim()[1] > 1.3
    assert panel.unpin().figure.axes[0].get_ylim()[1] < 0.8


def test_the_order_changes_with_the_rate_once_the_second_layer_is_frozen() -> None:
    panel = mv.explore.race(mv.LoRA(2), mv.MiSS(4), second_layer="frozen")
    assert panel.summary.index("MiSS") < panel.summary.index("LoRA")
    panel.set(learning_rate=0.01)
    assert panel.summary.index("LoRA") < panel.summary.index("MiSS")


def test_lunch_shows_training_beside_the_closed_form() -> None:
    panel = mv.explore.lunch()
    assert "periodic: MiSS r=4" in panel.summary
    trained = panel.drawn().shares
    computed = panel.drawn(shown="closed form").shares
    assert computed.loc["MiSS r=4", "periodic"] == pytest.approx(0, abs=1e-9)
    assert trained.loc["MiSS r=4", "periodic"] < 1e-6
    assert computed.loc["MiSS r=4", "low rank"] == pytest.approx(0.95, abs=0.02)


def test_the_closed_form_is_reach() -> None:
    table, _ = stored.load("lunch")
    dense = table[(table["target"] == "dense") & (table["family"] == "MiSS")]
    assert np.allclose(dense["missed"], 1 - dense["budget"] / 64 / 64, atol=0.01)


def test_the_words_say_what_is_shown() -> None:
    assert "winner by test loss" in mv.explore.lunch().summary
    assert "winner by 1 − reach" in mv.explore.lunch(shown="closed form").summary


def test_two_of_a_family_look_different() -> None:
    lines = mv.explore.side_by_side(mv.LoRA(2), mv.LoRA(4)).drawn().delta_lines_
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 2
    lines = (
        mv.displays.RaceDisplay.from_runs(
            mv.experiments.no_free_lunch([mv.LoRA(1), mv.LoRA(2)], seeds=2, steps=3)
        )
        .plot()
        .lines_.values()
    )
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2


def test_a_tie_has_no_winner() -> None:
    assert least({"a": 0.1, "b": 0.4}) == "a"
    assert least({"a": 0.0, "b": 1e-12, "c": 0.4}) is None


def test_budgets_are_equal() -> None:
    for budget in stored.BUDGETS:
        counts = {m.num_parameters(64, 64) for m in stored.budget_methods(budget).values()}
        assert counts == {budget}


@pytest.mark.slow
def test_lunch_table(monkeypatch) -> None:
    monkeypatch.setattr(stored, "BUDGETS", (256,))
    monkeypatch.setattr(stored, "TARGETS", {"periodic": stored.TARGETS["periodic"]})

    def quick(methods, protocol, seeds):
        return mv.experiments.no_free_lunch(
            methods, protocol, seeds, targets=["periodic"], learning_rates=[0.01], tuning_seeds=2
        )

    monkeypatch.setattr(stored, "no_free_lunch", quick)
    with pytest.warns(UserWarning, match="edge"):
        table = stored.lunch_table(seeds=2)
    assert isinstance(table, pd.DataFrame)
    assert table.set_index("family").loc["MiSS", "share"] < 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mv.explore.race(learning_rate=0.5), "learning_rate=0.5 is not a choice"),
        (lambda: mv.explore.race(split="test"), "split='test' is not a choice"),
        (lambda: mv.explore.race(mv.MiSS(65)), "rank=65 exceeds in_features=64"),
        (lambda: mv.explore.race(mv.MiSS(4), mv.MiSS(4)), "MiSS r=4 more than once"),
        (lambda: mv.explore.lunch(budget=100), "budget=100 is not a choice"),
        (lambda: mv.explore.lunch(budget=100, fresh=True), "budget=100 is not a choice"),
        (lambda: mv.explore.race(split="test", fresh=True), "split='test' is not a choice"),
        (lambda: mv.explore.race(reference="DoRA"), "reference='DoRA' did not run; choose from"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
