"""Two methods on the same axes: each is drawn as it is alone."""

import numpy as np
import pytest

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
