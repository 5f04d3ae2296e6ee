"""The Pareto display puts methods where their numbers are, and draws the front it is given."""

import numpy as np
import pytest

from missviz.analysis.pareto import FrontUnderNoise, front_under_noise
from missviz.displays import ParetoDisplay
from missviz.displays.pareto import HALO, LOW

COSTS = np.array([10.0, 1000.0, 100.0, 100.0])
ACCURACIES = np.array([0.4, 0.5, 0.45, 0.1])
NAMES = ["MiSS r=64", "LoRA r=32", "", ""]
LOOK = dict(cost="trained numbers", limits=(1.0, 1e4), ticks={10.0: "ten"}, noise="exact")


def display(deviation: float = 0.0, **changes: object) -> ParetoDisplay:
    settings = dict(costs=COSTS, accuracies=ACCURACIES, names=NAMES) | LOOK | changes
    front = front_under_noise(
        settings["costs"], settings["accuracies"], np.full(len(settings["costs"]), deviation)
    )
    return ParetoDisplay(**settings, front=front)


def corners(shown: ParetoDisplay) -> np.ndarray:
    return shown.band_.get_path().vertices


def test_places_are_costs_on_a_logarithmic_scale() -> None:
    shown = display().plot()
    np.testing.assert_allclose(shown.marks_["MiSS r=64"].get_xydata(), [[0.25, 0.4]])
    np.testing.assert_allclose(shown.marks_["LoRA r=32"].get_xydata(), [[0.75, 0.5]])
    seen, below = shown.dots_
    assert seen.get_xydata().tolist() == [[0.5, 0.45]]
    assert below.get_xydata().tolist() == [[0.5, LOW]]
    assert below.get_marker() == "v"
    np.testing.assert_allclose(shown.tick_marks_.get_xdata(), [0.25])
    assert [text.get_text() for text in shown.tick_texts_] == ["ten", "", "", "", ""]
    assert shown.cost_.get_text() == "trained numbers"


def test_halos_and_bars_are_the_probability() -> None:
    shown = display(0.05).plot()
    chance = shown.front.probability
    assert 0 < chance[2] < 1
    np.testing.assert_allclose(shown.halos_.get_sizes(), HALO * chance)
    np.testing.assert_allclose(shown.halos_.get_offsets()[:, 1], np.maximum(ACCURACIES, LOW))
    for row, name in enumerate(NAMES[:2]):
        assert list(shown.bars_[name].get_xdata()) == [0, chance[row]]
        assert list(shown.bars_[name].get_ydata()) == [row, row]
    assert [label.get_text() for label in shown.axes_[1].get_yticklabels()] == NAMES[:2]


def test_band_is_stairs_through_the_front() -> None:
    """Without noise: up at each method on the front, from its cost on; the last step to the edge."""
    stairs = [[0.25, 0.4], [0.5, 0.4], [0.5, 0.45], [0.5, 0.45], [0.5, 0.45], [0.75, 0.45]]
    stairs += [[0.75, 0.5], [1, 0.5]]
    low, high = np.split(corners(display().plot()), 2)
    np.testing.assert_allclose(low, stairs)
    np.testing.assert_allclose(high, stairs[::-1])


def test_band_is_as_high_as_the_noise() -> None:
    low, high = np.split(corners(display(0.02).plot()), 2)
    assert (high[::-1][:, 1] - low[:, 1]).min() > 0.02


def test_update_moves_everything_and_no_limit() -> None:
    shown = display().plot()
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in shown.axes_]
    other = display(
        0.01,
        costs=COSTS[::-1].copy(),
        cost="memory",
        ticks={100.0: "a", 1000.0: "b"},
        noise="rerun",
    )
    shown.update(other)
    direct = other.plot()
    assert shown.marks_["MiSS r=64"].get_xdata() == [0.5]
    np.testing.assert_array_equal(corners(shown), corners(direct))
    np.testing.assert_array_equal(shown.halos_.get_sizes(), direct.halos_.get_sizes())
    assert [text.get_text() for text in shown.tick_texts_] == ["a", "b", "", "", ""]
    assert shown.cost_.get_text() == "memory"
    assert shown.axes_[0].get_title() == "the front, rerun"
    assert shown.summary() == direct.summary()
    assert [(ax.get_xlim(), ax.get_ylim()) for ax in shown.axes_] == limits


def test_hidden_leaves_what_was_published() -> None:
    shown = display(0.01).plot().reveal(False)
    assert not any(a.get_visible() for a in (shown.band_, shown.halos_, *shown.bars_.values()))
    assert all(a.get_visible() for a in (*shown.dots_, *shown.marks_.values()))


def test_ghost_has_a_band_only_for_the_same_cost() -> None:
    shown, pinned = display().plot(), display(0.02)
    shown.pin(pinned, "noise")
    strokes, edges, _ = shown.ghosts_
    np.testing.assert_allclose(strokes.get_xdata(), pinned.front.probability[:2])
    low, high = edges.get_segments()
    np.testing.assert_allclose(low, np.split(corners(pinned.plot()), 2)[0])
    assert (high[:, 1] > low[:, 1]).all()
    shown.pin(display(cost="memory"), "other axis")
    assert len(shown.ghosts_) == 2


def test_summary_counts_the_sure_and_the_unsure() -> None:
    front = FrontUnderNoise(np.array([1.0, 0.5, 0.96, 0.01]), ACCURACIES, ACCURACIES)
    words = ParetoDisplay(costs=COSTS, accuracies=ACCURACIES, names=NAMES, front=front, **LOOK)
    assert "2 of 4 methods on it for sure (more than 95%), 1 perhaps" in words.summary()
    assert "MiSS r=64 100%, LoRA r=32 50%" in words.summary()


def test_from_deviations_repeats_now() -> None:
    deviations = np.full(4, 0.03)
    shown = ParetoDisplay.from_deviations(COSTS, ACCURACIES, deviations, names=NAMES, **LOOK)
    np.testing.assert_array_equal(shown.front.probability, display(0.03).front.probability)


def test_note() -> None:
    assert display().plot().figure_.texts == []
    assert display(note="published").plot().figure_.texts[0].get_text() == "published"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(limits=(20.0, 1e4)), r"limits=\(20.0, 10000.0\) do not hold trained numbers from 10"),
        (dict(limits=(0.0, 1e4)), "limits="),
        (
            dict(names=NAMES[:3]),
            r"costs \(4\), accuracies \(4\), names \(3\) and front \(4\) are not",
        ),
    ],
)
def test_bad_input(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        display(**changes)
