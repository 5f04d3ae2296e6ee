"""The reader's own methods, weights, targets and inputs in every panel that takes them."""

import random as stdlib_random
import sys

import numpy as np
import pytest
import torch
from helpers import drawn, pixels, random
from own_methods import OWN, Bent, GainMiSS, Halved, Shift

import missviz as mv
from missviz.adapters.linear import linear_with
from missviz.displays import ShardDisplay
from missviz.experiments.gain_and_rate import linear_task
from missviz.explore.methods import family, size_of, within
from missviz.explore.panel import Panel
from missviz.explore.reach import METHODS as IN_REACH
from missviz.explore.reach import TARGETS as IN_TARGETS
from missviz.testing import randomise

pytestmark = pytest.mark.slow
HEAVY = np.random.default_rng(0).standard_t(3, size=(512, 128)) / 20
"""Numbers with the tails that real weights have."""
NAMESPACE = {
    "mv": mv,
    "GainMiSS": GainMiSS,
    "Shift": Shift,
    "Bent": Bent,
    "Halved": Halved,
    "weight": HEAVY,
}
MENUS = ["update", "rank", "colinearity"]
BESIDE = ["reach", "gradient_norms", "sharing", "lunch"]


def open_panel(name: str, **options) -> Panel:
    return getattr(mv.explore, name)(**options)


@pytest.fixture(scope="module", params=[*MENUS, *BESIDE])
def name(request) -> str:
    return request.param


def methods_by_panel() -> list:
    """All in each; but one in `lunch`, which trains."""
    return [
        pytest.param(name, method, id=f"{name}-{method.name}")
        for name in (*MENUS, *BESIDE)
        for method in (OWN[:1] if name == "lunch" else OWN)
    ]


@pytest.mark.parametrize(("name", "method"), methods_by_panel())
def test_every_panel_takes_a_method_and_its_state_is_code(name: str, method: mv.Method) -> None:
    panel = open_panel(name, method=method)
    if name in MENUS:
        assert panel.values["method"] == method
        assert f"{method.name}: " in panel.summary or f"{method.name}, " in panel.summary
    else:
        assert family(method) in panel.summary or name == "lunch"
    again = eval(panel.state, NAMESPACE)
    assert again.values == panel.values
    assert again.picture == panel.picture


@pytest.mark.parametrize("name", ["update", "rank", "colinearity", "reach", "gradient_norms"])
def test_slider_driven_equals_directly_drawn(name: str) -> None:
    options = {"x": random(7, 24)} if name == "reach" else {}
    panel = open_panel(name, method=[GainMiSS(2), Shift()], **options)
    points = [values for _, values in panel.view.settings()]
    stdlib_random.Random(0).shuffle(points)
    for point in points[:5]:
        shown = pixels(panel.set(**point).picture)
        assert np.array_equal(shown, drawn(panel.view.compute(**point).plot())), point


@pytest.mark.parametrize("name", MENUS)
def test_a_menu_has_the_object_by_its_name(name: str) -> None:
    panel = open_panel(name, method=["LoRA", GainMiSS(2), Shift()])
    assert panel.values["method"] == "LoRA"
    panel.set(method="shift")
    assert panel.values["method"] == Shift()
    first = panel.picture
    panel.set(method=GainMiSS(2))
    assert panel.picture != first
    assert panel.set(method=Shift()).picture == first


def test_a_rank_applies_to_the_object_and_one_without_has_no_control() -> None:
    panel = mv.explore.update(method=GainMiSS(2))
    assert panel.values["rank"] == 2
    assert "gain MiSS r=4: " in panel.set(rank=4).summary
    assert "rank 4" in panel.summary
    assert "rank" not in mv.explore.update(method=Shift()).choices
    assert "rank" not in mv.explore.rank(method=Shift(), weight=HEAVY).choices
    assert "rank" in mv.explore.update(method=["MiSS", Shift()]).choices


def test_what_is_shown_is_the_methods_own_update() -> None:
    adapter = mv.experiments.adapter_snapshots(GainMiSS(4), [10])[10].double()
    panel = mv.explore.colinearity(method=GainMiSS(4), steps=10)
    shown = panel.view.compute(**panel.values)
    np.testing.assert_allclose(shown.delta, adapter.delta().detach(), atol=1e-12)
    values = np.linalg.svd(adapter.delta().detach(), compute_uv=False)
    panel = mv.explore.rank(method=GainMiSS(4), steps=10)
    (spectrum,) = panel.view.compute(**panel.values).spectra.values()
    np.testing.assert_allclose(spectrum.delta[:4], values[:4], rtol=1e-9)


