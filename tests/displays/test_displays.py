"""Displays keep what they draw as artists, and draw the numbers that they were given."""

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import missviz as mv
from missviz.displays import LunchDisplay, RaceDisplay, TargetsDisplay, UpdateDisplay
from missviz.experiments import Runs
from missviz.style import _BY_PREFIX, method_style
from missviz.testing import random_linear, randomise

matplotlib.use("agg")


@pytest.fixture(scope="module")
def runs() -> Runs:
    methods = [mv.LoRA(2), mv.MiSS(4)]
    return mv.experiments.no_free_lunch(methods, seeds=3, steps=10, learning_rates=[1e-3, 1e-2])


@pytest.fixture(scope="module")
def teacher() -> Runs:
    return mv.experiments.no_free_lunch(
        [mv.LoRA(2), mv.MiSS(4)], "teacher", seeds=3, targets=["low rank", "periodic"]
    )


def test_race_draws_the_mean_and_band(runs: Runs) -> None:
    display = RaceDisplay.from_runs(runs, "valid", learning_rate=1e-2).plot()
    frame = runs.to_frame()
    cell = frame[
        (frame["method"] == "MiSS r=4")
        & (frame["split"] == "valid")
        & (frame["learning_rate"] == 1e-2)
    ]
    by_step = cell.groupby("step")["loss"]
    line = display.lines_["MiSS r=4"]
    np.testing.assert_allclose(line.get_ydata(), by_step.mean())
    # t(0.975, 2 degrees of freedom) = 4.3027
    band = display.bands_["MiSS r=4"].get_paths()[0].vertices
    wanted = by_step.mean() + 4.302653 * by_step.std() / np.sqrt(3)
    assert band[:, 1].max() == pytest.approx(wanted.max(), rel=1e-5)
    floor = runs.baselines
    floor = floor[(floor["baseline"] == "constant") & (floor["split"] == "valid")]["loss"].mean()
    assert display.constant_line_.get_ydata()[0] == pytest.approx(floor)
    assert "valid loss after 10 steps, mean of 3 seeds" in display.summary()


