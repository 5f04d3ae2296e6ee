"""The table of an adapter's modules, against an SVD of each ΔW itself."""

import math

import numpy as np
import pytest
import torch
from helpers import random
from hypothesis import given
from hypothesis import strategies as st

import missviz as mv
from missviz.adapters.update import Update
from missviz.analysis.inspection import MOST_VALUES
from missviz.analysis.products import Product, decompose, shortened
from missviz.testing import random_linear, randomise


def product(out: int, in_: int, rank: int, seed: int = 0) -> Product:
    return Product(random(out, rank, seed=seed), random(rank, in_, seed=seed + 1000))


def adapted(method, out: int = 12, in_: int = 16, dtype=torch.float64):
    adapter = method.on(random_linear(out, in_, dtype))
    randomise(adapter)
    return adapter


def brute_force(delta: torch.Tensor, width: int | None) -> dict[str, float]:
    """From ΔW as it is, with numpy."""
    delta = delta.detach().double().numpy()
    values = np.linalg.svd(delta, compute_uv=False)
    values = values[values > 1e-6 * values[0]]
    shares = values / values.sum()
    found = {
        "norm": np.linalg.norm(delta),
        "numerical_rank": len(values),
        "stable_rank": np.sum(values**2) / values[0] ** 2,
        "effective_rank": np.exp(-np.sum(shares * np.log(shares))),
        "top_energy": values[0] ** 2 / np.sum(values**2),
        "singular_values": values,
        "shard_cosine": math.nan,
    }
    if width is not None and width < delta.shape[1]:
        slices = [delta[:, start : start + width] for start in range(0, delta.shape[1], width)]
        pairs = [
            (slices[i][:, : slices[j].shape[1]].ravel(), slices[j].ravel())
            for j in range(len(slices))
            for i in range(j)
        ]
        found["shard_cosine"] = np.mean(
            [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
        )
    return found


def assert_agrees(row, wanted: dict) -> None:
    for measure, value in wanted.items():
        assert row[measure] == pytest.approx(value, rel=1e-8, abs=1e-9, nan_ok=True), measure


@given(
    out=st.integers(1, 12), in_=st.integers(1, 12), rank=st.integers(1, 14), seed=st.integers(0, 9)
)
def test_products_against_brute_force(out: int, in_: int, rank: int, seed: int) -> None:
    update = product(out, in_, rank, seed)
    row = mv.inspect_adapter({"m": update}).iloc[0]
    assert_agrees(row, brute_force(update.delta(), rank))
    assert (row["shape"], row["rank"], row["num_parameters"]) == (
        (out, in_),
        rank,
        rank * (out + in_),
    )


@pytest.mark.parametrize(
    ("method", "width"),
    [
        (mv.LoRA(3), 3),
        (mv.PiSSA(2), 2),
        (mv.MiSS(4), 4),
        (mv.MiSS(5), 5),
        (mv.MiSS(3, mini=2), 3),
        (mv.MiSS(3, share="rows"), 3),
        (mv.Bat(4), 4),
        (mv.FullFineTuning(), None),
        (mv.BigLoRA(20), 20),
    ],
    ids=str,
)
def test_methods_against_brute_force(method, width: int | None) -> None:
    adapter = adapted(method)
    model = torch.nn.Sequential()
    model.add_module("fc", adapter)
    row = mv.inspect_adapter(model).iloc[0]
    assert (row["module"], row["method"], row["shape"]) == ("fc", method.name, (12, 16))
    assert row["num_parameters"] == method.num_parameters(12, 16)
    assert_agrees(row, brute_force(adapter.delta(), width))
    size = torch.linalg.norm(adapter.base.weight).item()
    assert row["relative_norm"] == pytest.approx(row["norm"] / size)


def test_shards_of_miss_are_copies_and_those_of_lora_are_not() -> None:
    table = mv.inspect_adapter({"miss": adapted(mv.MiSS(4)), "lora": adapted(mv.LoRA(4))})
    assert table["shard_cosine"][0] == pytest.approx(1)
    assert abs(table["shard_cosine"][1]) < 0.5


def test_in_the_order_given_and_without_a_base_nothing_is_relative() -> None:
    table = mv.inspect_adapter({"b": product(3, 4, 1), "a": product(4, 3, 2)})
    assert list(table["module"]) == ["b", "a"]
    assert table["relative_norm"].isna().all()


class NoDelta(Product):
    def delta(self):
        raise AssertionError("ΔW was built")


def test_delta_is_not_built_where_there_are_factors() -> None:
    row = mv.inspect_adapter({"m": NoDelta(random(2000, 2), random(2, 3000))}).iloc[0]
    assert row["numerical_rank"] == 2


def test_bfloat16_factors_are_taken_as_they_are() -> None:
    left, right = random(40, 4).bfloat16(), random(4, 30, seed=1).bfloat16()
    row = mv.inspect_adapter({"m": Product(left, right)}).iloc[0]
    assert_agrees(row, brute_force(left.double() @ right.double(), 4))


def test_at_most_so_many_singular_values() -> None:
    update = product(MOST_VALUES + 10, MOST_VALUES + 20, MOST_VALUES + 5)
    row = mv.inspect_adapter({"m": update}).iloc[0]
    assert (len(row["singular_values"]), row["numerical_rank"]) == (MOST_VALUES, MOST_VALUES + 5)


# --- W₀ from elsewhere ------------------------------------------------------------------------


@pytest.fixture
def base() -> torch.nn.Module:
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(6, 4)})
    model.fc.weight.data = random(4, 6, seed=7)
    return model