def test_first_gradients_are_measured() -> None:
    """Shift's one number has the sum of G as its gradient."""
    panel = mv.explore.gradient_norms(method=[Shift(), GainMiSS(2)], input_mean=1.0)
    table = panel.view.compute(**panel.values).norms.set_index(["family", "rank"])
    gradients = [linear_task(1.0, seed).gradient() for seed in range(10)]
    wanted = np.mean([float(G.sum().abs() / G.norm()) for G in gradients])
    np.testing.assert_allclose(table.loc["shift", "mean"], wanted)
    # While D = 0 the gains have no gradient, and D's is MiSS's.
    np.testing.assert_allclose(table.loc["gain MiSS", "mean"], table.loc["MiSS", "mean"])
    assert table.loc["shift", "law"].isna().all()


def test_reach_is_that_of_mv_reach() -> None:
    panel = mv.explore.reach(method=[GainMiSS(2), Halved(2)], target="dense", rank=4)
    wanted, reaches = (
        panel.view.compute(**panel.values).target,
        panel.view.compute(**panel.values).reaches,
    )
    for called, method in (("gain MiSS", GainMiSS(4)), ("halved", Halved(4))):
        found = reaches[called]
        share = found.shares[found.at(4)]
        assert share == pytest.approx(mv.reach(method, torch.from_numpy(wanted)), abs=1e-4)
    assert "gain MiSS at least " in panel.summary
    assert "halved at least" not in panel.summary
    assert "MiSS rows at least" not in panel.summary


def test_gains_make_alternating_signs_visible_to_miss() -> None:
    summary = mv.explore.reach("invisible to MiSS", rank=4, method=GainMiSS(2)).summary
    assert "MiSS 0% (96)" in summary
    assert "gain MiSS at least 100% (120)" in summary


def test_lunch_and_sharing_keep_to_the_budget_and_say_what_was_made_now() -> None:
    panel = mv.explore.lunch(method=GainMiSS(4), shown="closed form")
    shown = panel.view.compute(**panel.values)
    assert list(shown.shares.index)[-1] == "gain MiSS r=3"
    assert GainMiSS(3).num_parameters(64, 64) == 256
    assert any("gain MiSS: made now, 3 seeds" in t.get_text() for t in panel.figure.texts)
    assert shown.shares.loc["gain MiSS r=3", "periodic"] < 1e-6 + 3 / 4
    panel = mv.explore.sharing(method=GainMiSS(4))
    curves = panel.view.compute(**panel.values).curves
    assert (curves["method"] == "gain MiSS").sum() == 11
    assert any("gain MiSS: computed now, 3 problems" in t.get_text() for t in panel.figure.texts)


def test_in_lunch_nobody_has_a_frame_where_an_untested_method_is_lowest(monkeypatch) -> None:
    lunch = sys.modules["missviz.explore.lunch"]  # the function has the module's name
    monkeypatch.setattr(lunch, "_trained", lambda method, target: float(target == "dense"))
    panel = mv.explore.lunch(method=Shift())
    winners = panel.view.compute(**panel.values).winners
    assert winners["dense"] == "LoRA r=2"
    assert winners["low rank"] is None


def test_work_goes_through_what_is_not_computed_yet() -> None:
    panel = mv.explore.reach(method=Shift())
    lines = list(panel._work)
    assert lines[-1] == "reach: 9 of 9 targets"
    assert len(lines) == 8
    assert list(mv.explore.gradient_norms(method=Shift())._work)[-1].endswith("4 of 4 input means")


# --- Targets, weights, inputs ---------------------------------------------------------------------


def test_a_target_of_ones_own() -> None:
    target = random(12, 16, seed=3)
    panel = mv.explore.reach(target, rank=2)
    assert panel.state == "mv.explore.reach(target=target, rank=2)"
    assert eval(panel.state, {"mv": mv, "target": target}).picture == panel.picture
    found = panel.view.compute(**panel.values)
    np.testing.assert_array_equal(found.target, target)
    assert found.reaches["LoRA"].shares[1] == pytest.approx(mv.reach(mv.LoRA(2), target))
    norms = {
        float(np.linalg.norm(panel.view.compute(target=name, rank=2).target))
        for name in panel.choices["target"]
    }
    np.testing.assert_allclose(list(norms), float(target.norm()))
    small = mv.explore.reach(np.arange(15.0).reshape(3, 5))
    assert small.values["rank"] == 1
    assert "invisible to MiSS" not in small.choices["target"]


