"""Methods can be told apart by colour, with colour-vision deficiencies, and without colour."""

import itertools
import threading
import time

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from methods_under_test import VARIANTS

import missviz as mv
from missviz import published, style
from missviz.displays.base import Display
from missviz.experiments.arguments import core_methods, default_methods
from missviz.explore import stored
from missviz.explore.colinearity import methods as colinearity_methods
from missviz.explore.pareto import NAMED
from missviz.explore.rank import METHODS as RANK_METHODS
from missviz.explore.reach import METHODS as REACH_METHODS
from missviz.style import _BY_PREFIX, method_style, method_styles

# Simulated full dichromacy, in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
APART = 15.0
"""CIE76 distance in Lab; 2.3 can just be told apart when side by side."""


def lab(color: str, seen: np.ndarray) -> np.ndarray:
    """The colour as seen, in CIE Lab (D65)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(seen @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratios = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_distance_is_right() -> None:
    assert np.allclose(lab("white", VISION["usual"]), [100, 0, 0], atol=0.1)
    assert np.allclose(lab("#ff0000", VISION["usual"]), [53.2, 80.1, 67.2], atol=0.3)


@pytest.fixture(params=[False, True], ids=["light", "dark"])
def mode(request):
    if request.param:
        mv.lecture(dark=True)
    yield
    mv.lecture(False)


FIGURES = {
    "race": [method.name for method in core_methods()],
    "figure 2, published": [method.name for method in default_methods("published")] + ["Bat b=4"],
    "figure 2, teacher": [method.name for method in default_methods("teacher")] + ["Bat b=4"],
    "reach": list(REACH_METHODS),
    "rank": list(RANK_METHODS),
    "colinearity": list(colinearity_methods(4)),
    "sharing": list(stored.sharing_methods(2)),
    "lunch": [method.name for method in stored.budget_methods(256).values()],
    "pareto": list(NAMED),
    "published gradients": list(
        dict.fromkeys(published.table("initial_gradients")["method"].tolist())
    ),
}
"""The methods of every figure that draws several."""

ROUND = {"o", "8", "h", "H", "p", *((n, star, 0) for n in range(7, 13) for star in (0, 1))}
LIKE_DIAMONDS = {"D", "d", (4, 1, 0)}


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("figure", FIGURES)
def test_the_methods_of_one_figure_differ_in_colour(vision: str, figure: str) -> None:
    for one, other in itertools.combinations(FIGURES[figure], 2):
        colors = (method_style(name).color for name in (one, other))
        first, second = (lab(color, VISION[vision]) for color in colors)
        assert np.linalg.norm(first - second) > APART, (one, other)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_methods_of_one_figure_differ_in_shape(figure: str) -> None:
    markers = [method_style(name).marker for name in FIGURES[figure]]
    assert len(set(markers)) == len(markers)
    for alike in (ROUND, LIKE_DIAMONDS):
        assert sum(marker in alike for marker in markers) <= 1, markers


@pytest.mark.parametrize("figure", FIGURES)
def test_a_method_looks_the_same_in_every_figure(figure: str) -> None:
    for name, found in method_styles(FIGURES[figure]).items():
        assert found == method_style(name), name


def test_ones_own_method_gives_way_to_those_of_the_house() -> None:
    for own in ("my own", "GainMiSS r=4", "another one", "x"):
        for name in _BY_PREFIX:
            found = method_styles([own, name])
            assert found[name] == method_style(name)
            assert found[own].color != found[name].color, (own, name)
            assert found[own].marker != found[name].marker, (own, name)
    ranks = method_styles([f"LoRA r={rank}" for rank in range(1, 9)])
    assert len({look.color for look in ranks.values()}) == 8
    assert len({look.marker for look in ranks.values()}) == 8


def test_methods_stand_out_on_dark() -> None:
    try:
        mv.lecture(dark=True)
        behind = lab(style.paper(), VISION["usual"])[0]
        for method in _BY_PREFIX:
            assert lab(method_style(method).color, VISION["usual"])[0] - behind > 40, method
    finally:
        mv.lecture(False)


def test_the_names_of_a_method_find_what_its_class_declares() -> None:
    without = {method.name for method in VARIANTS if style._known(method.name) is None}
    assert without == {"fixed tiled r=4", "fixed block r=4"}
    declared = {prefix for method in VARIANTS for prefix in method.styles}
    assert declared == {style._prefix(method.name) for method in VARIANTS} - {""}


def test_every_method_has_a_marker_of_its_own() -> None:
    markers = [method.marker for method in _BY_PREFIX.values()]
    assert len(set(markers)) == len(markers)


@pytest.mark.parametrize("protocol", ["published", "teacher"])
def test_the_methods_of_one_figure_differ_in_dash(protocol: str) -> None:
    dashes = [method_style(method.name).linestyle for method in default_methods(protocol)]
    assert len(set(dashes)) == len(dashes)


def test_lecture_mode_and_back() -> None:
    before = dict(mpl.rcParams)
    try:
        mv.lecture(dark=True)
        assert style.text_scale() == style.LECTURE_SCALE
        assert style.ink() != before["text.color"]
        assert method_style("full fine-tuning").color == style.ink()
        mv.lecture()
        assert style.text_scale() == style.LECTURE_SCALE
        assert style.ink() == before["text.color"]
    finally:
        mv.lecture(False)
    assert dict(mpl.rcParams) == before
    mv.lecture(False)
    assert dict(mpl.rcParams) == before


def test_a_scope_draws_as_lecture_mode_does_and_leaves_nothing_behind() -> None:
    def shown() -> Display:
        return mv.displays.LandscapeDisplay.from_start(0.5).plot()

    page, before = png(shown()), dict(mpl.rcParams)
    try:
        mv.lecture(dark=True)
        slide, in_hall = png(shown()), style.look()
    finally:
        mv.lecture(False)
    with style.look().on_slides(dark=True).scope():
        assert style.look() == in_hall
        made, inside = shown(), png(shown())
    assert dict(mpl.rcParams) == before
    assert inside == slide != page
    assert png(made) == slide, "what is drawn must stay in its look, its ticks too"
    assert png(shown()) == page


def png(display: Display) -> bytes:
    return display._repr_mimebundle_()[0]["image/png"]


def test_lecture_mode_is_the_whole_process_s_and_a_scope_its_thread_s() -> None:
    """A kernel draws panels in threads, each of which begins with a context of its own."""
    scoped, done = threading.Event(), threading.Event()
    found = {}

    def draw() -> None:
        with page.scope():
            scoped.set()
            time.sleep(0.1)  # settings and `lecture` are changed meanwhile
            found["scope"] = style.ink()
        done.wait()
        found["thread"] = style.text_scale()

    page = style.look()
    thread = threading.Thread(target=draw)
    try:
        mv.lecture(dark=True)
        thread.start()
        scoped.wait()
        mpl.rcParams["text.color"] = "red"  # while another thread draws
        mv.lecture()
        done.set()
        thread.join()
        assert style.look() == page.on_slides()
        assert found == {"scope": page.settings["text.color"], "thread": style.LECTURE_SCALE}
    finally:
        mv.lecture(False)
    assert style.look() == page


@pytest.mark.parametrize("arguments", [("off",), (None,), (1,)])
def test_lecture_takes_true_or_false(arguments) -> None:
    with pytest.raises(TypeError, match=r"on=.* is not True or False"):
        mv.lecture(*arguments)
    with pytest.raises(TypeError, match="dark='yes' is not True or False"):
        mv.lecture(dark="yes")
    assert style.text_scale() == 1
