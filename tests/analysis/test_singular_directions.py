"""Where ΔW lies beside W₀'s singular directions, against dense matrices and by hand."""

import pandas as pd
import pytest
import torch
from helpers import raises_one_sentence, random
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_under_test import VARIANTS
from tiny_transformer import Transformer
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.base import Method
from missviz.analysis import directions, weight_spectra
from missviz.analysis.products import Product
from missviz.testing import bound, random_linear, randomise

SHAPES = [(8, 12), (12, 8), (12, 12)]


def shares(table: pd.DataFrame, update: str = "ΔW") -> dict[tuple[str, str], float]:
    rows = table[table["update"] == update]
    return rows.groupby(["side", "end"])["share"].mean().to_dict()


def brute_force(delta: Tensor, weight: Tensor, count: int) -> dict[tuple[str, str], float]:
    """Orthogonal projections onto the spans, as matrices."""
    U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
    found = {}
    for end, part in {"top": range(count), "bottom": range(-count, 0)}.items():
        left, right = U[:, list(part)], Vh[list(part)].mT
        onto = {
            "left": left @ left.mT @ delta,
            "right": delta @ right @ right.mT,
            "both": left @ left.mT @ delta @ right @ right.mT,
        }
        for side, kept in onto.items():
            found[side, end] = float(kept.square().sum() / delta.square().sum())
    return found


@pytest.mark.parametrize("method", [m for m in VARIANTS if type(m) is not mv.BigLoRA], ids=str)
def test_shares_of_every_variant_are_those_of_dense_projections(method: Method) -> None:
    adapter = bound(method, random_linear(8, 12, torch.float64))
    randomise(adapter)
    delta, weight = adapter.delta().detach(), adapter.base.weight.detach()
    found = shares(directions({"layer": adapter}, 3, controls=0))
    assert found == pytest.approx(brute_force(delta, weight, 3), rel=1e-6, abs=1e-9)
    spectra = weight_spectra({"layer": adapter})["layer"]
    for values, matrix in zip(spectra, (weight, delta, weight + delta), strict=True):
        assert torch.allclose(values, torch.linalg.svdvals(matrix), rtol=1e-8, atol=1e-9)
    assert torch.equal(spectra.update, mv.spectra({"layer": adapter})["layer"].values)


@settings(max_examples=40)
@given(shape=st.sampled_from(SHAPES), count=st.integers(1, 8), seed=st.integers(0, 1000))
def test_shares_on_random_shapes(shape: tuple[int, int], count: int, seed: int) -> None:
    weight = random(*shape, seed=seed)
    update = Product(random(shape[0], 2, seed=seed + 1), random(2, shape[1], seed=seed + 2))
    found = shares(directions({"m": update}, count, lambda name: weight, controls=0))
    assert found == pytest.approx(brute_force(update.delta(), weight, count), abs=1e-9)
    if count == min(shape):
        narrow = "left" if shape[0] <= shape[1] else "right"
        assert found[narrow, "top"] == found[narrow, "bottom"] == pytest.approx(1)


@pytest.mark.parametrize(("end", "part"), [("top", slice(None, 2)), ("bottom", slice(-2, None))])
def test_an_update_made_of_w0_s_own_directions_lies_in_them(end: str, part: slice) -> None:
    weight = random(8, 12)
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    own = Product(U[:, part] * S[part], Vh[part])
    other = "bottom" if end == "top" else "top"
    found = shares(directions({"m": own}, 2, lambda name: weight, controls=0))
    for side in ("left", "right", "both"):
        assert found[side, end] == pytest.approx(1)
        assert found[side, other] == pytest.approx(0, abs=1e-12)
    crossed = Product(U[:, :2], Vh[-2:])  # writes in the first, reads in the last
    found = shares(directions({"m": crossed}, 2, lambda name: weight, controls=0))
    assert found["left", "top"] == found["right", "bottom"] == pytest.approx(1)
    assert found["both", "top"] + found["both", "bottom"] == pytest.approx(0, abs=1e-12)


def test_random_updates_have_their_share_by_chance() -> None:
    model = mv.attach(random_linear(12, 20, torch.float64), mv.LoRA(2))
    randomise(model)
    table = directions(model, 3, controls=300)
    control = table[table["update"] == "random"]
    assert sorted(control["draw"].unique()) == list(range(300))
    chance = control.groupby(["side", "end"])["chance"].first().to_dict()
    assert chance["left", "top"] == 3 / 12
    assert chance["right", "top"] == 3 / 20
    assert chance["both", "top"] == pytest.approx(3 / 12 * 3 / 20)
    assert shares(table, "random") == pytest.approx(chance, rel=0.1)


def test_layers_of_a_model_in_order_and_again_the_same() -> None:
    model = mv.attach(Transformer(), mv.MiSS(2), ["value", "up"])
    for module in model.modules():
        if isinstance(module, mv.Adapter):
            randomise(module)
    table = directions(model, 2, controls=2)
    names = ["blocks.0.value", "blocks.0.up", "blocks.1.value", "blocks.1.up"]
    assert list(dict.fromkeys(table["module"])) == names == list(weight_spectra(model))
    assert len(table) == 4 * 3 * 6
    assert table.equals(directions(model, 2, controls=2))


def test_a_transposed_base_is_turned_also_where_it_is_square() -> None:
    transformers = pytest.importorskip("transformers")
    base = nn.ModuleDict({"c": transformers.pytorch_utils.Conv1D(8, 8)}).double()
    update = Product(random(8, 2), random(2, 8, seed=1))
    found = shares(directions({"c": update}, 2, base, controls=0))
    wanted = brute_force(update.delta(), base["c"].weight.detach().mT, 2)
    assert found == pytest.approx(wanted)
    after = torch.linalg.svdvals(base["c"].weight.detach().mT + update.delta())
    assert torch.allclose(weight_spectra({"c": update}, base)["c"].after, after)


def test_no_update_lies_nowhere() -> None:
    table = directions(mv.attach(random_linear(4, 4, torch.float64), mv.MiSS(2)), 2, controls=0)
    assert table["share"].isna().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: directions(m, 5), "count=5 exceeds min(out, in) of the layer=4"),
        (lambda m: directions(m, 0), "count=0 is not positive"),
        (lambda m: directions(m, 1, controls=-1), "controls=-1 is negative"),
        (
            lambda m: directions({"m": Product(random(4, 1), random(1, 4))}, 1),
            "m: W₀ is not known; give base=",
        ),
        (
            lambda m: weight_spectra(
                {"m": Product(random(4, 1), random(1, 4))}, lambda n: random(3, 4)
            ),
            "m has W₀ of shape (3, 4), and ΔW is (4, 4)",
        ),
        (
            lambda m: directions(
                {"m": Product(random(4, 1), random(1, 4))}, 1, lambda n: random(4, 4) / 0
            ),
            "m: W₀ has 16 values that are NaN or infinite",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    model = mv.attach(random_linear(4, 4, torch.float64), mv.MiSS(2))
    raises_one_sentence(lambda: call(model), ValueError, message)
