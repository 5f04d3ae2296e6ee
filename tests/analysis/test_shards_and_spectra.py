"""Cosines of shards and ranks of spectra, against their definitions."""

import math

import numpy as np
import pytest
import torch
from helpers import random
from hypothesis import given
from hypothesis import strategies as st

import missviz as mv
from missviz.analysis.shards import mean_cosine, shard_cosines, split_shards
from missviz.analysis.spectra import effective_rank, energy, stable_rank
from missviz.testing import random_linear, randomise


@given(out=st.integers(1, 6), in_=st.integers(1, 13), data=st.data())
def test_cosines_against_numpy(out: int, in_: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, in_))
    delta = random(out, in_, seed=out)
    slices = [delta[:, start : start + width].numpy() for start in range(0, in_, width)]
    assert [tuple(s.shape) for s in split_shards(delta, width)] == [s.shape for s in slices]
    cosines = shard_cosines(delta, width)
    for i, left in enumerate(slices):
        for j, right in enumerate(slices):
            shared = min(left.shape[1], right.shape[1])
            a, b = left[:, :shared].ravel(), right[:, :shared].ravel()
            wanted = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert cosines[i, j].item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("in_features", "rank"), [(12, 4), (13, 4), (7, 5)])
def test_shards_of_miss_are_copies_also_where_the_last_is_cut(in_features: int, rank: int) -> None:
    adapter = mv.MiSS(rank).on(random_linear(6, in_features, torch.float64))
    randomise(adapter)
    cosines = shard_cosines(adapter.delta(), rank)
    assert torch.allclose(cosines, torch.ones_like(cosines))
    assert mean_cosine(cosines) == pytest.approx(1)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_bat_separates_shards_only_as_far_as_w_is_large(sigma: float) -> None:
    """Mean cosine ≈ 1 / (1 + σ²r) for input-local blocks with W ~ N(0, σ²) and random D."""
    b, features, cosines = 8, 128, []
    for seed in range(5):
        linear = torch.nn.Linear(features, features, bias=False).double()
        linear.weight.data = sigma * random(features, features, seed=seed)
        adapter = mv.Bat(b).on(linear)
        adapter.D.data = random(*adapter.D.shape, seed=100 + seed)
        cosines.append(mean_cosine(shard_cosines(adapter.delta(), b)))
    assert np.mean(cosines) == pytest.approx(1 / (1 + sigma**2 * b), rel=0.1)


def test_undefined_is_undefined() -> None:
    assert shard_cosines(torch.zeros(4, 8), 4).isnan().all()
    assert math.isnan(mean_cosine(shard_cosines(random(4, 4), 4)))
    for measure in (stable_rank, effective_rank, energy):
        assert measure(torch.zeros(5)).isnan().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_shards(torch.ones(4), 2), "expected ΔW of shape"),
        (lambda: split_shards(torch.ones(4, 0), 2), "expected ΔW of shape"),
        (lambda: split_shards(torch.ones(4, 8), 9), "width=9 exceeds in_features=8"),
        (lambda: split_shards(torch.ones(4, 8), 0), "width=0 is not positive"),
        (lambda: split_shards(torch.full((4, 8), math.inf), 2), "32 values that are NaN"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@given(values=st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_ranks_against_their_definitions(values: list[float]) -> None:
    sigma = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    shares = [value / sum(values) for value in values]
    entropy = -sum(share * math.log(share) for share in shares)
    assert effective_rank(sigma).item() == pytest.approx(math.exp(entropy))
    squares = [value**2 for value in sigma.tolist()]
    assert stable_rank(sigma).item() == pytest.approx(sum(squares) / max(squares))
    assert energy(sigma).tolist() == pytest.approx(
        [sum(squares[: n + 1]) / sum(squares) for n in range(len(squares))]
    )
    for measure in (stable_rank, effective_rank):
        assert 1 - 1e-9 <= measure(sigma).item() <= len(values) + 1e-9


def test_batches_of_spectra() -> None:
    batch = torch.stack([torch.tensor([2.0, 1.0]), torch.tensor([3.0, 0.0])])
    assert stable_rank(batch).tolist() == pytest.approx([1.25, 1.0])
    assert effective_rank(batch)[1].item() == pytest.approx(1)