def test_a_target_from_a_file(tmp_path) -> None:
    path = str(tmp_path / "m.npy")
    np.save(path, random(24, 24).numpy())
    panel = mv.explore.reach(path)
    assert panel.set(target="dense").set(target=path).summary.startswith("Target: m.npy")
    assert eval(panel.state, {"mv": mv}).picture == panel.picture


def test_a_planted_target_on_ones_own_weight() -> None:
    weight = random(16, 16, seed=9)
    adapter = mv.Bat(4).on(linear_with(weight))
    randomise(adapter)
    panel = mv.explore.reach(adapter.delta().detach(), weight=weight)
    assert "Bat 100% (64)" in panel.summary
    without = mv.explore.reach(adapter.delta().detach())
    assert "Bat 100%" not in without.summary


def test_reach_on_inputs_of_ones_own() -> None:
    x = random(40, 24, seed=5) * torch.arange(24)
    panel = mv.explore.reach("dense", x=x, method=GainMiSS(2))
    assert panel.state.startswith("mv.explore.reach(method=GainMiSS(rank=2), x=x, target='dense'")
    again = eval(panel.state, NAMESPACE | {"x": x})
    assert again.picture == panel.picture
    assert again.summary == panel.summary
    assert "Share in reach on your inputs at rank 2 (trained numbers): LoRA " in panel.summary
    found = panel.view.compute(**panel.values)
    base = mv.explore.reach("dense").view.compute(target="dense", rank=2).target
    np.testing.assert_array_equal(found.target, base)
    target = torch.from_numpy(found.target)
    for called, method in (("LoRA", mv.LoRA(2)), ("MiSS", mv.MiSS(2)), ("gain MiSS", GainMiSS(2))):
        share = found.reaches[called].shares[found.reaches[called].at(2)]
        assert share == pytest.approx(mv.reach(method, target, x=x), abs=1e-4), called
        assert share > mv.reach(method, target) + 0.02, called
    _, curves, bars = panel.figure.axes
    assert curves.get_ylabel() == "share in reach on your inputs"
    assert bars.get_xlabel() == "share in reach\non your inputs"
    plain = mv.explore.reach("dense")
    assert "on your inputs" not in plain.summary
    assert plain.figure.axes[1].get_ylabel() == plain.figure.axes[2].get_xlabel()
    # The diagonal of a random M is not drawn where nobody knows what it would be.
    assert len(plain.figure.axes[1].lines) == len(IN_REACH) + 1
    assert len(curves.lines) == len(IN_REACH) + 1  # GainMiSS instead


def test_inputs_written_as_lists_and_beside_a_weight_and_a_target() -> None:
    x, weight, target = [[1, 0, 0.5, 2]], random(4, 4), random(4, 4, seed=1)
    panel = mv.explore.reach(target, weight=weight, x=x)
    assert "x=[[1, 0, 0.5, 2]]" in panel.state
    names = {"mv": mv, "weight": weight, "target": target}
    assert eval(panel.state, names).picture == panel.picture
    assert "LoRA 100% (16)" in panel.summary


def test_a_target_that_makes_nothing_of_the_inputs_is_not_in_the_menu() -> None:
    """The row of "invisible to MiSS" sums to 0 over each eight inputs that are the same."""
    panel = mv.explore.reach(x=np.ones((1, 24)))
    assert set(IN_TARGETS) - set(panel.choices["target"]) == {"invisible to MiSS"}
    assert panel.set(target="dense").summary.startswith("Target: dense. Share in reach on your")


@pytest.mark.parametrize("name", ["update", "rank", "colinearity", "reach", "expansion"])
def test_a_real_weight(name: str) -> None:
    panel = open_panel(name, weight=HEAVY)
    assert "weight=weight" in panel.state
    assert eval(panel.state, NAMESPACE).picture == panel.picture
    cut = open_panel(name, weight=np.tile(HEAVY, (2, 1)))
    assert "of 1024 × 128 weights" in cut.summary
    words = " ".join(
        text.get_text().replace("\n", " ")
        for text in (*cut.figure.texts, *(t for ax in cut.figure.axes for t in ax.texts))
    )
    assert "of 1024 × 128 weights" in words


