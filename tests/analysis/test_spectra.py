"""Spectra of all updates of a model in one call, against an SVD of each ΔW itself."""

import gc
import math
from unittest import mock

import pytest
import torch
from helpers import close, raises_one_sentence, random
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import missviz as mv
from missviz.adapters.update import Update
from missviz.analysis import spectra as module_under_test
from missviz.analysis.products import Product
from missviz.analysis.spectra import effective_rank, energy, stable_rank
from missviz.testing import random_linear, randomise

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


class Factors(Update):
    """ΔW = left @ right, with members too."""

    def __init__(self, left: Tensor, right: Tensor) -> None:
        self.left, self.right = left, right

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.left, self.right

    def delta(self) -> Tensor:
        raise AssertionError("ΔW was built")


def dense(update: Factors) -> Tensor:
    return torch.linalg.svdvals(update.left.double() @ update.right.double())


def agrees(found: Tensor, wanted: Tensor) -> bool:
    """To 1e-12 of the largest singular value."""
    assert found.dtype == torch.float64
    scale = float(wanted.max()) or 1.0
    return found.shape == wanted.shape and float((found - wanted).abs().max()) <= 1e-12 * scale


DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
MEMBERS = st.sampled_from([(), (1,), (2,)])
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 11))


@pytest.mark.parametrize("device", DEVICES)
@given(
    sizes=st.lists(SHAPES, min_size=1, max_size=3),
    modules=st.lists(st.tuples(st.integers(0, 2), DTYPES, MEMBERS), min_size=1, max_size=9),
    together=st.sampled_from([0, 1000, 2**20]),
)
def test_together_is_one_by_one_is_dense(
    device: str, sizes: list, modules: list, together: int
) -> None:
    updates = {}
    for i, (which, dtype, members) in enumerate(modules):
        out, in_, rank = sizes[which % len(sizes)]
        left, right = random(*members, out, rank, seed=i), random(*members, rank, in_, seed=99 + i)
        updates[f"m{i}"] = Factors(left.to(device, dtype), right.to(device, dtype))
    with mock.patch.object(module_under_test, "TOGETHER", together):
        found = mv.spectra(updates)
    assert list(found) == list(updates)
    for name, update in updates.items():
        values = found[name].values
        assert values.device == update.left.device
        assert agrees(values, dense(update))
        assert agrees(values, mv.spectrum(update))
        assert close(found[name].stable_rank, stable_rank(values))
        assert close(found[name].effective_rank, effective_rank(values))
        assert close(found[name].energy, energy(values))


@pytest.mark.parametrize("power", [0, 6, 12])
def test_ill_conditioned_factors(power: int) -> None:
    """σ = 1 … 10^-power, known by construction, though neither factor has orthogonal columns.

    A Gram matrix would square them, and 1e-12 would be lost below 1e-8.
    """
    rank = 12
    U, V = (torch.linalg.qr(random(n, rank, seed=n)).Q for n in (60, 50))
    wanted = torch.logspace(0, -power, rank, dtype=torch.float64)
    mixed = torch.linalg.qr(random(rank, rank)).Q
    update = Factors(U @ torch.diag(wanted) @ mixed, mixed.mT @ V.mT)
    for values in (mv.spectra({"m": update})["m"].values, mv.spectrum(update)):
        assert float((values[:rank] - wanted).abs().max()) < 1e-14
        assert values[rank:].abs().max() < 1e-14


def test_each_of_the_larger_singular_values_to_ten_digits() -> None:
    left = random(300, 16) * torch.logspace(0, -3, 16, dtype=torch.float64)
    update = Factors(left, random(16, 200, seed=1))
    values, wanted = mv.spectra({"m": update})["m"].values, dense(update)
    assert torch.allclose(values[:16], wanted[:16], rtol=1e-10, atol=0)


def test_undefined_is_undefined() -> None:
    nothing = Factors(torch.zeros(4, 2), random(2, 3).float())
    pruned = Factors(torch.zeros(4, 0), torch.zeros(0, 3))
    for found in mv.spectra({"nothing": nothing, "pruned": pruned}).values():
        assert found.values.tolist() == [0, 0, 0]
        assert math.isnan(found.stable_rank)
        assert math.isnan(found.effective_rank)
        assert found.energy.isnan().all()


def test_a_rank_that_is_less_than_r() -> None:
    column = random(8, 1)
    found = mv.spectra({"m": Factors(column.expand(8, 5), random(5, 6, seed=1))})["m"]
    assert found.stable_rank == pytest.approx(1)
    assert found.energy[0] == pytest.approx(1)
    assert found.values[1:].max() < 1e-14 * found.values[0]


def test_an_attached_model_with_and_without_factors() -> None:
    model = torch.nn.Sequential(*(random_linear(8, 8, torch.float64) for _ in range(2)))
    model = mv.attach(model, mv.MiSS(2), targets="0")
    model = mv.attach(model, mv.Bat(4), targets="1")
    for adapter in model:
        randomise(adapter)
    found = mv.spectra(model)
    assert list(found) == ["0", "1"]
    for spectrum, adapter in zip(found.values(), model, strict=True):
        assert agrees(spectrum.values, torch.linalg.svdvals(adapter.delta().detach()))
        assert not spectrum.values.requires_grad


def test_a_factor_that_all_members_share() -> None:
    updates = {
        name: Factors(random(2, 5, 3, seed=i), random(3, 4, seed=9 + i))
        for i, name in enumerate("ab")
    }
    for name, found in mv.spectra(updates).items():
        assert agrees(found.values, dense(updates[name]))


@pytest.mark.slow
def test_large_factors_are_not_all_held() -> None:
    shape, alive = (2**13, 16), []

    class OnDisk(Update):
        def factors(self) -> tuple[Tensor, Tensor]:
            held = [one for one in gc.get_objects() if type(one) is Tensor and one.shape == shape]
            alive.append(len(held))
            return torch.ones(shape), torch.ones(16, 4)

        def delta(self) -> Tensor:
            raise AssertionError("ΔW was built")

    mv.spectra({str(n): OnDisk() for n in range(5)})
    assert len(alive) == 5
    assert max(alive) <= 2  # the last module's, until its names are bound anew


def test_the_number_of_threads_stays() -> None:
    before = torch.get_num_threads()
    mv.spectra({"m": Factors(random(4, 2), random(2, 4))})
    assert torch.get_num_threads() == before


BROKEN = Factors(random(4, 2), torch.full((2, 4), math.nan))


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        ({}, ValueError, "updates is empty: there is no update in it"),
        (torch.nn.Linear(2, 2), ValueError, "the model has no adapters"),
        ([BROKEN], TypeError, "updates of type list; give updates by module name"),
        ({"m": torch.ones(2, 2)}, TypeError, "updates: m is no update, but Tensor"),
        ({"q": Product(random(4, 2), random(2, 4)), "v": BROKEN}, ValueError, "v: ΔW's right"),
        ({"v": BROKEN}, ValueError, "8 values that are NaN"),
    ],
)
def test_bad_input(updates, error: type[Exception], message: str) -> None:
    raises_one_sentence(lambda: mv.spectra(updates), error, message)


@given(out=st.integers(1, 9), in_=st.integers(1, 9), members=st.sampled_from([(), (2,)]))
def test_of_a_matrix_itself(out: int, in_: int, members: tuple) -> None:
    delta = random(*members, out, in_)
    assert agrees(mv.spectrum(delta), torch.linalg.svdvals(delta))