def test_relative_to_a_model_or_a_function(base) -> None:
    update = product(4, 6, 2)
    weight = base.fc.weight.detach()
    wanted = np.linalg.norm(update.delta()) / np.linalg.norm(weight)
    for where in (base, {"fc": weight}.get, lambda name: weight.mT):
        assert mv.inspect_adapter({"fc": update}, where)["relative_norm"][0] == pytest.approx(
            wanted
        )


def test_a_large_base_is_measured_by_parts() -> None:
    weight = random(2500, 3)
    row = mv.inspect_adapter({"fc": product(2500, 3, 1)}, lambda name: weight).iloc[0]
    assert row["relative_norm"] == pytest.approx(row["norm"] / np.linalg.norm(weight))


def test_a_base_that_does_not_fit(base) -> None:
    with pytest.raises(ValueError, match=r"base: fc has W₀ of shape \(4, 6\), and ΔW is \(5, 6\)"):
        mv.inspect_adapter({"fc": product(5, 6, 1)}, base)
    with pytest.raises(ValueError, match="base has no layer 'fc2' with a weight"):
        mv.inspect_adapter({"fc2": product(4, 6, 1)}, base)
    with pytest.raises(TypeError, match="base of type str; give the model that has W₀"):
        mv.inspect_adapter({"fc": product(4, 6, 1)}, "path")


# --- What looks wrong -------------------------------------------------------------------------


def warnings_of(update: Update) -> list[str]:
    return mv.inspect_adapter({"m": update})["warnings"][0]