def test_hidden_race_keeps_its_axes(runs: Runs) -> None:
    shown = RaceDisplay.from_runs(runs).plot()
    hidden = RaceDisplay.from_runs(runs).plot(reveal=False)
    assert hidden.ax_.get_ylim() == shown.ax_.get_ylim()
    assert hidden.ax_.get_xlim() == shown.ax_.get_xlim()
    assert not any(line.get_visible() for line in hidden.lines_.values())
    assert not any(band.get_visible() for band in hidden.bands_.values())
    assert "MiSS" not in hidden._repr_mimebundle_()[0]["text/plain"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split='test' was not measured; choose from train, valid"),
        ({"target": "dense"}, "target='dense' did not run"),
        ({"learning_rate": 0.5}, "learning_rate=0.5 did not run"),
    ],
)
def test_race_bad_input(runs: Runs, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaceDisplay.from_runs(runs, **options)


def test_lunch_has_three_panels(runs: Runs) -> None:
    display = runs.plot()
    assert isinstance(display, LunchDisplay)
    assert len(display.axes_) == 3
    assert "not measured" in {text.get_text() for text in display.axes_[2].texts}
    first = runs.summary().set_index(["method", "metric", "learning_rate"])
    for method in ("LoRA r=2", "MiSS r=4"):
        for metric in ("final train", "min valid"):
            point = display.points_[method, metric].lines[0]
            assert point.get_xdata()[0] == pytest.approx(first.loc[(method, metric, 1e-3), "mean"])


def test_lunch_draws_timings(runs: Runs) -> None:
    timings = mv.experiments.adapter_timings(
        [mv.LoRA(2), mv.MiSS(4)], ranks=[1, 2], steps=1, repeats=1
    )
    display = runs.with_timings(timings).plot()
    line = display.timing_lines_["MiSS r=4", "train"]
    rows = timings[timings["family"] == "MiSS r=4"]
    np.testing.assert_allclose(line.get_ydata(), 1000 * rows["train_seconds"])
    np.testing.assert_allclose(line.get_xdata(), rows["num_parameters"])


def test_targets(teacher: Runs) -> None:
    display = TargetsDisplay.from_runs(teacher).plot()
    assert display.winners == {"low rank": "LoRA r=2", "periodic": "MiSS r=4"}
    assert len(display.frames_.get_path().vertices) == 2 * 5
    rows = teacher.summary()
    rows = rows[(rows["metric"] == "test") & (rows["target"] == "periodic")].set_index("method")[
        "mean"
    ]
    assert display.shares.loc["LoRA r=2", "periodic"] == pytest.approx(
        rows["LoRA r=2"] / rows["unadapted"]
    )
    assert "periodic: MiSS r=4" in display.summary()


def test_targets_need_a_test_split(runs: Runs) -> None:
    with pytest.raises(ValueError, match="no test split"):
        TargetsDisplay.from_runs(runs)


def test_update_draws_the_three_matrices() -> None:
    adapter = mv.MiSS(2).on(random_linear(8, 6, torch.float32))
    randomise(adapter)
    display = UpdateDisplay.from_adapter(adapter).plot()
    base, delta = adapter.base.weight.detach(), adapter.delta().detach()
    for image, matrix in zip(display.ims_, (base, delta, base + delta), strict=True):
        np.testing.assert_allclose(image.get_array(), matrix, atol=1e-6)
        low, high = image.get_clim()
        assert low == -high
        assert high >= np.abs(matrix.numpy()).max() - 1e-6
    shown = [f"{value:.1f}".replace("-0.0", "0.0") for value in delta.flatten().tolist()]
    assert display.digits_[1].strings == shown
    assert "48 cells, 16 different values, rank 2" in display.summary()


def test_update_of_a_fresh_adapter_says_so() -> None:
    display = UpdateDisplay.from_adapter(mv.LoRA(2).on(random_linear(4, 4, torch.float32))).plot()
    assert "no update yet" in display.summary()


def test_large_updates_have_no_digits() -> None:
    display = UpdateDisplay.from_adapter(mv.LoRA(2).on(random_linear(9, 4, torch.float32))).plot()
    assert display.digits_ == []


def test_update_refuses_unequal_matrices() -> None:
    with pytest.raises(ValueError, match="not two equal matrices"):
        UpdateDisplay(base=np.ones((2, 2)), delta=np.ones((2, 3)), name="x")


def test_displays_show_themselves(runs: Runs, tmp_path) -> None:
    display = RaceDisplay.from_runs(runs)
    assert "not drawn yet" in display._repr_mimebundle_()[0]["text/plain"]
    data, metadata = display.plot()._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"] == display.summary()
    display.save(tmp_path / "race.svg")
    assert (tmp_path / "race.svg").read_text().startswith("<?xml")


def test_displays_draw_into_given_axes(runs: Runs) -> None:
    figure = Figure()
    axes = figure.subplots(1, 3)
    assert RaceDisplay.from_runs(runs).plot(axes[0]).figure_ is figure
    assert runs.plot(axes=list(axes)).figure_ is figure


def test_a_method_looks_the_same_everywhere_and_unlike_others() -> None:
    assert method_style("MiSS r=4") == method_style("MiSS r=64") == _BY_PREFIX["MiSS"]
    assert method_style("MiSS rows N=4") == _BY_PREFIX["MiSS rows"]
    assert method_style("LoRA-FA r=2") != method_style("LoRA r=2")
    looks = list(_BY_PREFIX.values())
    assert len({(look.color, look.marker) for look in looks}) == len(looks)
    assert method_style("my own") == method_style("my own")


def test_markers_and_dashes_differ_within_figure_2() -> None:
    from missviz.experiments.arguments import default_methods

    looks = [method_style(method.name) for method in default_methods()]
    for attribute in ("color", "marker", "linestyle"):
        assert len({getattr(look, attribute) for look in looks}) == len(looks)
