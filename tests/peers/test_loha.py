"""LoHa through Hugging Face PEFT: the same output, gradients and merged weight."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from peers.test_peft import adapter, compare, dtypes, few, peft_layer, sizes
from peft import LoHaConfig

import missviz as mv
from missviz.testing import random_linear

NAMES = ("w1_a", "w1_b", "w2_a", "w2_b")


def same(d: int, k: int, rank: int, alpha: float, dtype: torch.dtype) -> None:
    linear = random_linear(d, k, dtype)
    ours = adapter(mv.LoHa(rank, alpha), linear)
    model, layer = peft_layer(linear, LoHaConfig(r=rank, alpha=alpha, target_modules=["fc"]))
    pairs = [
        (getattr(ours, name), getattr(layer, f"hada_{name}")["default"], False) for name in NAMES
    ]
    compare(ours, model, pairs, d)


@few
@given(d=sizes, k=sizes, data=st.data(), dtype=dtypes, quarters=st.integers(1, 32))
def test_loha(d: int, k: int, data: st.DataObject, dtype: torch.dtype, quarters: int) -> None:
    """s = α / r in quarters, s = 4 among them: PEFT rounds s to float32, whatever the dtype."""
    rank = data.draw(st.integers(1, min(d, k)))
    same(d, k, rank, rank * quarters / 4, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loha_gradient_carries_the_scaling(dtype: torch.dtype) -> None:
    same(7, 9, 3, 12.0, dtype)


def test_peft_rounds_the_scaling_to_float32() -> None:
    same(7, 9, 3, 5.0, torch.float32)
    with pytest.raises(AssertionError):
        same(7, 9, 3, 5.0, torch.float64)


def test_loha_starts_as_in_peft() -> None:
    linear = random_linear(40, 90, torch.float64)
    start = mv.LoHa(4).on(linear)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # PEFT draws from the global generator, wherever others have left it
        _, layer = peft_layer(linear, LoHaConfig(r=4, target_modules=["fc"]))
    for name in NAMES:
        mine = getattr(start, name).detach()
        theirs = getattr(layer, f"hada_{name}")["default"].detach()
        assert mine.shape == theirs.shape
        assert float(mine.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.05)
        assert float(mine.square().mean()) == pytest.approx(float(theirs.square().mean()), rel=0.2)
