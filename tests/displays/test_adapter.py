"""The map of an adapter's modules, and the spectra of some, with the panel over them."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import drawn, pixels, random
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

import missviz as mv
from missviz.analysis.comparison import random_like
from missviz.analysis.products import Product
from missviz.displays import AdapterDisplay
from missviz.displays.adapter import Limits, places_of
from missviz.displays.base import HIDDEN
from missviz.style import FAINT
from missviz.testing import random_linear, randomise

KINDS = ("attn.q_proj", "attn.v_proj", "mlp.up")
DEAD = "model.layers.1.mlp.up"
MODULE = "model.layers.2.attn.v_proj"


@pytest.fixture(scope="module")
def updates() -> dict[str, Product]:
    found = {}
    for layer in range(4):
        for place, kind in enumerate(KINDS):
            left = random(12, 3, seed=10 * layer + place) * (layer + 1)
            module = f"model.layers.{layer}.{kind}"
            found[module] = Product(left * (module != DEAD), random(3, 8, seed=place), "LoRA r=3")
    found["lm_head"] = Product(random(20, 3), random(3, 8), "LoRA r=3")
    return found


@pytest.fixture(scope="module")
def table(updates) -> pd.DataFrame:
    return mv.inspect_adapter(updates)


def norm(update: Product) -> float:
    return float(np.linalg.norm(update.delta().numpy()))


def test_the_map_has_each_norm_at_its_place(updates, table) -> None:
    display = AdapterDisplay(table).plot()
    assert display.kinds == [*KINDS, "lm_head"]
    assert display.layers == [-1, 0, 1, 2, 3]
    cells = display.im_.get_array().filled(np.nan)
    for layer in range(4):
        for place, kind in enumerate(KINDS):
            module = f"model.layers.{layer}.{kind}"
            if module != DEAD:
                assert cells[place, layer + 1] == pytest.approx(norm(updates[module]))
    assert np.isnan(cells[0, 0])
    assert cells[3, 0] == pytest.approx(norm(updates["lm_head"]))
    ticks = [label.get_text() for label in display.axes_[0].get_xticklabels()]
    assert ticks == ["–", "0", "1", "2", "3"]


def test_no_update_is_grey_and_nothing_is_paper(table) -> None:
    display = AdapterDisplay(table).plot()
    colors = display.im_.cmap(display.im_.norm(display.im_.get_array()))
    assert to_hex(colors[2, 2]) == FAINT
    assert to_hex(colors[0, 0]) == "#ffffff"
    assert "ΔW = 0 in 1" in display.summary()


def test_relative_to_w0_where_it_is_known(updates) -> None:
    table = mv.inspect_adapter(updates, lambda module: 2 * updates[module].delta() + 1e-9)
    display = AdapterDisplay(table, [MODULE]).plot()
    assert display.axes_[0].get_title() == "‖ΔW‖ / ‖W₀‖"
    assert display.sizes[MODULE] == pytest.approx(0.5)


def test_spectra_are_numpys(updates, table) -> None:
    control = random_like(updates)
    display = AdapterDisplay(table, [MODULE], control=mv.inspect_adapter(control)).plot()
    for line, update in (
        (display.lines_[0], updates[MODULE]),
        (display.control_lines_[0], control[MODULE]),
    ):
        wanted = np.linalg.svd(update.delta().numpy(), compute_uv=False)[:3]
        np.testing.assert_allclose(line.get_ydata(), wanted, rtol=1e-9)
        assert line.get_xdata().tolist() == [1, 2, 3]
    ax = display.axes_[1]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert display.frames_[0].get_xy() == (2.5, 0.5)
    assert "rank 3, stable rank" in display.summary()
    assert "60 trained numbers" in display.summary()
    assert "control: stable rank" in display.summary()


def test_it_picks_the_smallest_the_middle_and_the_largest(updates, table) -> None:
    ranked = sorted(
        (module for module in updates if module != DEAD), key=lambda m: norm(updates[m])
    )
    assert AdapterDisplay(table).modules == [ranked[0], ranked[6], ranked[-1]]


def test_update_keeps_limits(table) -> None:
    limits = Limits.of(table)
    display = AdapterDisplay(table, [MODULE], limits=limits).plot()
    before = [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_]
    display.update(AdapterDisplay(table, ["lm_head"], limits=limits))
    assert [(ax.get_xlim(), ax.get_ylim()) for ax in display.axes_] == before
    assert display.modules == ["lm_head"]
    assert display.frames_[0].get_xy() == (-0.5, 2.5)
    assert "lm_head" in display.texts_[0].get_text()


def test_names_are_not_trusted() -> None:
    """Neither mathematics nor letters that no font has, nor names without end, nor many rows."""
    names = [
        "$\\frac{$",
        "层.0.\u202eq",
        "x" * 5000,
        "",
        "0",
        "a.b\nc",
        *(f"m{i}" for i in range(200)),
    ]
    table = mv.inspect_adapter({name: Product(random(3, 1), random(1, 4)) for name in names})
    display = AdapterDisplay(table, names[:3]).plot()
    FigureCanvasAgg(display.figure_).draw()
    assert display.figure_.get_size_inches()[1] < 13


@pytest.mark.parametrize(
    "update",
    [Product(torch.zeros(3, 1), torch.ones(1, 4)), Product(torch.ones(3, 1) / 0, torch.ones(1, 4))],
)
def test_nothing_to_show_is_shown_as_nothing(update) -> None:
    display = AdapterDisplay(mv.inspect_adapter({"m": update})).plot()
    FigureCanvasAgg(display.figure_).draw()
    assert display.modules == []


def test_places() -> None:
    assert places_of(["layers.3.attn.q", "head", "0", "2", "layers.3.experts.1.w"]) == {
        "layers.3.attn.q": ("attn.q", 3),
        "head": ("head", -1),
        "0": ("layer", 0),
        "2": ("layer", 2),
        "layers.3.experts.1.w": ("experts.1.w", 3),
    }
    assert places_of(["encoder.layers.0.q", "decoder.layers.0.q"]) == {
        "encoder.layers.0.q": ("encoder.layers…q", 0),
        "decoder.layers.0.q": ("decoder.layers…q", 0),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ["none"]}, "modules: there is no 'none' in the table"),
        ({"modules": [MODULE] * 4}, "modules has 4 names; at most 3"),
    ],
)
def test_bad_input(table, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterDisplay(table, **options)
    with pytest.raises(ValueError, match="control: there is no 'lm_head' in the table"):
        AdapterDisplay(table, ["lm_head"], control=table[table["module"] != "lm_head"])


# --- The panel --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panel(updates):
    halved = {name: Product(each.left / 2, each.right) for name, each in updates.items()}
    return mv.explore.adapter(updates, {"halved": halved})


POINTS = [
    {"module": MODULE, "control": "none"},
    {"module": "lm_head", "control": "same-norm random"},
    {"module": DEAD, "control": "same-norm random"},
    {"module": MODULE, "control": "halved"},
]


@pytest.mark.slow
def test_panel_equals_directly_drawn_and_limits_stay(panel) -> None:
    seen, pictures = set(), set()
    for point in POINTS:
        shown = panel.set(**point).picture
        assert np.array_equal(pixels(shown), drawn(panel.view.compute(**point).plot())), point
        pictures.add(shown)
        seen.add(tuple((ax.get_xlim(), ax.get_ylim()) for ax in panel.figure.axes))
        assert 10 < len(panel.summary) < 400
        assert "\n" not in panel.summary
    assert len(seen) == 1
    assert len(pictures) == len(POINTS)


def test_panel_pins(panel) -> None:
    without = panel.set(**POINTS[0]).picture
    panel.set(**POINTS[1]).pin("before")
    direct = panel.set(**POINTS[0]).view.compute(**POINTS[0]).plot()
    direct.pin(panel.view.compute(**POINTS[1]), "before")
    assert np.array_equal(pixels(panel.picture), drawn(direct))
    assert panel.picture != without
    assert panel.unpin().picture == without


@pytest.mark.slow
def test_panel_hides_and_reopens(updates) -> None:
    hidden = mv.explore.adapter(updates, reveal=False)
    assert hidden.summary == HIDDEN
    assert hidden.state.startswith("mv.explore.adapter(updates=updates, module=")
    shown = mv.explore.adapter(updates)
    assert hidden.picture != shown.picture
    assert hidden.reveal().picture == shown.picture
    again = eval(shown.state, {"mv": mv, "updates": updates})
    assert again.picture == shown.picture


@pytest.mark.slow
@pytest.mark.parametrize("dark", [None, False, True])
def test_panel_text_is_large_enough_and_nothing_covers_it(updates, dark: bool | None) -> None:
    from explore.test_every_panel import check_text

    if dark is not None:
        mv.lecture(dark=dark)
    try:
        panel = mv.explore.adapter(updates)
        for point in POINTS[:3]:
            check_text(panel.set(**point).figure, point)
    finally:
        mv.lecture(False)


def test_panel_of_an_attached_model() -> None:
    model = mv.attach(torch.nn.Sequential(random_linear(8, 8, torch.float64)), mv.MiSS(2))
    randomise(model)
    assert "MiSS r=2: 1 modules" in mv.explore.adapter(model).summary


def test_panel_of_nothing_that_can_be_measured() -> None:
    with pytest.raises(ValueError, match="updates: nothing could be measured; ΔW's left factor"):
        mv.explore.adapter({"m": Product(torch.ones(2, 1) / 0, torch.ones(1, 2))})


def test_panel_with_a_control_on_other_layers(updates) -> None:
    with pytest.raises(ValueError, match="controls: 'x' has no module"):
        mv.explore.adapter(updates, {"x": {"lm_head": updates["lm_head"]}})
