"""The reach display draws what `mv.reach` says, and marks one rank."""

import numpy as np
import pytest
from helpers import random

import missviz as mv
from missviz.analysis.reach_by_rank import reaches_of
from missviz.displays import ReachDisplay
from missviz.style import method_style

METHODS = {"LoRA": mv.LoRA, "MiSS": mv.MiSS, "Bat": mv.Bat}


TARGET, BASE = random(8, 12), random(8, 12, seed=1)


@pytest.fixture
def display() -> ReachDisplay:
    return ReachDisplay.from_target(
        TARGET, METHODS, (1, 2, 3, 4, 12), rank=2, name="random", base=BASE
    ).plot()


def test_draws_the_closed_form(display: ReachDisplay) -> None:
    np.testing.assert_array_equal(display.im_.get_array(), TARGET)
    for name, ranks in (("LoRA", (1, 2, 3, 4)), ("MiSS", (1, 2, 3, 4, 12)), ("Bat", (1, 2, 4))):
        made = [METHODS[name](rank) for rank in ranks]
        x, y = display.lines_[name].get_data()
        np.testing.assert_array_equal(x, [method.num_parameters(8, 12) for method in made])
        np.testing.assert_allclose(y, [mv.reach(method, TARGET, BASE) for method in made])
        assert display.lines_[name].get_marker() == method_style(name).marker
        # The marker stands at rank 2, second in each list.
        assert display.lines_[name].get_markevery() == [1]
        assert display.bars_[name].get_xdata()[1] == y[1]


def test_on_inputs_it_draws_the_reach_there_and_says_so() -> None:
    x = random(3, 12, seed=2)
    display = ReachDisplay.from_target(TARGET, METHODS, (1, 2), rank=2, base=BASE, x=x).plot()
    for name in METHODS:
        made = [METHODS[name](rank) for rank in (1, 2)]
        shares = [mv.reach(method, TARGET, BASE, x=x) for method in made]
        np.testing.assert_allclose(display.lines_[name].get_ydata(), shares)
    assert "Share in reach on your inputs at rank 2" in display.summary()
    assert display.axes_[1].get_ylabel().endswith("on your inputs")


def test_ticks_name_the_bars_in_their_order(display: ReachDisplay) -> None:
    axis = display.axes_[2]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == list(METHODS)
    assert [display.bars_[name].get_ydata()[0] for name in METHODS] == [0, 1, 2]


def test_a_method_that_does_not_exist_at_the_rank_has_no_marker_and_no_bar() -> None:
    display = ReachDisplay.from_target(TARGET, METHODS, (2, 3), rank=3, base=BASE).plot()
    assert display.lines_["Bat"].get_markevery() == []
    assert len(display.bars_["Bat"].get_xdata()) == 0
    assert "Bat" not in display.summary()
    assert "MiSS" in display.summary()


def test_update_moves_target_and_rank(display: ReachDisplay) -> None:
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_]
    other = ReachDisplay.from_target(
        random(8, 12, seed=5), METHODS, (1, 2, 3, 4, 12), rank=4, base=BASE
    )
    display.update(other)
    np.testing.assert_array_equal(display.im_.get_array(), other.target)
    assert display.lines_["MiSS"].get_markevery() == [3]
    assert display.bars_["MiSS"].get_xdata()[1] == other.reaches["MiSS"].shares[3]
    assert [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_] == limits


def test_hidden_shares_leave_the_target(display: ReachDisplay) -> None:
    display.reveal(False)
    assert display.im_.get_visible()
    drawn = [*display.lines_.values(), *display.bars_.values()]
    assert not any(line.get_visible() for line in drawn)


def test_ghost_keeps_the_pinned_shares(display: ReachDisplay) -> None:
    pinned = ReachDisplay.from_target(
        random(8, 12, seed=5), METHODS, (1, 2, 3, 4, 12), rank=4, base=BASE
    )
    display.pin(pinned, "before")
    strokes, _ = display.ghosts_
    assert strokes.get_xdata()[1] == pinned.reaches["MiSS"].shares[3]


def test_reaches_leave_out_ranks_that_do_not_fit() -> None:
    found = reaches_of(TARGET, METHODS, (5, 7, 99), BASE)
    assert found["LoRA"].ranks.tolist() == [5, 7]
    assert found["Bat"].ranks.tolist() == []
    assert found["Bat"].at(5) is None
    assert found["MiSS"].at(7) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 7}, "rank=7 was not computed; choose from 1, 2"),
        ({"target": np.zeros((3, 3))}, "not a matrix other than zero"),
        ({"target": np.ones(3)}, r"target of shape \(3,\)"),
        ({"reaches": {}}, "reaches is empty"),
    ],
)
def test_bad_input(changes: dict, message: str) -> None:
    good = {
        "target": TARGET.numpy(),
        "name": "M",
        "rank": 1,
        "reaches": reaches_of(TARGET, {"LoRA": mv.LoRA}, (1, 2)),
    }
    with pytest.raises(ValueError, match=message):
        ReachDisplay(**{**good, **changes})
