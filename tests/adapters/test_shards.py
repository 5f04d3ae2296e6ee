"""Shard sums and their transpose, against the 0/1 matrix S, with every kind of derivative."""

import pytest
import torch
from helpers import random
from hypothesis import given
from hypothesis import strategies as st

from missviz.adapters.shards import LAYOUTS, shard_matrix, shard_sums, spread


@given(
    size=st.integers(1, 13),
    count=st.integers(1, 13),
    layout=st.sampled_from(LAYOUTS),
    data=st.data(),
)
def test_sums_and_spread_are_products_with_s(
    size: int, count: int, layout: str, data: st.DataObject
) -> None:
    count = min(size, count)
    x = random(2, 3, size, seed=size).requires_grad_(True)
    if data.draw(st.booleans()):
        x = x.detach().mT.contiguous().mT.requires_grad_(True)  # features first in memory
    S = shard_matrix(size, count, layout, x)
    sums, direction = shard_sums(x, count, layout), random(2, 3, count, seed=count)
    assert torch.allclose(sums, x @ S.mT)
    assert torch.allclose(spread(direction, size, layout), direction @ S)
    (gradient,) = torch.autograd.grad(sums, x, direction)
    assert torch.allclose(gradient, direction @ S)


# torch's own forward mode still uses its old compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "count"), [(12, 4), (10, 4)])
def test_derivatives_of_every_kind(layout: str, size: int, count: int) -> None:
    def sums(x: torch.Tensor) -> torch.Tensor:
        return shard_sums(x, count, layout)

    x = random(2, 3, size, seed=0).requires_grad_(True)
    assert torch.autograd.gradcheck(sums, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(sums, x)
    S = shard_matrix(size, count, layout, x)
    assert torch.allclose(torch.func.jacfwd(sums)(x[0, 0]), S)
    assert torch.allclose(torch.func.jacrev(sums)(x[0, 0]), S)
    assert torch.equal(torch.func.vmap(sums)(x), sums(x))
