"""What the panel says of copies, sums and layouts; the rest is in test_every_panel.py."""

import numpy as np
import pytest
import torch

import missviz as mv
from missviz.explore.expansion import LAYOUTS, X


@pytest.fixture(scope="module")
def panel():
    return mv.explore.expansion()


@pytest.mark.slow
def test_a_rank_that_does_not_divide_is_offered(panel) -> None:
    assert panel.view.choices["rank"] == [1, 2, 3, 4, 8]
    assert mv.explore.expansion(size=10, rank=4).view.choices["rank"] == [1, 2, 3, 4, 5]
    assert mv.explore.expansion(size=2, rank=2).view.choices["rank"] == [1, 2]


def test_the_copies_are_counted(panel) -> None:
    """⌈k/r⌉ for the first k mod r columns of D, ⌊k/r⌋ for the others: nothing is dropped."""
    for layout in ("tiled", "block"):
        counts = [len(panel.view.compute(3, layout, trace).copies) for trace in range(8)]
        assert sorted(counts) == [2, 2, 3, 3, 3, 3, 3, 3]


def test_summary_names_the_sum(panel) -> None:
    summary = panel.set(rank=3, layout="tiled", trace=5).summary
    assert f"S[2] = x[2] + x[5] = {X[2] + X[5]};" in summary
    assert "column 2 of D is columns 2, 5 of ΔW" in summary
    assert "24 numbers fill 64 cells" in summary
    assert "S[1] = x[3] + x[4] + x[5]" in panel.set(layout="block").summary
    rows = panel.set(layout="rows").summary
    assert "row 1 of D is rows 3, 4, 5 of ΔW" in rows
    assert "nothing of x is summed" in rows


def test_no_two_layouts_agree_on_this_x(panel) -> None:
    for rank in (2, 3, 4):
        ys = [panel.view.compute(rank, layout, 0).y for layout in LAYOUTS]
        assert not any(np.allclose(ys[i], ys[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_digits_show_the_exact_numbers(panel) -> None:
    for layout in LAYOUTS:
        shown = panel.view.compute(4, layout, 0)
        for values in (shown.D, shown.x, shown.sums, shown.y):
            np.testing.assert_allclose(values, values.round(1), atol=1e-12)


def test_d_grows_by_columns(panel) -> None:
    small, large = (panel.view.compute(rank, "tiled", 0).D for rank in (2, 4))
    np.testing.assert_array_equal(small, large[:, :2])


def test_the_global_rng_is_left_alone() -> None:
    before = torch.get_rng_state()
    mv.explore.expansion(size=7, rank=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 13}, ValueError, "size=13 is not shown; choose from 2 to 12"),
        ({"size": 1}, ValueError, "size=1 is not shown"),
        ({"size": 8.0}, TypeError, "size=8.0 is not an integer"),
        ({"rank": 9}, ValueError, "rank=9 exceeds"),
        ({"size": 4, "rank": 5}, ValueError, "rank=5 exceeds"),
        ({"size": 12, "rank": 12}, ValueError, "rank=12 exceeds"),
        ({"rank": 0}, ValueError, "rank=0 is not positive"),
        ({"layout": "columns"}, ValueError, "layout='columns' is not a choice"),
        ({"trace": 8}, ValueError, "trace=8 is not a choice"),
        ({"reveal": 1}, TypeError, "reveal=1 is not True or False"),
    ],
)
def test_bad_input(options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        mv.explore.expansion(**options)
