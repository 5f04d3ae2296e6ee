"""Displays keep what they draw as artists, and draw the numbers that they were given."""

import io
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from explore.test_every_panel import check_text
from helpers import drawn, random
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import missviz as mv
from missviz.displays import (
    LandscapeDisplay,
    LunchDisplay,
    RaceDisplay,
    ShardDisplay,
    TargetsDisplay,
    UpdateDisplay,
)
from missviz.experiments import Runs
from missviz.experiments.arguments import default_methods
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
    for one, other in zip(hidden.axes_, shown.axes_, strict=True):
        assert one.get_ylim() == other.get_ylim()
        assert one.get_xlim() == other.get_xlim()
    assert not any(line.get_visible() for line in hidden.lines_.values())
    assert not any(line.get_visible() for line in hidden.difference_lines_.values())
    assert not any(band.get_visible() for band in hidden.bands_.values())
    # Who runs is said, in the order of the call and not in that of the outcome.
    assert all(sample.get_visible() for sample in hidden.axes_[1].get_legend().legend_handles)
    listed = [text.get_text() for text in hidden.axes_[1].get_legend().get_texts()]
    assert listed == ["LoRA r=2", "MiSS r=4"]
    assert names_at(hidden.axes_[0]) == ["constant\npredictor"]
    assert names_at(hidden.axes_[1]) == []
    assert "MiSS" not in hidden._repr_mimebundle_()[0]["text/plain"]
    assert hidden.reveal().axes_[1].get_legend() is None


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


def names_at(ax) -> list[str]:
    return sorted(text.get_text() for text in ax.texts if text.get_text())


def test_race_draws_the_paired_difference(runs: Runs) -> None:
    display = RaceDisplay.from_runs(runs, "valid", learning_rate=1e-2).plot()
    frame = runs.to_frame()
    frame = frame[(frame["split"] == "valid") & (frame["learning_rate"] == 1e-2)]
    loss = frame.set_index(["method", "seed", "step"])["loss"]
    gaps = (loss["MiSS r=4"] - loss["LoRA r=2"]).unstack("step")
    line = display.difference_lines_["MiSS r=4"]
    np.testing.assert_allclose(line.get_ydata(), gaps.mean(), atol=1e-12)
    assert not np.any(display.difference_lines_["LoRA r=2"].get_ydata())
    outline = display.difference_bands_["MiSS r=4"].get_paths()[0].vertices
    low, high = outline[:11, 1], outline[11:22, 1][::-1]
    half = 4.302653 * gaps.std() / np.sqrt(3)
    np.testing.assert_allclose(low, gaps.mean() - half, atol=1e-7)
    np.testing.assert_allclose(high, gaps.mean() + half, atol=1e-7)
    mean, last = gaps.mean().iloc[-1], half.iloc[-1]
    assert f"MiSS r=4 {loss['MiSS r=4'].unstack().iloc[:, -1].mean():.3f}" in display.summary()
    assert f"({mean:+.4f} ± {last:.4f})" in display.summary()


def test_race_takes_another_reference(runs: Runs) -> None:
    display = RaceDisplay.from_runs(runs, reference="MiSS r=4").plot()
    assert not np.any(display.difference_lines_["MiSS r=4"].get_ydata())
    assert display.axes_[1].get_title() == "minus MiSS r=4's, seed by seed"
    with pytest.raises(ValueError, match="reference='DoRA' did not run; choose from LoRA r=2"):
        RaceDisplay.from_runs(runs, reference="DoRA")


def race_of(**losses: list[list[float]]) -> RaceDisplay:
    curves = {name: np.array(values, dtype=float) for name, values in losses.items()}
    first = next(iter(curves))
    return RaceDisplay(losses=curves, split="valid", constant=0.5, reference=first).plot()


