"""DoRA and AdaLoRA against PEFT: function, gradients, loss term and budget, step by step."""

from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from peers.test_peft import adapter, compare, dtypes, few, peft_layer, sizes
from peft import AdaLoraConfig, LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import missviz as mv
from missviz.testing import random_linear


@few
@given(d=sizes, k=sizes, data=st.data(), dtype=dtypes, alpha=st.integers(1, 32))
def test_dora(d: int, k: int, data: st.DataObject, dtype: torch.dtype, alpha: int) -> None:
    rank = data.draw(st.integers(1, min(d, k)))
    linear = random_linear(d, k, dtype)
    ours = adapter(mv.DoRA(rank, alpha), linear)
    config = LoraConfig(r=rank, lora_alpha=alpha, use_dora=True, target_modules=["fc"])
    model, layer = peft_layer(linear, config)
    m = layer.lora_magnitude_vector["default"].weight
    assert torch.equal(m, mv.DoRA(rank, alpha).on(linear).m)
    pairs = [
        (ours.A, layer.lora_A["default"].weight, False),
        (ours.B, layer.lora_B["default"].weight, False),
        (ours.m, m, False),
    ]
    compare(ours, model, pairs, d)


@few
@given(d=sizes, k=sizes, data=st.data(), dtype=dtypes, alpha=st.none() | st.integers(1, 32))
def test_adalora(
    d: int, k: int, data: st.DataObject, dtype: torch.dtype, alpha: int | None
) -> None:
    rank = data.draw(st.integers(1, min(d, k)))
    linear = random_linear(d, k, dtype)
    ours = adapter(mv.AdaLoRA(rank, alpha), linear)
    config = AdaLoraConfig(
        init_r=rank, lora_alpha=alpha or rank, total_step=10, target_modules=["fc"]
    )
    model, layer = peft_layer(linear, config)
    pairs = [
        (ours.A, layer.lora_A["default"], False),
        (ours.E, layer.lora_E["default"], False),
        (ours.B, layer.lora_B["default"], False),
    ]
    compare(ours, model, pairs, d)


class WithLoss(nn.Module):
    """Two layers that return their loss the way PEFT's AdaLoRA expects it, to add its own term."""

    def __init__(self) -> None:
        super().__init__()
        self.first = random_linear(9, 6, torch.float64)
        self.second = random_linear(5, 9, torch.float64)

    def forward(self, x: Tensor, y: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=mse_loss(self.second(torch.tanh(self.first(x))), y))


LAYERS = ("first", "second")
SCHEDULES = [
    dict(total_steps=14),
    dict(total_steps=14, initial_steps=3),
    dict(total_steps=14, final_steps=5),
    dict(total_steps=18, initial_steps=2, final_steps=5, interval=3),
    dict(total_steps=14, beta1=0.5, beta2=0.95),
]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize(("rank", "target"), [(4, 2), (5, 1), (3, 2)])
def test_budget_step_by_step(schedule: dict[str, float], rank: int, target: int) -> None:
    """The same training in both, for a few steps more than planned: the same loss with its term,
    the same triplets dropped, the same numbers left."""
    names = dict(total_steps="total_step", initial_steps="tinit", final_steps="tfinal")
    names |= dict(interval="deltaT", beta1="beta1", beta2="beta2")
    method = mv.AdaLoRA(rank, 8.0, target_rank=target, **schedule)
    config = AdaLoraConfig(
        init_r=rank,
        target_r=target,
        lora_alpha=8,
        target_modules=list(LAYERS),
        **{names[name]: value for name, value in schedule.items()},
    )
    ours = mv.attach(WithLoss(), method, seed=7)
    theirs = get_peft_model(WithLoss(), config, autocast_adapter_dtype=False)
    peft_layers = {name: theirs.base_model.model.get_submodule(name) for name in LAYERS}
    pairs = []
    for name, layer in peft_layers.items():
        layer.ranknum["default"].requires_grad_(False)  # see the last test
        mine = ours.get_submodule(name)
        pairs += [
            (mine.A, layer.lora_A["default"]),
            (mine.E, layer.lora_E["default"]),
            (mine.B, layer.lora_B["default"]),
        ]
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine)
    optimisers = [
        torch.optim.Adam(mv.param_groups(ours, lr=0.02)),
        torch.optim.Adam([p for p in theirs.parameters() if p.requires_grad], lr=0.02),
    ]
    generator = torch.Generator().manual_seed(1)
    dropped = set()
    for step in range(1, int(schedule["total_steps"]) + 4):
        x, y = (torch.randn(16, n, generator=generator, dtype=torch.float64) for n in (6, 5))
        losses = [ours(x, y).loss + mv.penalty(ours), theirs.base_model(x, y).loss]
        assert float((losses[0] - losses[1]).detach().abs()) <= 1e-10
        for loss, optimiser in zip(losses, optimisers, strict=True):
            loss.backward()
            optimiser.step()
        mv.after_step(ours, step)
        theirs.base_model.update_and_allocate(step)
        for optimiser in optimisers:
            optimiser.zero_grad()
        for mine, other in pairs:
            assert float((mine - other).detach().abs().max()) <= 1e-10
            assert torch.equal(mine == 0, other == 0)
        dropped.add(tuple(bool(e == 0) for name in LAYERS for e in ours.get_submodule(name).E))
    assert len(dropped) > 2
    left = sum(int((ours.get_submodule(name).E != 0).sum()) for name in LAYERS)
    assert left == target * len(LAYERS)


