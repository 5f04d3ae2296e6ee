"""Names of lines keep clear of each other, and say which lines cannot be told apart."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

import missviz as mv
from missviz.displays.curves import EndLabels
from missviz.displays.labels import (
    Key,
    WordsAbove,
    apart,
    beside_marks,
    lying_on_one_another,
)
from missviz.style import new_figure, row_of_axes

STEPS = np.arange(10.0)


@pytest.fixture
def ax():
    (ax,) = row_of_axes(8, 4, right=2)
    ax.set(xlim=(0, 9), ylim=(0, 9))
    return ax


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.2)), min_size=1, max_size=5),
)
def test_intervals_do_not_overlap_and_stay_inside(pairs) -> None:
    wanted, sizes = np.array(sorted(pairs)).T
    middles = apart(wanted, sizes)
    assert (np.diff(middles) >= (sizes[1:] + sizes[:-1]) / 2 - 1e-12).all()
    assert middles[0] - sizes[0] / 2 >= -1e-12
    assert middles[-1] + sizes[-1] / 2 <= 1 + 1e-12


def test_what_has_room_does_not_move() -> None:
    np.testing.assert_allclose(apart([0.2, 0.5, 0.8], [0.1, 0.1, 0.1]), [0.2, 0.5, 0.8])
    # Two that want one place share it evenly: the least sum of squares.
    np.testing.assert_allclose(apart([0.5, 0.5], [0.1, 0.1]), [0.45, 0.55])


def test_lines_that_cover_one_another_are_named_together(ax) -> None:
    lines = {
        name: ax.plot(STEPS, heights)[0]
        for name, heights in {
            "a": STEPS,
            "on a": STEPS + 1e-3,
            "apart at one step": STEPS + (STEPS == 5),
            "b": STEPS / 2,
        }.items()
    }
    (lines["empty"],) = ax.plot([], [])
    assert lying_on_one_another(lines) == [["a", "on a"], ["apart at one step"], ["b"]]
    # A line twice as near as its width in pixels, seen through other limits, is another line.
    ax.set_ylim(0, 1e-2)
    assert ["on a"] in lying_on_one_another(lines)


def test_end_labels_follow_their_lines(ax) -> None:
    lines = {
        name: ax.plot(STEPS, h)[0] for name, h in (("a", STEPS), ("b", STEPS), ("c", 0 * STEPS))
    }
    labels = EndLabels(ax, lines)
    assert {text.get_text() for text in labels.texts} == {"a\n≈ b", "c", ""}
    assert len(labels.leaders) == 2
    lines["b"].set_ydata(STEPS / 2)
    labels.place()
    shown = {text.get_text(): text for text in labels.texts}
    assert set(shown) == {"a", "b", "c"}
    leaders = {leader.get_color(): leader for leader in labels.leaders}
    assert leaders.keys() == {line.get_color() for line in lines.values()}
    for name, line in lines.items():
        assert leaders[line.get_color()].get_ydata()[-1] == shown[name].xy[1]
    assert shown["c"].xy[1] < shown["b"].xy[1] < shown["a"].xy[1]
    assert shown["b"].xy[1] == pytest.approx(0.5)


def test_a_key_stands_above_its_axes_without_overlaps(ax) -> None:
    key = Key(ax, [{"color": "red"}, {"color": "blue", "marker": "o"}])
    key.set("first", "second")
    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in key.texts]
    assert not boxes[0].overlaps(boxes[1])
    assert all(box.y0 >= ax.bbox.y1 for box in boxes)
    assert [text.get_color() for text in key.texts] == ["red", "blue"]


@pytest.mark.parametrize("lecture", [False, True])
def test_words_are_broken_inside_the_figure(lecture: bool) -> None:
    if lecture:
        mv.lecture()
    try:
        figure = new_figure(8, 4)
        words = WordsAbove(figure, 3)
        words.set("many words " * 20, "", "and more")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        first, _, last = (t.get_window_extent(canvas.get_renderer()) for t in words.texts)
        assert first.x1 <= figure.bbox.x1
        assert not first.overlaps(last)
    finally:
        mv.lecture(False)


def test_names_beside_marks_cover_nothing() -> None:
    marks = np.array([[50.0, 50.0], [60.0, 50.0], [5.0, 5.0]])
    sizes = np.array([[30.0, 10.0]] * 3)
    taken = np.hstack([marks - 4, marks + 4])
    places = beside_marks(marks, sizes, taken, (120, 100), 6)
    boxes = [
        np.array([x - 15, y - 5, x + 15, y + 5]) for x, y in (place for place in places if place)
    ]
    assert len(boxes) == 3
    everything = [*taken, *boxes]
    for n, one in enumerate(everything):
        for other in everything[max(n + 1, 3) :]:
            assert (
                one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
            )
    assert beside_marks(marks[:1], np.array([[300.0, 10.0]]), taken, (120, 100), 6) == [None]
