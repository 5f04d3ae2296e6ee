"""Cells are imshow's, and heavy tails do not bleach a picture."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from missviz.displays import UpdateDisplay
from missviz.displays.colors import Cells, beyond, color_limit
from missviz.style import DIVERGING


def drawn(show) -> np.ndarray:
    figure = Figure(figsize=(3, 2), dpi=200)
    show(figure.add_subplot())
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (1, 3)])
def test_cells_are_imshows_up_to_a_pixel_at_edges(shape) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    values[0, 0] = np.nan
    mine = drawn(lambda ax: Cells(ax, 0 * values, clim=(-1, 1)).set_data(values))
    look = {"cmap": DIVERGING, "clim": (-1, 1), "interpolation": "nearest"}
    its = drawn(lambda ax: ax.imshow(values, **look))
    other = (mine != its).any(axis=2)
    assert other.mean() < 0.005
    inside = other[1:-1, 1:-1] & other[1:-1, :-2] & other[:-2, 1:-1]
    assert not inside.any()


@pytest.mark.parametrize("shape", [(8, 8), (5, 12), (1, 3)])
def test_cells_stand_where_imshows_do(shape) -> None:
    values, ax = np.zeros(shape), Figure(figsize=(3, 2)).add_subplot()
    its, mine = ax.imshow(values), Cells(ax, values)
    corners = [np.sort(cells.get_window_extent().get_points(), axis=0) for cells in (mine, its)]
    assert np.allclose(*corners)


def test_colours_end_at_the_largest_entry_unless_few_are_far_larger() -> None:
    usual = np.random.default_rng(0).uniform(-1, 1, (100, 100))
    assert color_limit(usual) == pytest.approx(1, abs=1e-3)
    assert beyond(color_limit(usual), usual) == ""
    heavy = usual.copy()
    heavy[0, 0] = -50
    assert 0.9 < color_limit(heavy) < 1
    assert "up to 50" in beyond(color_limit(heavy), heavy)
    assert color_limit(np.zeros((2, 2))) == 1


def test_a_real_weight_is_not_pale_and_says_what_is_beyond() -> None:
    """Student's t with two degrees of freedom: an outlier of a hundred times the median."""
    weight = np.random.default_rng(0).standard_t(2, (512, 128))
    display = UpdateDisplay(base=weight, delta=np.zeros_like(weight) + 0.1, name="x").plot()
    seen = np.abs(weight) / display.limit
    assert np.median(seen) > 0.05
    assert "% of the entries lie beyond" in display.clipped_.get_text().replace("\n", " ")
    assert f"colours end at {display.limit:.3g}" in display.summary()
    box = display.axes_[0].get_window_extent()
    assert 0.5 < box.width / box.height < 2  # no narrow strip
