"""Methods can be told apart by colour, with colour-vision deficiencies, and without colour."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import missviz as mv
from missviz import style
from missviz.experiments.arguments import default_methods
from missviz.style import _BY_PREFIX, method_style

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


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("protocol", ["published", "teacher"])
def test_the_methods_of_one_figure_differ_in_colour(vision: str, protocol: str) -> None:
    names = [method.name for method in default_methods(protocol)] + ["Bat b=4"]
    for one, other in itertools.combinations(names, 2):
        colors = (method_style(name).color for name in (one, other))
        first, second = (lab(color, VISION[vision]) for color in colors)
        assert np.linalg.norm(first - second) > APART, (one, other)


def test_methods_stand_out_on_dark() -> None:
    try:
        mv.lecture(dark=True)
        behind = lab(style.paper(), VISION["usual"])[0]
        for method in _BY_PREFIX:
            assert lab(method_style(method).color, VISION["usual"])[0] - behind > 40, method
    finally:
        mv.lecture(False)


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


@pytest.mark.parametrize("arguments", [("off",), (None,), (1,)])
def test_lecture_takes_true_or_false(arguments) -> None:
    with pytest.raises(TypeError, match=r"on=.* is not True or False"):
        mv.lecture(*arguments)
    with pytest.raises(TypeError, match="dark='yes' is not True or False"):
        mv.lecture(dark="yes")
    assert style.text_scale() == 1