def test_lines_on_one_another_say_so() -> None:
    far = [[1.0, 0.5, 0.2], [1.0, 0.6, 0.3]]
    near = [[1.0, 0.9, 0.8], [1.0, 0.8, 0.7]]
    close = (np.array(near) + 1e-5).tolist()
    assert names_at(race_of(a=near, b=close, c=far).axes_[0]) == [
        "a\n≈ b",
        "c",
        "constant\npredictor",
    ]
    # Seen from near, they are apart: then each has its own name.
    assert names_at(race_of(a=near, b=close).axes_[1]) == ["a", "b"]


def test_a_race_that_diverges_says_so() -> None:
    display = race_of(
        a=[[1.0, 0.9], [1.0, 0.8]], b=[[1.0, np.inf], [1.0, 2.0]], c=[[1, 99], [1, 97]]
    )
    assert names_at(display.axes_[0]) == ["a", "b diverged", "c ↑ 98", "constant\npredictor"]
    assert "b diverged" in display.summary()
    assert display.axes_[0].get_ylim()[1] < 5
    assert display.order == ["a", "c", "b"]
    both = race_of(a=[[1.0, np.inf], [1.0, np.inf]], b=[[1.0, np.inf], [1.0, 2.0]])
    assert names_at(both.axes_[1]) == ["a diverged\n≈ b diverged"]


def test_a_race_of_one_has_no_differences(runs: Runs) -> None:
    one = mv.experiments.no_free_lunch([mv.MiSS(4)], seeds=2, steps=3)
    display = RaceDisplay.from_runs(one).plot()
    assert len(display.axes_) == 1
    assert "seed by seed" not in display.summary()


def test_one_seed_has_no_interval() -> None:
    display = race_of(a=[[1.0, 0.9]], b=[[1.0, 0.8]])
    assert "mean of 1 seed: b 0.800 (-0.1000), a 0.900;" in display.summary()
    assert display.difference_lines_["b"].get_ydata()[-1] == pytest.approx(-0.1)
    assert display.figure_.savefig(io.BytesIO()) is None


def test_lunch_has_a_row_for_each_method(runs: Runs) -> None:
    display = runs.plot()
    assert isinstance(display, LunchDisplay)
    assert len(display.axes_) == 3  # times were not measured, and take no room
    table = runs.summary("LoRA r=2").set_index(["method", "metric", "learning_rate"])
    for metric in ("final train", "min valid"):
        row = table.loc[("MiSS r=4", metric, 1e-3)]
        point, _, (bar,) = display.points_["MiSS r=4", metric].lines
        assert point.get_xdata()[0] == pytest.approx(row["difference"])
        ends = bar.get_segments()[0][:, 0]
        assert ends == pytest.approx([row["difference_low"], row["difference_high"]])
        assert point.get_ydata()[0] == display.rows_["MiSS r=4"]
    # Rows from below in the order of the curves' ends.
    ends = {name: line.get_ydata()[-1] for name, line in display.curves_.lines.items()}
    ends["constant predictor"] = display.race.constant
    assert list(display.rows_) == sorted(ends, key=ends.__getitem__)
    assert sorted(display.rows_.values()) == list(display.rows_.values())


def test_lunch_writes_what_lies_far_outside(runs: Runs) -> None:
    display = runs.plot()
    table = runs.summary("LoRA r=2").set_index(["method", "metric"])
    constant = table.loc[("constant", "final train"), "difference"]
    words = display.points_["constant predictor", "final train"].get_text()
    assert words == f"◂ {constant:.2g}".replace("-", "−")


def test_lunch_draws_timings(runs: Runs) -> None:
    timings = mv.experiments.adapter_timings(
        [mv.LoRA(2), mv.MiSS(4)], ranks=[1, 2], steps=1, repeats=1
    )
    display = runs.with_timings(timings).plot()
    assert len(display.axes_) == 4
    for kind in ("train", "init"):
        marks = display.times_["MiSS r=4", kind]
        rows = timings[timings["family"] == "MiSS r=4"]
        places = marks.get_offsets()
        np.testing.assert_allclose(places[:, 0], 1000 * rows[f"{kind}_seconds"])
        assert set(places[:, 1]) == {display.rows_["MiSS r=4"]}
        assert np.all(np.diff(marks.get_sizes()[np.argsort(rows["num_parameters"])]) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["page", "lecture", "dark"])