def test_peft_cannot_keep_every_triplet() -> None:
    """With target_r = init_r there is nothing to drop; PEFT asks for the 0th smallest score."""
    config = AdaLoraConfig(init_r=3, target_r=3, total_step=5, target_modules=list(LAYERS))
    model = get_peft_model(WithLoss(), config, autocast_adapter_dtype=False)
    x, y = torch.ones(2, 6, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    model(x, y).loss.backward()
    with pytest.raises(RuntimeError, match="kthvalue"):
        model.base_model.update_and_allocate(1)


def test_pefts_penalty_is_missing_without_a_task_type() -> None:
    """PeftModel's own forward goes past the AdaLoraModel that would add it."""
    config = AdaLoraConfig(init_r=3, total_step=5, target_modules=list(LAYERS))
    model = get_peft_model(WithLoss(), config, autocast_adapter_dtype=False)
    batch = torch.ones(2, 6, dtype=torch.float64), torch.ones(2, 5, dtype=torch.float64)
    plain = WithLoss()(*batch).loss
    assert torch.equal(model(*batch).loss, plain)
    assert float((model.base_model(*batch).loss - plain).detach()) > 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_peft_trains_its_scaling_unless_the_model_is_float32(dtype: torch.dtype) -> None:
    """`ranknum` in s = α/(ranknum + 1e-5) is the rank at first, not the number of triplets left. It
    is frozen until the cast to W₀'s dtype makes a new parameter of it; then it is trained, counted,
    and not saved."""
    config = AdaLoraConfig(
        init_r=4, target_r=1, lora_alpha=8, total_step=9, target_modules=list(LAYERS)
    )
    model = get_peft_model(WithLoss().to(dtype), config, autocast_adapter_dtype=False)
    assert not any("ranknum" in name for name in get_peft_model_state_dict(model))
    batch = torch.ones(2, 6, dtype=dtype), torch.ones(2, 5, dtype=dtype)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(1, 10):
        model(*batch).loss.backward()
        optimiser.step()
        model.base_model.update_and_allocate(step)
        optimiser.zero_grad()
    layers = [model.base_model.model.get_submodule(name) for name in LAYERS]
    assert sum(int((layer.lora_E["default"] != 0).sum()) for layer in layers) == 2
    stays = [float(layer.ranknum["default"].detach()) == 4 for layer in layers]
    ours = mv.AdaLoRA(4).num_parameters(9, 6) + mv.AdaLoRA(4).num_parameters(5, 9)
    trained = model.get_nb_trainable_parameters()[0]
    if dtype == torch.float32:
        assert all(stays)
        assert trained == ours
    else:
        assert not any(stays)
        assert trained == ours + 2