def test_a_real_weight_with_a_method_of_ones_own() -> None:
    for name in (*MENUS, "reach"):
        panel = open_panel(name, weight=HEAVY, method=GainMiSS(4))
        assert "gain MiSS" in panel.summary
        assert "weight=weight" in panel.state


def test_update_shows_the_weight_and_keeps_its_colours() -> None:
    weight = random(5, 7)
    panel = mv.explore.update(weight=weight, method="MiSS", rank=2)
    np.testing.assert_array_equal(panel.view.compute(**panel.values).base, weight)
    limits = {
        image.get_clim()
        for values in ({"method": "LoRA"}, {"method": "MiSS", "rank": 1})
        for image in panel.set(**values).figure.axes[0].images
    }
    assert len(limits) == 1
    tiny = mv.explore.update(weight=weight / 1000)
    assert "in units of the largest entry, 0.00" in tiny.summary


def test_update_shows_x_and_what_becomes_of_it() -> None:
    x = [1, 0, -1, 2, 0, 0, 0.5, 3]
    panel = mv.explore.update(x=x)
    assert panel.state == f"mv.explore.update(x={x}, method='MiSS', rank=2)"
    shown = panel.view.compute(**panel.values)
    y = (shown.base + shown.delta) @ x
    assert f"that of y = W₀ x + ΔW x is {np.linalg.norm(y):.2f}" in panel.summary
    square = panel.figure.axes[2].images[0].get_array()
    np.testing.assert_allclose(square[2:, -1], y)
    np.testing.assert_array_equal(square[0, :8], x)
    other = panel.picture
    assert panel.pin("before").set(rank=4).picture != other


def test_expansion_of_an_x_and_a_weight() -> None:
    x = np.arange(8.0)
    panel = mv.explore.expansion(x=x, rank=4)
    assert eval(panel.state, {"mv": mv, "x": x}).picture == panel.picture
    assert "S[1] = x[1] + x[5] = 6" in panel.summary
    weight = random(6, 10)
    for layout, method in (
        ("tiled", mv.MiSS(3)),
        ("block", mv.MiSS(3, layout="block")),
        ("rows", mv.MiSS(3, share="rows")),
    ):
        panel = mv.explore.expansion(weight=weight, rank=3, layout=layout)
        shown = panel.view.compute(**panel.values)
        missed = np.square(weight.numpy() - shown.delta).sum() / float(weight.square().sum())
        assert 1 - missed == pytest.approx(mv.reach(method, weight)), layout
        assert shown.difference < 1e-12
    assert list(panel.choices["trace"]) == list(range(6))


@pytest.mark.parametrize("method", [GainMiSS(3), mv.FixedFactor(3, "tiled"), mv.LoRA(2), Shift()])
def test_shards_of_any_method_with_few_columns(method: mv.Method) -> None:
    adapter = method.on(linear_with(random(6, 8)))
    assert "no update yet" in ShardDisplay.from_adapter(adapter, random(8)).plot().summary()
    randomise(adapter)
    display = ShardDisplay.from_adapter(adapter, random(8), trace=4).plot()
    np.testing.assert_allclose(display.delta, adapter.delta().detach())
    assert display.difference < 1e-12
    if isinstance(method, GainMiSS):
        assert display.copies == [1, 4, 7]
    if isinstance(method, mv.LoRA):
        assert "column 4 of ΔW is made of several columns of D" in display.summary()


# --- Helpers and messages -------------------------------------------------------------------------