@pytest.mark.parametrize("protocol", ["published", "teacher"])
def test_nothing_of_figure_2_is_cut_off_or_covered(protocol: str, mode: str) -> None:
    methods = default_methods(protocol)
    quick = {} if protocol == "published" else {"targets": ["dense"], "learning_rates": [1e-3]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one rate is on the grid's edge
        runs = mv.experiments.no_free_lunch(
            methods,
            protocol,
            seeds=2,
            steps=4,
            **quick,
            **({} if not quick else {"tuning_seeds": 1}),
        )
    timings = mv.experiments.adapter_timings(methods, ranks=[1, 2], steps=1, repeats=1)
    if mode != "page":
        mv.lecture(dark=mode == "dark")
    try:
        for shown in (runs, runs.with_timings(timings)):
            figure = shown.plot().figure_
            check_text(figure, {"protocol": protocol})
            check_inside(figure)
    finally:
        mv.lecture(False)


def check_inside(figure: Figure) -> None:
    """No axes touches the page's edge, ticks and frames included."""
    FigureCanvasAgg(figure).draw()
    for ax in figure.axes:
        box = ax.get_tightbbox()
        assert box.x0 > 1
        assert box.y0 > 1
        assert box.x1 < figure.bbox.x1 - 1
        assert box.y1 < figure.bbox.y1 - 1


@pytest.mark.slow
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
    looks = [method_style(method.name) for method in default_methods()]
    for attribute in ("color", "marker", "linestyle"):
        assert len({getattr(look, attribute) for look in looks}) == len(looks)


def shards_of(method: mv.Method, out_features: int, color: str = "entry") -> ShardDisplay:
    adapter = method.on(random_linear(out_features, 6, torch.float32))
    randomise(adapter)
    x = torch.arange(6.0)
    return ShardDisplay.from_adapter(adapter, x, color=color, limits=(9.0, 9.0))


def square(size: int, *, seed: int = 0, **options) -> UpdateDisplay:
    base, delta = (random(size, size, seed=seed + n).numpy() for n in (0, 1))
    return UpdateDisplay(base=base, delta=delta, name="x", **options)


OTHERS = {
    "other numbers": (lambda: square(4, limit=3), lambda: square(4, limit=3, seed=5), True),
    "other colours": (lambda: square(4), lambda: square(4, seed=5), False),
    "with an input": (lambda: square(6, limit=3), lambda: square(4, limit=3, x=np.ones(4)), False),
    "another shape": (lambda: square(4, limit=3), lambda: square(5, limit=3), False),
    "another method": (lambda: shards_of(mv.MiSS(2), 5), lambda: shards_of(mv.LoRA(2), 5), True),
    "coloured by value": (
        lambda: shards_of(mv.MiSS(2), 5),
        lambda: shards_of(mv.MiSS(2), 5, "value"),
        False,
    ),
    "another descent": (
        lambda: LandscapeDisplay.from_start(0.5),
        lambda: LandscapeDisplay.from_start(2.0, "a frozen", steps=3),
        True,
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_updated_display_is_the_other_drawn_directly(case: str) -> None:
    make, make_other, kept = OTHERS[case]
    shown, other = make().plot(), make_other()
    figure = shown.figure_
    shown.pin(other, "before").unpin()
    shown.update(other)
    assert not hasattr(other, "figure_"), "the other gives its data alone"
    assert (shown.figure_ is figure) == kept
    assert shown.summary() == other.summary()
    assert np.array_equal(drawn(shown), drawn(make_other().plot()))
