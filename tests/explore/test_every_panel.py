"""What holds for every panel: pictures equal the directly drawn ones, and nothing else moves."""

import itertools
import random

import numpy as np
import pytest
from helpers import drawn, pixels
from IPython.core.pylabtools import print_figure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
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


def test_slider_driven_equals_directly_drawn(panel: Panel, pytestconfig: pytest.Config) -> None:
    for point in points(panel, 2 if pytestconfig.getoption("quick") else MOST_POINTS):
        shown = pixels(panel.set(**point).picture)
        assert np.array_equal(shown, drawn(panel.view.compute(**point).plot())), point


def test_its_figure_is_shown_in_a_cell_of_its_own(panel: Panel) -> None:
    """As `%matplotlib inline` does: cut to what is drawn, which asks every artist where it is."""
    png = print_figure(panel.drawn(**panel.values).figure_)
    assert png.startswith(b"\x89PNG")


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


@pytest.mark.slow
def test_a_pinned_ghost_is_added_and_nothing_else(panel: Panel) -> None:
    first, second = points(panel)[:2]
    without = panel.set(**second).picture
    panel.set(**first).pin("before")
    panel.set(**second)
    direct = panel.view.compute(**second).plot().pin(panel.view.compute(**first), "before")
    assert panel.picture != without
    assert np.array_equal(pixels(panel.picture), drawn(direct))
    assert panel.unpin().picture == without


@pytest.mark.slow
def test_reveal_hides_the_outcome_and_nothing_else() -> None:
    for name in PANELS:
        hidden = open_panel(name, reveal=False)
        shown = open_panel(name)
        assert hidden.summary == HIDDEN
        assert hidden.picture != shown.picture, name
        assert "reveal=False" in hidden.state
        assert hidden.reveal().picture == shown.picture, name
        assert hidden.state == shown.state


@pytest.mark.slow
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


BAND = 0.1
"""Of a side: the most that may be empty between what is drawn and the picture's edge."""


def edges_left_empty(picture: np.ndarray) -> dict[str, float]:
    """Per edge the share of the picture that is paper up to what is drawn."""
    drawn_on = (np.abs(picture.astype(int) - picture[0, 0]) > 8).any(axis=2)
    found = {}
    for edge, inked in (("top", drawn_on.any(axis=1)), ("left", drawn_on.any(axis=0))):
        opposite = {"top": "bottom", "left": "right"}[edge]
        found[edge] = float(np.argmax(inked) / len(inked))
        found[opposite] = float(np.argmax(inked[::-1]) / len(inked))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("dark", [None, True], ids=["page", "dark slide"])
@pytest.mark.parametrize("name", PANELS)
def test_pictures_have_pixels_and_no_empty_band(name: str, dark: bool | None) -> None:
    """Two pixels per CSS pixel on a page; in lecture mode 1920 × 1080, whatever the panel."""
    if dark is not None:
        mv.lecture(dark=dark)
    try:
        panel = open_panel(name)
        shown = pixels(panel.picture)
        height, width = shown.shape[:2]
        if dark is None:
            inches = panel.figure.get_size_inches()
            wanted = style.PIXELS_PER_CSS * style.CSS_PER_INCH * inches
            assert abs(np.array([width, height]) - wanted).max() <= 1
            assert style.PIXELS_PER_CSS == 2
        else:
            assert (width, height) == (1920, 1080)
        for edge, share in edges_left_empty(shown).items():
            assert share < BAND, (edge, share)
    finally:
        mv.lecture(False)


def test_a_slide_fits_where_a_lecturer_shows_it() -> None:
    """JupyterLab at 1920 × 1080 and 150 % has 1096 × 599 CSS pixels: a row of controls takes 45,
    a line of words 30."""
    width, height = (style.CSS_PER_INCH * side for side in style.SLIDE)
    assert width <= 1096
    assert height <= 599 - 45 - 30
    assert width / height == pytest.approx(16 / 9)


@pytest.mark.slow
def test_legends_show_what_is_drawn_long_enough_to_tell(panel: Panel) -> None:
    """A dash needs two of its periods; no entry stands for lines that have no points."""
    for point in points(panel):
        panel.set(**point)
        for ax in panel.figure.axes:
            legend = ax.get_legend()
            for handle in legend.legend_handles if legend else []:
                if not (isinstance(handle, Line2D) and handle.get_visible()):
                    continue
                if handle.get_linestyle() != "None":
                    assert np.ptp(handle.get_xdata()) >= 2 * legend._fontsize


@pytest.mark.slow
def test_no_legend_entry_for_what_is_not_drawn() -> None:
    panel = mv.explore.rank()
    for point in points(panel, 30):
        display = panel.set(**point).view.display
        legend = display.axes_[0].get_legend()
        entries = {text.get_text() for text in legend.get_texts() if text.get_visible()}
        for entry, lines in (
            ("ΔW", display.delta_lines_),
            ("D", display.small_lines_),
            ("W₀ + ΔW", display.moved_lines_),
        ):
            assert (entry in entries) is any(len(line.get_xdata()) for line in lines), point
        assert "numerical zero" in entries


@pytest.mark.slow
@pytest.mark.parametrize("dark", [None, True], ids=["page", "dark slide"])
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
