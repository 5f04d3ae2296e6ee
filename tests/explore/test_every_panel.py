"""What holds for every panel: pictures equal the directly drawn ones, and nothing else moves."""

import itertools
import random

import numpy as np
import pytest
from helpers import drawn, pixels
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import missviz as mv
from missviz import style
from missviz.displays.base import HIDDEN
from missviz.explore.gallery import PANELS
from missviz.explore.panel import Panel

MOST_POINTS = 8


def open_panel(name: str, **options) -> Panel:
    return getattr(mv.explore, name)(**options)


@pytest.fixture(scope="module", params=PANELS)
def panel(request) -> Panel:
    return open_panel(request.param)


def points(panel: Panel, most: int = MOST_POINTS) -> list[dict]:
    """Some of the combinations of the controls' values, in an order that jumps about."""
    grid = [
        dict(zip(panel.view.choices, point, strict=True))
        for point in itertools.product(*panel.view.choices.values())
    ]
    random.Random(0).shuffle(grid)
    return grid[:most]


def test_slider_driven_equals_directly_drawn(panel: Panel) -> None:
    for point in points(panel):
        shown = pixels(panel.set(**point).picture)
        assert np.array_equal(shown, drawn(panel.view.compute(**point).plot())), point


def test_every_control_changes_the_picture(panel: Panel) -> None:
    start = panel.values
    for name, options in panel.view.choices.items():
        seen = {panel.set(**{**start, name: option}).picture for option in options}
        assert len(seen) > 1, f"{name} changes nothing"
    panel.set(**start)


def test_limits_and_colours_stay(panel: Panel) -> None:
    if panel.view.name == "race":
        pytest.skip("its limits are those of what is shown: see test_race.py")
    seen = set()
    for point in points(panel):
        axes = panel.set(**point).figure.axes
        seen.add(
            tuple(
                (ax.get_xlim(), ax.get_ylim(), tuple(image.get_clim() for image in ax.images))
                for ax in axes
            )
        )
    assert len(seen) == 1


def test_a_pinned_ghost_is_added_and_nothing_else(panel: Panel) -> None:
    first, second = points(panel)[:2]
    without = panel.set(**second).picture
    panel.set(**first).pin("before")
    panel.set(**second)
    direct = panel.view.compute(**second).plot().pin(panel.view.compute(**first), "before")
    assert panel.picture != without
    assert np.array_equal(pixels(panel.picture), drawn(direct))
    assert panel.unpin().picture == without


def test_reveal_hides_the_outcome_and_nothing_else() -> None:
    for name in PANELS:
        hidden = open_panel(name, reveal=False)
        shown = open_panel(name)
        assert hidden.summary == HIDDEN
        assert hidden.picture != shown.picture, name
        assert "reveal=False" in hidden.state
        assert hidden.reveal().picture == shown.picture, name
        assert hidden.state == shown.state


def test_summary_is_one_line(panel: Panel) -> None:
    for point in points(panel):
        summary = panel.set(**point).summary
        assert 10 < len(summary) < 400
        assert "\n" not in summary


def test_state_opens_the_same_view(panel: Panel) -> None:
    panel.set(**points(panel)[0])
    again = eval(panel.state, {"mv": mv})
    assert again.values == panel.values
    assert again.picture == panel.picture
    assert again.summary == panel.summary


@pytest.mark.parametrize("dark", [None, False, True])
@pytest.mark.parametrize("name", PANELS)
def test_text_is_large_enough_and_nothing_covers_it(name: str, dark: bool | None) -> None:
    if dark is not None:
        mv.lecture(dark=dark)
    try:
        panel = open_panel(name)
        for point in points(panel, 4):
            check_text(panel.set(**point).figure, point)
    finally:
        mv.lecture(False)


def check_text(figure, point: dict) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer, page = canvas.get_renderer(), figure.bbox
    boxes = {}
    unseen = {
        label
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        for label in (tick.label1, tick.label2)
    }
    for text in figure.findobj(Text):
        if text in unseen:
            continue
        words = text.get_text().strip()
        if not (words and text.get_visible()) or (text.axes and not text.axes.get_visible()):
            continue
        box = text.get_window_extent(renderer)
        if box.width == 0 or not page.contains(box.x0 + box.width / 2, box.y0 + box.height / 2):
            continue  # of a tick beyond the limits
        assert text.get_fontsize() >= 8 * style.text_scale(), (words, text.get_fontsize())
        assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1, (words, point)
        assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1, (words, point)
        boxes[words, round(box.x0), round(box.y0)] = box.padded(-1)
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not first.overlaps(second), f"{one[0]!r} covers {other[0]!r} at {point}"
