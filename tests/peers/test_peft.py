"""The same weights through Hugging Face PEFT: the same output, merged weight and gradients."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from peft import LoraConfig, MissConfig, get_peft_model
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.base import Method
from missviz.testing import random_linear, randomise

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}


class One(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.fc = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


def peft_layer(linear: nn.Linear, config: LoraConfig | MissConfig) -> tuple[nn.Module, nn.Module]:
    copied = random_linear(linear.out_features, linear.in_features, linear.weight.dtype)
    model = get_peft_model(One(copied), config, autocast_adapter_dtype=False)
    return model, model.base_model.model.fc


def compare(
    ours: mv.Adapter,
    model: nn.Module,
    pairs: list[tuple[nn.Parameter, nn.Parameter, bool]],
    out_features: int,
) -> None:
    """pairs: our parameter, PEFT's, and whether PEFT's is transposed."""

    def like(theirs: Tensor, transposed: bool) -> Tensor:
        return theirs.mT if transposed else theirs

    limit = LIMITS[ours.base.weight.dtype]
    with torch.no_grad():
        for mine, theirs, transposed in pairs:
            theirs.copy_(like(mine, transposed))
    x = torch.randn(5, ours.in_features, generator=torch.Generator().manual_seed(1)).to(ours.weight)
    direction = torch.randn(5, out_features, generator=torch.Generator().manual_seed(2)).to(x)
    y, wanted = ours(x), model(x)
    scale = max(1.0, float(wanted.detach().abs().max()))
    assert float((y - wanted).detach().abs().max()) <= limit * scale
    mine = torch.autograd.grad((y * direction).sum(), [pair[0] for pair in pairs])
    theirs = torch.autograd.grad((wanted * direction).sum(), [pair[1] for pair in pairs])
    for left, right, (_, _, transposed) in zip(mine, theirs, pairs, strict=True):
        right = like(right, transposed)
        assert left.shape == right.shape
        scale = max(1.0, float(right.abs().max()))
        assert float((left - right).abs().max()) <= limit * scale
    merged = model.merge_and_unload().fc.weight
    scale = max(1.0, float(merged.abs().max()))
    assert float((ours.weight - merged).detach().abs().max()) <= limit * scale


def adapter(method: Method, linear: nn.Linear) -> mv.Adapter:
    made = method.on(linear)
    randomise(made, std=0.5)
    return made


sizes = st.integers(2, 16)
dtypes = st.sampled_from([torch.float64, torch.float32])
few = settings(max_examples=20)


@pytest.mark.slow
@few
@given(
    d=sizes, k=sizes, data=st.data(), dtype=dtypes, alpha=st.integers(1, 32), rslora=st.booleans()
)
def test_lora(
    d: int, k: int, data: st.DataObject, dtype: torch.dtype, alpha: int, rslora: bool
) -> None:
    rank = data.draw(st.integers(1, min(d, k)))
    linear = random_linear(d, k, dtype)
    ours = adapter(mv.LoRA(rank, alpha, rslora=rslora), linear)
    config = LoraConfig(r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=["fc"])
    model, layer = peft_layer(linear, config)
    pairs = [
        (ours.A, layer.lora_A["default"].weight, False),
        (ours.B, layer.lora_B["default"].weight, False),
    ]
    compare(ours, model, pairs, d)


@few
@given(d=sizes, k=sizes, data=st.data(), alpha=st.integers(1, 16), niter=st.sampled_from([None, 4]))
def test_pissa(d: int, k: int, data: st.DataObject, alpha: int, niter: int | None) -> None:
    """PEFT's PiSSA knows float32 only. The start must agree too: the same W₀, hence residual."""
    rank = data.draw(st.integers(1, min(d, k)))
    linear = random_linear(d, k, torch.float32)
    start = mv.PiSSA(rank, alpha, niter=niter).on(linear)
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="pissa", target_modules=["fc"])
    model, layer = peft_layer(linear, config)
    theirs = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert torch.allclose(start.B @ start.A, theirs, atol=1e-4 if niter is None else 1e-2)
    if niter is not None:
        return
    ours = adapter(mv.PiSSA(rank, alpha), linear)
    pairs = [
        (ours.A, layer.lora_A["default"].weight, False),
        (ours.B, layer.lora_B["default"].weight, False),
    ]
    compare(ours, model, pairs, d)


@few
@given(
    d=sizes, k=sizes, data=st.data(), dtype=dtypes, form=st.sampled_from(["efficient", "expand"])
)
def test_miss(d: int, k: int, data: st.DataObject, dtype: torch.dtype, form: str) -> None:
    rank = data.draw(st.integers(1, k))
    linear = random_linear(d, k, dtype)
    ours = adapter(mv.MiSS(rank, form=form), linear)
    model, layer = peft_layer(linear, MissConfig(r=rank, target_modules=["fc"]))
    compare(ours, model, [(ours.D, layer.miss_block["default"], True)], d)


@few
@given(d=sizes, k=sizes, data=st.data(), dtype=dtypes)
def test_miss_mini(d: int, k: int, data: st.DataObject, dtype: torch.dtype) -> None:
    rank = data.draw(st.integers(1, k))
    mini = data.draw(st.sampled_from([n for n in range(1, d + 1) if d % n == 0]))
    linear = random_linear(d, k, dtype)
    ours = adapter(mv.MiSS(rank, mini=mini), linear)
    config = MissConfig(r=rank, mini_r=mini, init_weights="mini", target_modules=["fc"])
    model, layer = peft_layer(linear, config)
    compare(ours, model, [(ours.D, layer.miss_block["default"], True)], d)


@few
@given(d=st.integers(1, 4), k=st.integers(1, 4), b=st.integers(1, 4), dtype=dtypes)
def test_bat(d: int, k: int, b: int, dtype: torch.dtype) -> None:
    linear = random_linear(d * b, k * b, dtype)
    ours = adapter(mv.Bat(b), linear)
    model, layer = peft_layer(linear, MissConfig(r=b, init_weights="bat", target_modules=["fc"]))
    compare(ours, model, [(ours.D, layer.miss_block["default"], False)], d * b)


@pytest.mark.parametrize(
    "method", [mv.MiSS(4, layout="block"), mv.Bat(4, index="input"), mv.Bat(4, side="left")]
)
def test_what_peft_is_not(method: Method) -> None:
    """The other reading of MiSS and the other two Bats are other functions than PEFT's."""
    linear = random_linear(12, 12, torch.float64)
    ours = adapter(method, linear)
    bat = isinstance(method, mv.Bat)
    config = MissConfig(r=4, init_weights="bat" if bat else True, target_modules=["fc"])
    model, layer = peft_layer(linear, config)
    block = layer.miss_block["default"]
    x = torch.eye(12, dtype=torch.float64)
    for D in (ours.D, ours.D.mT) if bat else (ours.D.mT,):
        block.data = D.detach().clone()
        assert not torch.allclose(ours(x), model(x), atol=0.05)
