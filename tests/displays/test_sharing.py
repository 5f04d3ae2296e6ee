"""The sharing display draws the table's means and intervals, and marks one c."""

import numpy as np
import pandas as pd
import pytest
import torch

import missviz as mv
from missviz.analysis.sharing import curves_of, layer_targets, sharing_table
from missviz.displays import SharingDisplay
from missviz.randomness import generator_for

METHODS = {"LoRA": mv.LoRA(1), "pure sharing": mv.MoS(None, 1, dissociate=False)}
ALIKES = (0.0, 0.5, 1.0)
SMALL = dict(layers=3, size=8, rank=2)
TARGETS = {c: layer_targets(c, **SMALL, generator=generator_for("test")) for c in ALIKES}


@pytest.fixture
def display() -> SharingDisplay:
    return SharingDisplay.from_methods(METHODS, TARGETS, alike=0.5, **SMALL, seeds=range(5)).plot()


def test_draws_means_and_intervals_of_the_table(display: SharingDisplay) -> None:
    from scipy.stats import t

    table = sharing_table(METHODS, ALIKES, **SMALL, seeds=range(5))
    for name in METHODS:
        for n, c in enumerate(ALIKES):
            shares = table.query("method == @name and alike == @c")["share"]
            x, y = map(np.asarray, display.lines_[name].get_data())
            assert (x[n], y[n]) == (c, pytest.approx(shares.mean()))
            low, high = display.strokes_[name].get_segments()[n][:, 1]
            half = t.ppf(0.975, 4) * shares.std() / 5**0.5
            assert (low, high) == (
                pytest.approx(shares.mean() - half),
                pytest.approx(shares.mean() + half),
            )
        assert display.lines_[name].get_markevery() == [False, True, False]
        assert display.bars_[name].get_xdata()[1] == y[1]


def test_tiles_are_the_targets(display: SharingDisplay) -> None:
    tiles = display.im_.get_array()
    assert tiles.shape == (17, 17)
    np.testing.assert_array_equal(tiles[:8, :8], TARGETS[0.5][0])
    np.testing.assert_array_equal(tiles[:8, 9:], TARGETS[0.5][1])
    np.testing.assert_array_equal(tiles[9:, :8], TARGETS[0.5][2])
    assert tiles.mask[8].all()
    assert tiles.mask[:, 8].all()
    assert tiles.mask[9:, 9:].all()


def test_ticks_name_the_bars_in_their_order(display: SharingDisplay) -> None:
    assert [label.get_text() for label in display.axes_[2].get_yticklabels()] == list(METHODS)
    assert [display.bars_[name].get_ydata()[0] for name in METHODS] == [0, 1]


def test_cosine() -> None:
    same = np.ones((3, 2, 2))
    curves = pd.DataFrame({"alike": [0.0]})
    assert SharingDisplay(targets=same, curves=curves, alike=0).cosine == pytest.approx(1)
    apart = np.eye(4).reshape(4, 2, 2)
    assert SharingDisplay(targets=apart, curves=curves, alike=0).cosine == pytest.approx(0)
    one = SharingDisplay(targets=np.stack([same[0], -same[0]]), curves=curves, alike=0)
    assert one.cosine == pytest.approx(-1)


def test_update_moves_everything_and_no_limit(display: SharingDisplay) -> None:
    limits = [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_]
    other = SharingDisplay.from_methods(METHODS, TARGETS, alike=1.0, **SMALL, seeds=range(2, 5))
    display.update(other)
    np.testing.assert_array_equal(display.im_.get_array()[:8, :8], TARGETS[1.0][0])
    assert display.lines_["LoRA"].get_markevery() == [False, False, True]
    assert display.bars_["pure sharing"].get_xdata()[1] == pytest.approx(1)
    assert "c = 1: mean cosine of what two of them want 1.00" in display.summary()
    assert "pure sharing 100%" in display.summary()
    assert [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_] == limits


def test_hidden_shares_leave_the_targets(display: SharingDisplay) -> None:
    display.reveal(False)
    assert display.im_.get_visible()
    drawn = (display.lines_, display.strokes_, display.bars_)
    assert not any(artist.get_visible() for artists in drawn for artist in artists.values())


def test_ghost_keeps_the_pinned_shares(display: SharingDisplay) -> None:
    pinned = SharingDisplay.from_methods(METHODS, TARGETS, alike=1.0, **SMALL, seeds=range(2, 5))
    display.pin(pinned, "before")
    strokes, _ = display.ghosts_
    assert strokes.get_xdata()[1] == pytest.approx(1)


def test_the_note_is_shown(display: SharingDisplay) -> None:
    assert not display.figure_.texts
    kept = SharingDisplay(
        targets=display.targets, curves=display.curves, alike=0.5, note="stored run"
    ).plot()
    assert [text.get_text() for text in kept.figure_.texts] == ["stored run"]


def test_interval_is_of_the_mean_over_seeds() -> None:
    table = pd.DataFrame({"method": "a", "alike": 0.0, "seed": [0, 1], "share": [0.4, 0.6]})
    row = curves_of(table).iloc[0]
    assert row["mean"] == pytest.approx(0.5)
    assert row["high"] - row["mean"] == pytest.approx(12.706 * 0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(alike=0.3), "alike=0.3 was not computed; choose from 0, 0.5, 1"),
        (dict(targets=np.zeros((2, 3, 3))), "not matrices other than zero"),
        (dict(targets=np.ones((3, 3))), r"targets of shape \(3, 3\)"),
    ],
)
def test_bad_input(changes: dict, message: str) -> None:
    curves = pd.DataFrame({"method": "LoRA", "alike": ALIKES, "mean": 0.5, "low": 0.4, "high": 0.6})
    good = dict(targets=torch.ones(2, 3, 3).numpy(), curves=curves, alike=0.5)
    with pytest.raises(ValueError, match=message):
        SharingDisplay(**{**good, **changes})
