"""Two methods on the same axes: each is drawn as it is alone."""

import numpy as np
import pytest
from helpers import by_hand, pixels

import missviz as mv
from missviz.displays.spectrum import Spectrum
from missviz.experiments import adapter_snapshots


def test_both_spectra_are_those_of_the_runs() -> None:
    panel = mv.explore.side_by_side(mv.LoRA(2), mv.MiSS(4), steps=30)
    assert panel.values == {"steps": 30}
    for line, method in zip(panel.drawn().delta_lines_, (mv.LoRA(2), mv.MiSS(4)), strict=True):
        alone = Spectrum.of(adapter_snapshots(method)[30])
        rank = method.rank_bound(64, 64)
        assert np.allclose(line.get_ydata()[:rank], alone.delta[:rank])
    assert "LoRA r=2: rank 2" in panel.summary
    assert "MiSS r=4: rank 4" in panel.summary


def test_the_race_has_both() -> None:
    panel = mv.explore.side_by_side(mv.LoRA(2), mv.MiSS(4), view="race", learning_rate=0.003)
    assert set(panel.drawn().lines_) == {"LoRA r=2", "MiSS r=4"}
    assert panel.values["learning_rate"] == 0.003


def test_state_opens_the_same_view() -> None:
    for view in ("spectrum", "race"):
        panel = mv.explore.side_by_side(mv.LoRA(2), mv.MiSS(4), view=view)
        again = eval(panel.state, {"mv": mv})
        assert again.picture == panel.picture


@pytest.mark.slow
def test_two_panels_stand_beside_each_other_and_move_together_where_they_stand_alike() -> None:
    pair = mv.explore.side_by_side(
        mv.explore.update(method="LoRA"), mv.explore.update(method="MiSS")
    )
    first, second = pair.panels
    by_hand(first, rank=8)
    assert first.values == {"method": "LoRA", "rank": 8}
    assert second.values == {"method": "MiSS", "rank": 8}
    by_hand(second, method="Bat")
    assert first.values["method"] == "LoRA"
    left, right, both = (pixels(one.picture) for one in (first, second, pair))
    assert np.array_equal(both, np.hstack([left, right]))
    again = eval(pair.state, {"mv": mv})
    assert again.picture == pair.picture
    assert pair.set(rank=2).summary == f"{first.summary} | {second.summary}"
    assert first.values["rank"] == second.values["rank"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("view", ["update", "rank", "colinearity"])
def test_two_methods_in_two_panels_of_a_kind(view: str) -> None:
    pair = mv.explore.side_by_side(mv.LoRA(2), mv.MiSS(4), view=view, reveal=False)
    assert not any(panel.revealed for panel in pair.panels)
    first, second = pair.reveal().panels
    assert "LoRA r=2" in first.summary
    assert "MiSS r=4" in second.summary


@pytest.mark.slow
def test_linked_panels_move_together_until_they_are_unlinked() -> None:
    first, second, third = (
        mv.explore.update(),
        mv.explore.expansion(size=4),
        mv.explore.lunch(),
    )
    link = mv.explore.link(first, second)
    assert link.controls == ("rank",)
    first.set(rank=4)
    assert second.values["rank"] == 4
    second.set(rank=1)
    assert first.values["rank"] == 1
    first.set(rank=8)  # 4 × 4 has no 8
    assert second.values["rank"] == 1
    link.unlink()
    link.unlink()
    first.set(rank=2)
    assert second.values["rank"] == 1
    for wrong, error, message in (
        (lambda: mv.explore.link(first), ValueError, "link needs two panels"),
        (lambda: mv.explore.link(first, 3), TypeError, "panel 2 is a int, no missviz panel"),
        (lambda: mv.explore.link(first, third), ValueError, "update has method, rank; lunch has"),
        (
            lambda: mv.explore.link(first, second, controls=("method",)),
            ValueError,
            "'method' is not a control of every panel; these are: rank",
        ),
    ):
        with pytest.raises(error, match=message):
            wrong()


@pytest.mark.slow
def test_a_pair_is_saved_as_pixels(tmp_path) -> None:
    pair = mv.explore.side_by_side(mv.explore.update(), mv.explore.update(method="LoRA"))
    pair.save(tmp_path / "new" / "pair.png")
    assert np.array_equal(
        pixels((tmp_path / "new" / "pair.png").read_bytes()), pixels(pair.picture)
    )
    with pytest.raises(ValueError, match="ends in none of .png"):
        pair.save(tmp_path / "pair.svg")
    with pytest.raises(ValueError, match="neither panel has a control 'steps'; they have method"):
        pair.set(steps=3)
    one = pair.panels[0]
    hidden = mv.explore.side_by_side(mv.explore.update(), mv.explore.update(), reveal=False)
    assert not any(panel.revealed for panel in hidden.panels)
    with pytest.raises(ValueError, match="first and second are one panel"):
        mv.explore.side_by_side(one, one)
    with pytest.raises(ValueError, match="two panels have their views already"):
        mv.explore.side_by_side(*pair.panels, view="race")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((mv.LoRA(2), 4), {}, TypeError, "second=4 is not a missviz method"),
        ((mv.LoRA(2), mv.LoRA(2)), {}, ValueError, "both methods are LoRA r=2"),
        ((mv.LoRA(2), mv.MiSS(4)), {"view": "loss"}, ValueError, "view='loss' is unknown"),
        ((mv.LoRA(2), mv.MiSS(4)), {"rank": 4}, ValueError, "has no control 'rank'"),
        ((mv.LoRA(2), mv.MiSS(65)), {}, ValueError, "rank=65 exceeds in_features=64"),
    ],
)
def test_bad_input(arguments, options, error, message) -> None:
    with pytest.raises(error, match=message):
        mv.explore.side_by_side(*arguments, **options)
