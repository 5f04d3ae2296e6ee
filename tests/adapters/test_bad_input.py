"""Bad input: one clear sentence that names the argument and what would be valid."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import raises_one_sentence
from torch import nn

import missviz as mv

LINEAR = nn.Linear(64, 48)


def nan_layer() -> nn.Linear:
    linear = nn.Linear(8, 8)
    linear.weight.data[2, 3] = math.nan
    return linear


def integer_layer() -> nn.Linear:
    linear = nn.Linear(8, 8)
    linear.weight = nn.Parameter(torch.ones(8, 8, dtype=torch.int64), requires_grad=False)
    return linear


def empty_layer() -> nn.Linear:
    linear = nn.Linear(8, 8)
    linear.weight = nn.Parameter(torch.empty(0, 8))
    return linear


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    # ranks
    (lambda: mv.LoRA(0), ValueError, "rank=0 is not positive"),
    (lambda: mv.MiSS(-3), ValueError, "rank=-3 is not positive"),
    (lambda: mv.LoRA(True), TypeError, "rank=True is not an integer"),
    (lambda: mv.MiSS(2.0), TypeError, "rank=2.0 is not an integer"),
    (lambda: mv.PiSSA("4"), TypeError, "rank='4' is not an integer"),
    (lambda: mv.FixedFactor(None), TypeError, "rank=None is not an integer"),
    (lambda: mv.Bat(0), ValueError, "block_size=0 is not positive"),
    (lambda: mv.MiSS(65).on(LINEAR), ValueError, "rank=65 exceeds in_features=64"),
    (lambda: mv.MiSS(49, share="rows").on(LINEAR), ValueError, "rank=49 exceeds out_features=48"),
    (lambda: mv.FixedFactor(65).on(LINEAR), ValueError, "rank=65 exceeds in_features=64"),
    (lambda: mv.LoRA(49).on(LINEAR), ValueError, "rank=49 exceeds min(out_features, in_features)=48"),
    (lambda: mv.PiSSA(49).on(LINEAR), ValueError, "rank=49 exceeds min(out_features, in_features)"),
    # block sizes
    (lambda: mv.Bat(5).on(nn.Linear(64, 64)), ValueError, "block_size=5 does not divide in_features=64; nearest: 4, 8"),
    (lambda: mv.Bat(48).on(LINEAR), ValueError, "block_size=48 does not divide in_features=64; nearest: 16"),
    (lambda: mv.Bat(65).on(nn.Linear(64, 64)), ValueError, "nearest: 64"),
    (lambda: mv.Bat(4, side="left", index="input"), ValueError, 'side="left" exists with index="output" only'),
    (lambda: mv.Bat(4, side="up"), ValueError, "side='up' is unknown; choose from 'right', 'left'"),
    # mini
    (lambda: mv.MiSS(4, mini=5).on(LINEAR), ValueError, "mini=5 does not divide out_features=48; nearest: 4, 6"),
    (lambda: mv.MiSS(4, share="rows", mini=2), ValueError, 'mini=2 exists for share="columns", layout="tiled" only'),
    (lambda: mv.MiSS(4, layout="block", mini=2), ValueError, "mini=2 exists for"),
    (lambda: mv.MiSS(4, mini=True), TypeError, "mini=True is not an integer"),
    # names and numbers
    (lambda: mv.MiSS(4, share="row"), ValueError, "share='row' is unknown; choose from 'columns', 'rows'"),
    (lambda: mv.MiSS(4, layout="tile"), ValueError, "layout='tile' is unknown"),
    (lambda: mv.MiSS(4, form="fast"), ValueError, "form='fast' is unknown"),
    (lambda: mv.FixedFactor(4, "random"), ValueError, "factor='random' is unknown"),
    (lambda: mv.FixedFactor(4, gain=0), ValueError, "gain=0 is not a positive finite number"),
    (lambda: mv.FixedFactor(4, gain=math.nan), ValueError, "gain=nan is not a positive finite"),
    (lambda: mv.LoRA(4, alpha=-1), ValueError, "alpha=-1 is not a positive finite number"),
    (lambda: mv.LoRA(4, alpha="8"), TypeError, "alpha='8' is not a number"),
    (lambda: mv.LoRA(4, init="zeros"), ValueError, "init='zeros' is unknown"),
    (lambda: mv.LoRA(4, rslora=1), TypeError, "rslora=1 is not True or False"),
    (lambda: mv.PiSSA(4, niter=0), ValueError, "niter=0 is not positive"),
    (lambda: mv.FullFineTuning(bias="yes"), TypeError, "bias='yes' is not True or False"),
    # layers
    (lambda: mv.LoRA(2).on(integer_layer()), TypeError, "weights of dtype torch.int64 cannot be adapted"),
    (lambda: mv.LoRA(2).on(empty_layer()), ValueError, "is empty"),
    (lambda: mv.PiSSA(2).on(nan_layer()), ValueError, "1 values that are NaN or infinite of 64"),
    (lambda: mv.MiSS(2).on(nn.ReLU()), TypeError, "expected an nn.Linear, got ReLU"),
    (lambda: mv.MiSS(2).on(nn.Conv2d(3, 3, 3)), TypeError, "expected an nn.Linear, got Conv2d"),
    (lambda: mv.MiSS(2).on(torch.ones(4, 4)), TypeError, "expected an nn.Linear, got Tensor"),
    (lambda: mv.MiSS(2).on(nn.LazyLinear(4)), ValueError, "has no weights yet"),
    (lambda: mv.MiSS(2).on(mv.MiSS(2).on(LINEAR)), TypeError, "already has an adapter (MiSS r=2)"),
    (lambda: mv.MiSS(2).on(LINEAR, generator=7), TypeError, "generator=7 is not a torch.Generator"),
    (lambda: mv.FullFineTuning(bias=True).on(nn.Linear(4, 4, bias=False)), ValueError, "bias=True, but the linear layer has no bias"),
    # models
    (lambda: mv.attach(net(), mv.MiSS(2), "fc*"), ValueError, "targets='fc*' matches no linear layer; there are: 0, 2"),
    (lambda: mv.attach(net(), mv.MiSS(2), re.compile("x")), ValueError, "targets='x' matches no linear layer"),
    (lambda: mv.attach(net(), mv.MiSS(2), ["0", "7"]), ValueError, "targets='7' matches no linear layer"),
    (lambda: mv.attach(net(), mv.MiSS(2), ["1"]), TypeError, "targets='1' is a ReLU, not an nn.Linear"),
    (lambda: mv.attach(net(), mv.MiSS(2), []), ValueError, "targets is an empty list"),
    (lambda: mv.attach(net(), mv.MiSS(2), 0), TypeError, "targets=0 is neither a glob"),
    (lambda: mv.attach(net(), "MiSS"), TypeError, "method='MiSS' is not a missviz method"),
    (lambda: mv.attach(nn.ReLU(), mv.MiSS(2)), ValueError, "the model has no linear layers"),
    (lambda: mv.attach(mv.attach(net(), mv.MiSS(2)), mv.MiSS(2)), ValueError, "already has an adapter (MiSS r=2)"),
    (lambda: mv.attach(mv.attach(net(), mv.MiSS(2), "0"), mv.LoRA(2), "*"), ValueError, "0 already has an adapter"),
    (lambda: mv.attach(net(), mv.MiSS(9)), ValueError, "0: rank=9 exceeds in_features=8"),
    (lambda: mv.attach(net(), mv.MiSS(2), "0", trainable="fc9"), ValueError, "trainable='fc9' matches no parameter"),
    (lambda: mv.merge(net()), ValueError, "the model has no adapters"),
    (lambda: mv.detach(net()), ValueError, "the model has no adapters"),
    # spectrum
    (lambda: mv.spectrum(torch.ones(4)), ValueError, "expected ΔW of shape (..., out, in), got (4,)"),
    (lambda: mv.spectrum([[1.0]]), TypeError, "expected an adapter or a tensor, got list"),
    (lambda: mv.spectrum(torch.full((2, 2), math.inf)), ValueError, "ΔW has 4 values that are NaN"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_clear_sentence(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)


def test_a_failed_attach_changes_nothing() -> None:
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for method in (mv.Bat(3), mv.MiSS(9), mv.FullFineTuning(bias=True)):
        model[2] = nn.Linear(8, 4, bias=False)
        with pytest.raises(ValueError):  # noqa: PT011
            mv.attach(model, method)
        assert all(isinstance(model[index], nn.Linear) for index in (0, 2))
    assert torch.equal(model[0].weight, before["0.weight"])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_long_models_list_some_layers() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(30)])
    with pytest.raises(ValueError, match="18, 19 and 10 more"):
        mv.attach(model, mv.MiSS(1), "q_proj")