def test_sizes_and_families() -> None:
    assert [size_of(m) for m in OWN] == [2, None, 2, 2]
    assert [family(m) for m in OWN] == ["gain MiSS", "shift", "bent", "halved"]
    assert family(mv.LoRA(2, alpha=8)) == "LoRA α=8"
    assert size_of(mv.Bat(4)) == 4
    assert within(GainMiSS(9), 100, 24, 24) == GainMiSS(3)
    assert within(GainMiSS(9), 1, 24, 24) == GainMiSS(1)
    assert within(Shift(), 1, 24, 24) == Shift()
    assert within(mv.Bat(1), 24 * 5, 24, 24) == mv.Bat(4)
    assert set(IN_REACH) >= {"LoRA", "MiSS", "Bat"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"method": GainMiSS},
            TypeError,
            r"method=GainMiSS is a class; pass an instance: GainMiSS\(",
        ),
        ({"method": Shift}, TypeError, r"pass an instance: Shift\("),
        ({"method": 3}, TypeError, "method=3 is not a missviz method"),
        ({"method": []}, ValueError, "method is an empty list"),
        ({"method": [Shift(), Shift()]}, ValueError, "method has shift more than once"),
    ],
)
def test_bad_methods(name: str, options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_panel(name, **options)


TALL = Halved(100)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.explore.update(TALL), ValueError, "halved r=100 on a layer of 8 × 8: rank=100"),
        (lambda: mv.explore.rank(TALL), ValueError, "halved r=100 on a layer of 64 × 64: rank=100"),
        (lambda: mv.explore.colinearity(TALL), ValueError, "halved r=100 on a layer of 64 × 64"),
        (lambda: mv.explore.reach(method=TALL), ValueError, "halved r=100 on a layer of 24 × 24"),
        (lambda: mv.explore.colinearity(mv.DoRA(2)), ValueError, "its trained numbers are of W₀'s"),
        (lambda: mv.explore.sharing(method=mv.Bat(2)), ValueError, "depends on W₀, and there is"),
        (lambda: mv.explore.update("DoRA"), ValueError, "is not a choice; .* or give a method obj"),
        (
            lambda: mv.explore.reach(method="LoRA"),
            TypeError,
            "method='LoRA' is a name; .* drawn an",
        ),
        (lambda: mv.explore.reach(method=mv.LoRA(2)), ValueError, "'LoRA' is drawn already"),
        (lambda: mv.explore.update(mv.FullFineTuning()), ValueError, "stands in the menu already"),
        (lambda: mv.explore.reach("round"), ValueError, "target='round' is not a choice"),
        (lambda: mv.explore.reach(torch.zeros(4, 4)), ValueError, "target is zero"),
        (lambda: mv.explore.reach([[1.0]]), TypeError, "target of type list"),
        (lambda: mv.explore.reach("no.npy"), FileNotFoundError, "target: there is no file no.npy"),
        (
            lambda: mv.explore.reach(torch.ones(4, 4), weight=torch.ones(4, 5)),
            ValueError,
            r"weight is \(4, 5\) and target \(4, 4\)",
        ),
        (lambda: mv.explore.update(x=[1, 2]), ValueError, r"x has shape \(2,\); .* 8 numbers"),
        (lambda: mv.explore.update(x="1234"), TypeError, "x='1234' is not a list of numbers"),
        (lambda: mv.explore.update(x=[np.nan] * 8), ValueError, "x has 8 values that are NaN"),
        (
            lambda: mv.explore.update(weight=HEAVY, x=[1]),
            ValueError,
            "drawn on layers up to 16 × 16",
        ),
        (
            lambda: mv.explore.reach(x=[1.0] * 24),
            ValueError,
            r"x has shape \(24,\); n inputs .* are \(n, 24\), one of them \(1, 24\)",
        ),
        (
            lambda: mv.explore.reach(weight=HEAVY, x=np.ones((3, 24))),
            ValueError,
            r"x has shape \(3, 24\); n inputs .* are \(n, 128\)",
        ),
        (lambda: mv.explore.reach(x="ones"), TypeError, "x='ones' is not a list of numbers"),
        (lambda: mv.explore.reach(x=[[1], [1, 2]]), TypeError, "is not a list of numbers"),
        (lambda: mv.explore.reach(x=np.full((1, 24), np.inf)), ValueError, "x has 24 values"),
        (lambda: mv.explore.reach(x=np.zeros((1, 24))), ValueError, "x is zero: M makes"),
        (
            lambda: mv.explore.reach(torch.ones(2, 2), x=[[1, -1]]),
            ValueError,
            "M Xᵀ is zero: the target makes nothing of the inputs x",
        ),
        (lambda: mv.explore.expansion(size=4, weight=HEAVY), ValueError, "size=4 and a weight"),
        (lambda: mv.explore.expansion(weight=np.ones((1, 4))), ValueError, "the smallest is 2 × 2"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