@pytest.mark.parametrize(
    "method",
    [mv.LoRA(2), mv.PiSSA(2), mv.MiSS(2), mv.Bat(2), mv.FullFineTuning(), mv.LoRA(2, alpha=8)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_only_the_untrained_are_dead(method, dtype: torch.dtype) -> None:
    untrained = method.on(random_linear(8, 8, dtype))
    row = mv.inspect_adapter({"m": untrained}).iloc[0]
    assert row["warnings"] == ["ΔW = 0: nothing was learnt here"]
    assert (row["norm"], row["numerical_rank"], row["singular_values"]) == (0, 0, [])
    assert math.isnan(row["stable_rank"])
    assert warnings_of(adapted(method, 8, 8, dtype)) == []


def test_an_untrained_dora_is_below_rounding() -> None:
    """Its magnitudes are norms of W₀, rounded: ΔW is not exactly zero."""
    (warning,) = warnings_of(mv.DoRA(2).on(random_linear(8, 8, torch.float32)))
    assert "nothing was learnt" in warning or "float32 cannot tell from 0" in warning


def test_what_has_no_factors_is_not_rounded() -> None:
    adapter = adapted(mv.Bat(4), dtype=torch.float32)
    D, blocks = adapter.D.double(), adapter.base.weight.double().reshape(3, 4, 4, 4)
    delta = torch.einsum("oaib,obc->oaic", blocks, D) + D.unsqueeze(2)
    norm = mv.inspect_adapter({"m": adapter})["norm"][0]
    assert norm == pytest.approx(torch.linalg.norm(delta).item(), rel=1e-12)


def test_a_change_that_w0_cannot_hold() -> None:
    adapter = mv.LoRA(1).on(random_linear(4, 4, torch.float64))
    adapter.B.data.fill_(1e-9)
    (warning,) = warnings_of(adapter)
    assert "which float32 cannot tell from 0" in warning


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite(bad: float) -> None:
    update = product(4, 6, 2)
    update.left[1, 1] = bad
    row = mv.inspect_adapter({"m": update}).iloc[0]
    (warning,) = row["warnings"]
    assert "ΔW's left factor has 1 values that are NaN or infinite of 8" in warning
    assert math.isnan(row["norm"])
    assert (row["shape"], row["singular_values"]) == ((4, 6), [])


def test_a_rank_that_is_not_used() -> None:
    update = product(6, 8, 4)
    update.left[:, 3] = update.left[:, 0]
    assert warnings_of(update) == ["ΔW has rank 3, less than r = 4"]
    assert warnings_of(product(3, 8, 5)) == []
    assert warnings_of(adapted(mv.MiSS(4, mini=1))) == ["ΔW has rank 1, less than r = 4"]


@pytest.mark.parametrize(
    ("alpha", "odd"), [(0.5, True), (1, False), (4, False), (16, False), (17, True), (None, False)]
)
def test_forgotten_alpha(alpha: float | None, odd: bool) -> None:
    found = warnings_of(adapted(mv.LoRA(4, alpha=alpha)))
    assert any("α forgotten" in warning for warning in found) == odd


class NeedsBase(Update):
    method, shape, rank, num_parameters = "Bat", (4, None), None, 16

    def delta(self):
        raise ValueError("ΔW of Bat needs base=")


class Bare(Update):
    """No more than an Update must have."""

    def delta(self):
        return random(3, 5)


def test_an_update_that_cannot_be_known_says_why() -> None:
    row = mv.inspect_adapter({"m": NeedsBase()}).iloc[0]
    assert row["warnings"] == ["ΔW of Bat needs base="]
    assert row["num_parameters"] == 16


def test_the_readers_own_update() -> None:
    row = mv.inspect_adapter({"m": Bare()}).iloc[0]
    assert (row["shape"], row["method"], row["rank"]) == ((3, 5), None, None)
    assert_agrees(row, brute_force(random(3, 5), None))


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        ({}, ValueError, "updates is empty"),
        ("folder", TypeError, "updates of type str; give updates by module name"),
        ({"m": torch.ones(2, 2)}, TypeError, "updates: m is no update, but Tensor"),
        (torch.nn.Linear(2, 2), ValueError, "the model has no adapters"),
    ],
)
def test_bad_input(updates, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mv.inspect_adapter(updates)


# --- Decompositions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [mv.LoRA(3), mv.PiSSA(2), mv.MiSS(4), mv.Bat(4), mv.FullFineTuning()], ids=str
)
def test_decompositions_multiply_to_the_update(method) -> None:
    adapter = adapted(method)
    U, S, V = decompose(adapter)
    assert torch.allclose(U * S @ V.mT, adapter.delta(), atol=1e-10)
    for vectors in (U, V):
        assert torch.allclose(vectors.mT @ vectors, torch.eye(len(S), dtype=S.dtype), atol=1e-10)
    basis, short = shortened(adapter)
    assert torch.allclose(short if basis is None else basis @ short, adapter.delta(), atol=1e-10)


def test_a_stack_of_updates_is_not_one_layer() -> None:
    stacked = adapted(mv.LoRA(2))
    stacked.B.data = stacked.B.data.expand(3, -1, -1)
    assert "not that of one layer" in warnings_of(stacked)[0]
