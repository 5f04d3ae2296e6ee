"""VeRA in several layers that share one pool: the same weights through Hugging Face PEFT."""

import itertools

import helpers
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from peft import VeraConfig, get_peft_model
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.training import adapters_in
from missviz.testing import random_linear, randomise

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}


def chain(widths: list[int], dtype: torch.dtype) -> nn.Sequential:
    """Linear layers from width to width with tanh between them: names 0, 2, 4, …"""
    layers = [random_linear(d, k, dtype) for k, d in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.Tanh())])


def in_peft(widths: list[int], dtype: torch.dtype, rank: int) -> tuple[nn.Module, list[nn.Module]]:
    """The same chain with PEFT's VeRA, and its adapted layers."""
    names = [str(2 * index) for index in range(len(widths) - 1)]
    config = VeraConfig(r=rank, target_modules=names)
    model = get_peft_model(chain(widths, dtype), config, autocast_adapter_dtype=False)
    return model, [model.base_model.model.get_submodule(name) for name in names]


def close(left: Tensor, right: Tensor) -> bool:
    return helpers.close(left, right, LIMITS[right.dtype])


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 16), min_size=2, max_size=5),
    rank=st.integers(1, 24),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_vera(widths: list[int], rank: int, dtype: torch.dtype) -> None:
    ours = mv.attach(chain(widths, dtype), mv.VeRA(rank))
    theirs, layers = in_peft(widths, dtype, rank)
    adapters = list(adapters_in(ours).values())
    randomise(ours)
    pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
    with torch.no_grad():
        for mine, layer in zip(adapters, layers, strict=True):
            assert float(layer.vera_lambda_d["default"][0]) == pytest.approx(0.1)
            mine.A.copy_(layer.vera_A["default"])
            mine.B.copy_(layer.vera_B["default"])
            pairs.append((mine.v, layer.vera_lambda_d["default"]))
            pairs.append((mine.b, layer.vera_lambda_b["default"]))
        for own, other in pairs:
            other.copy_(own)
    x = torch.randn(5, widths[0], generator=torch.Generator().manual_seed(1)).to(dtype)
    y, wanted = ours(x), theirs(x)
    assert close(y, wanted)
    left = torch.autograd.grad(y.square().sum(), [own for own, _ in pairs])
    right = torch.autograd.grad(wanted.square().sum(), [other for _, other in pairs])
    assert all(close(own, other) for own, other in zip(left, right, strict=True))
    merged = theirs.merge_and_unload()
    for mine, place in zip(adapters, range(0, 2 * len(adapters), 2), strict=True):
        assert close(mine.weight, merged[place].weight)


def test_start_is_drawn_from_the_same_bounds() -> None:
    """The widest layer decides, and of B it is r: the largest entries of both agree to 1 %."""
    ours = mv.attach(chain([40, 96, 64], torch.float32), mv.VeRA(128))
    _, layers = in_peft([40, 96, 64], torch.float32, 128)
    for mine, theirs in ((ours[0].A, layers[0].vera_A), (ours[0].B, layers[0].vera_B)):
        drawn = theirs["default"]
        assert mine.shape == drawn.shape
        assert float(mine.abs().max()) == pytest.approx(float(drawn.abs().max()), rel=0.01)
