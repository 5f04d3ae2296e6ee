"""Cosines and principal angles of two adapters, against dense matrices."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from helpers import random
from hypothesis import given
from hypothesis import strategies as st

import missviz as mv
from missviz.analysis.comparison import MEASURES, principal_angles, random_like
from missviz.analysis.products import Product
from missviz.testing import random_linear, randomise


def product(out: int, in_: int, rank: int, seed: int = 0) -> Product:
    return Product(random(out, rank, seed=seed), random(rank, in_, seed=seed + 1000))


def adapted(method, seed: int = 0, out: int = 12, in_: int = 16):
    adapter = method.on(random_linear(out, in_, torch.float64))
    randomise(adapter, seed)
    return adapter


def brute_force(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    """From both ΔW as they are."""
    a, b = a.detach().numpy(), b.detach().numpy()
    norms = np.linalg.norm(a), np.linalg.norm(b)
    bases = [scipy.linalg.orth(matrix, rcond=1e-6) for matrix in (a, b, a.T, b.T)]
    columns, rows = (
        np.degrees(scipy.linalg.subspace_angles(*pair)) for pair in (bases[:2], bases[2:])
    )
    return {
        "cosine": np.sum(a * b) / norms[0] / norms[1],
        "norm_a": norms[0],
        "norm_b": norms[1],
        "norm_ratio": norms[1] / norms[0],
        "column_angle": columns.min(),
        "mean_column_angle": columns.mean(),
        "row_angle": rows.min(),
        "mean_row_angle": rows.mean(),
    }


@given(
    out=st.integers(1, 9),
    in_=st.integers(1, 9),
    ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_against_dense_matrices(out: int, in_: int, ranks: tuple[int, int]) -> None:
    a, b = product(out, in_, ranks[0], 1), product(out, in_, ranks[1], 2)
    row = mv.compare({"m": a}, {"m": b}).iloc[0]
    wanted = brute_force(a.delta(), b.delta())
    for measure in MEASURES:
        assert row[measure] == pytest.approx(wanted[measure], rel=1e-7, abs=1e-5), measure


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (mv.LoRA(2), mv.MiSS(4)),
        (mv.PiSSA(2), mv.LoRA(3)),
        (mv.Bat(4), mv.Bat(2)),
        (mv.Bat(2), mv.LoRA(2)),
        (mv.FullFineTuning(), mv.MiSS(3)),
    ],
    ids=str,
)
def test_methods_against_dense_matrices(first, second) -> None:
    a, b = adapted(first, 1), adapted(second, 2)
    row = mv.compare({"m": a}, {"m": b}).iloc[0]
    wanted = brute_force(a.delta(), b.delta())
    for measure in MEASURES:
        assert row[measure] == pytest.approx(wanted[measure], rel=1e-7, abs=1e-5), measure


def test_an_update_and_itself() -> None:
    a = product(8, 12, 3)
    scaled = Product(-2 * a.left, a.right)
    row = mv.compare({"m": a}, {"m": scaled}).iloc[0]
    assert row["cosine"] == pytest.approx(-1)
    assert row["norm_ratio"] == pytest.approx(2)
    assert row[["mean_column_angle", "mean_row_angle"]].max() < 1e-9


def test_a_factor_that_is_wider_than_the_update() -> None:
    """Column spaces are those of ΔW, not of the left factor: here half of it is not used."""
    left, right = random(8, 4), random(4, 12, seed=1)
    right[2:] = 0
    row = mv.compare({"m": Product(left, right)}, {"m": Product(left[:, :2], random(2, 12))}).iloc[
        0
    ]
    assert row["mean_column_angle"] < 1e-9
    other = mv.compare({"m": Product(left, right)}, {"m": Product(left[:, 2:], random(2, 12))})
    assert other["column_angle"][0] > 5


@given(angle=st.floats(0, 90))
def test_angles_also_where_cosine_or_sine_says_little(angle: float) -> None:
    a = torch.eye(4, 2, dtype=torch.float64)
    turned = math.radians(angle)
    b = torch.zeros(4, 1, dtype=torch.float64)
    b[0, 0], b[3, 0] = math.cos(turned), math.sin(turned)
    assert principal_angles(a, b).tolist() == pytest.approx([angle], abs=1e-12)
    assert principal_angles(b, a).tolist() == pytest.approx([angle], abs=1e-12)


def test_modules_of_one_side_are_listed() -> None:
    shared = product(4, 4, 1)
    table = mv.compare({"x": shared, "y": shared}, {"z": shared, "y": shared})
    assert table[["module", "where"]].values.tolist() == [["x", "a"], ["y", "both"], ["z", "b"]]
    assert table["cosine"].isna().tolist() == [True, False, True]


def test_zero_has_no_direction() -> None:
    nothing = mv.LoRA(2).on(random_linear(4, 6, torch.float64))
    row = mv.compare({"m": nothing}, {"m": product(4, 6, 2)}).iloc[0]
    assert row["norm_a"] == 0
    assert row[["cosine", "column_angle", "row_angle", "norm_ratio"]].isna().all()


def test_attached_models() -> None:
    linear = torch.nn.Sequential(random_linear(4, 6, torch.float64))
    a, b = mv.attach(linear, mv.LoRA(2)), mv.attach(linear, mv.MiSS(2))
    randomise(a)
    randomise(b)
    row = mv.compare(a, b).iloc[0]
    assert row["cosine"] == pytest.approx(brute_force(a[0].delta(), b[0].delta())["cosine"])


@pytest.mark.parametrize("method", [mv.LoRA(2), mv.PiSSA(2), mv.MiSS(4), mv.Bat(2)], ids=str)
def test_random_controls_have_shape_rank_and_norm(method) -> None:
    update = adapted(method)
    control = random_like({"m": update}, seed=3)["m"]
    assert control.delta().shape == update.delta().shape
    assert torch.linalg.norm(control.delta()).item() == pytest.approx(
        torch.linalg.norm(update.delta()).item()
    )
    assert torch.linalg.matrix_rank(control.delta()) == torch.linalg.matrix_rank(update.delta())
    again = random_like({"other": update, "m": update}, seed=3)
    assert torch.equal(again["m"].left, control.left)
    assert not torch.equal(again["other"].left, control.left)
    assert not torch.equal(random_like({"m": update}, seed=4)["m"].left, control.left)


def test_a_random_control_of_nothing_is_nothing() -> None:
    nothing = mv.LoRA(2).on(random_linear(4, 6, torch.float64))
    assert random_like({"m": nothing})["m"].delta().abs().max() == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.compare({}, {}), ValueError, "a is empty"),
        (lambda: mv.compare({"m": product(2, 2, 1)}, {}), ValueError, "b is empty"),
        (lambda: mv.compare([1], {}), TypeError, "a of type list"),
        (lambda: mv.compare({"m": torch.ones(2, 2)}, {}), TypeError, "a: m is no update, but Tensor"),
        (
            lambda: mv.compare({"m": product(2, 3, 1)}, {"m": product(3, 2, 1)}),
            ValueError,
            "m: ΔW is 2 × 3 in a and 3 × 2 in b",
        ),
        (
            lambda: mv.compare({"m": product(2, 3, 1)}, {"m": Product(torch.ones(2, 1) / 0, torch.ones(1, 3))}),
            ValueError,
            "m: ΔW's left factor has 2 values that are NaN",
        ),
        (lambda: Product(torch.ones(2, 3), torch.ones(2, 3)), ValueError, "they must be"),
        (lambda: mv.compare(torch.nn.Linear(2, 2), {}), ValueError, "the model has no adapters"),
    ],
)  # fmt: skip
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
