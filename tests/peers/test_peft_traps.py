"""What PEFT's MiSS does that a reader of the paper would not expect (PEFT 0.21).

missviz does otherwise, and says so; where a test here fails on a newer PEFT, the trap is gone.
"""

import pytest
import torch
from peft import MissConfig, get_peft_model
from torch import nn

import missviz as mv
from missviz.randomness import generator_for, normal
from missviz.testing import random_linear, randomise


def miss_layer(
    out_features: int, in_features: int, dtype: torch.dtype = torch.float64, **settings: object
) -> nn.Module:
    """PEFT's layer with a random block."""
    model = get_peft_model(
        nn.ModuleDict({"fc": random_linear(out_features, in_features, dtype)}),
        MissConfig(target_modules=["fc"], **settings),  # type: ignore[arg-type]
        autocast_adapter_dtype=False,
    )
    layer: nn.Module = model.base_model.model.fc
    randomise(layer, "trap", std=0.5)
    return layer


@pytest.mark.parametrize("in_features", [24, 26])
def test_delta_weight_is_the_whole_weight_and_may_change_its_argument(in_features: int) -> None:
    layer = miss_layer(20, in_features, r=6)
    weight = layer.get_base_layer().weight.detach().clone()
    given = weight.clone()
    found = layer.get_delta_weight_miss("default", given).detach()
    ours = mv.MiSS(6).on(random_linear(20, in_features, torch.float64))
    with torch.no_grad():
        ours.D.copy_(layer.miss_block["default"].mT)
    assert torch.allclose(found, weight + ours.delta(), rtol=0, atol=1e-12)
    assert not torch.allclose(found, ours.delta(), atol=0.1)
    assert torch.equal(given, weight) == (in_features % 6 == 0)


def test_merging_mini_in_bfloat16_changes_the_parameter() -> None:
    layer = miss_layer(24, 8, torch.bfloat16, r=4, mini_r=6, init_weights="mini")
    assert layer.miss_block["default"].shape == (4, 6)
    layer.merge()
    assert layer.miss_block["default"].shape == (4, 24)
    with pytest.raises(RuntimeError):
        layer.unmerge()


def test_merging_mini_here_does_not() -> None:
    adapter = mv.MiSS(4, mini=6).on(random_linear(24, 8, torch.bfloat16))
    randomise(adapter)
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    mv.merge(adapter)
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter.state_dict().items())


def test_scaling_does_nothing() -> None:
    layer = miss_layer(12, 12, r=4)
    x = normal((3, 12), 1.0, generator_for("x"))
    before = layer(x)
    with pytest.warns(UserWarning, match="[Ss]cal"):
        layer.scale_layer(3.0)
    assert torch.equal(layer(x), before)


def test_two_kinds_on_one_layer_break() -> None:
    model = get_peft_model(
        nn.ModuleDict({"fc": random_linear(12, 12, torch.float64)}),
        MissConfig(r=4, target_modules=["fc"]),
        autocast_adapter_dtype=False,
    )
    model.add_adapter("second", MissConfig(r=4, init_weights="bat", target_modules=["fc"]))
    layer = model.base_model.model.fc
    layer.set_adapter(["default", "second"])
    with pytest.raises(RuntimeError):
        layer(normal((3, 12), 1.0, generator_for("x")))


def test_two_bats_do_not_commute() -> None:
    """Each acts on the weight that the one before it left."""
    linear = random_linear(12, 12, torch.float64)
    first, second = (normal((3, 4, 4), 1.0, generator_for(name)) for name in ("first", "second"))

    def after(*blocks: torch.Tensor) -> torch.Tensor:
        layer = linear
        for block in blocks:
            adapter = mv.Bat(4).on(layer)
            with torch.no_grad():
                adapter.D.copy_(block)
            layer = mv.merge(adapter)
        return layer.weight

    assert not torch.allclose(after(first, second), after(second, first), atol=0.5)

    model = get_peft_model(
        nn.ModuleDict({"fc": random_linear(12, 12, torch.float64)}),
        MissConfig(r=4, init_weights="bat", target_modules=["fc"]),
        autocast_adapter_dtype=False,
    )
    model.add_adapter("second", MissConfig(r=4, init_weights="bat", target_modules=["fc"]))
    layer = model.base_model.model.fc
    with torch.no_grad():
        layer.miss_block["default"].copy_(first)
        layer.miss_block["second"].copy_(second)
    layer.merge(adapter_names=["default", "second"])
    merged = layer.get_base_layer().weight
    assert torch.allclose(merged, after(first, second), rtol=0, atol=1e-12)


def test_undoing_bat_is_single_precision() -> None:
    """PEFT inverts I + D in float32; and a D of −I cannot be undone at all."""
    layer = miss_layer(12, 12, r=4, init_weights="bat")
    before = layer.get_base_layer().weight.detach().clone()
    layer.merge()
    layer.unmerge()
    error = float((layer.get_base_layer().weight - before).abs().max())
    assert 1e-12 < error < 1e-4
    with torch.no_grad():
        layer.miss_block["default"].copy_(-torch.eye(4, dtype=torch.float64).expand(3, 4, 4))
    layer.merge()
    with pytest.raises(RuntimeError):
        layer.unmerge()


@pytest.mark.parametrize("kind", [True, "bat"])
def test_dropout_acts_before_the_sum_and_bat_ignores_it(kind: bool | str) -> None:
    """For x = 1 each block sum has variance g p / (1 − p)."""
    rank, in_features, probability = 4, 20, 0.5
    layer = miss_layer(rank, in_features, r=rank, init_weights=kind, miss_dropout=probability)
    layer.train()
    x = torch.ones(40_000, in_features, dtype=torch.float64)
    if kind == "bat":
        assert torch.equal(layer(x), layer.eval()(x))
        return
    with torch.no_grad():
        layer.miss_block["default"].copy_(torch.eye(rank, dtype=torch.float64))
        base = nn.functional.linear(x, layer.get_base_layer().weight, layer.get_base_layer().bias)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    sums = (layer(x) - base).detach()
    torch.set_rng_state(state)
    shards = in_features / rank
    expected = shards * probability / (1 - probability)
    assert float(sums.var()) == pytest.approx(expected, rel=0.03)
    assert float(sums.mean()) == pytest.approx(shards, rel=0.01)


def test_full_and_frozen_fine_tuning_agree_until_weights_decay() -> None:
    """Decay pulls W towards 0 and M towards 0, which is W₀."""
    linear = random_linear(8, 12, torch.float64)
    x = normal((16, 12), 1.0, generator_for("x"))
    target = normal((16, 8), 1.0, generator_for("y"))

    def trained(method: mv.Method, decay: float) -> torch.Tensor:
        adapter = method.on(linear)
        parameters = [p for p in adapter.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=decay)
        for _ in range(5):
            optimiser.zero_grad()
            (adapter(x) - target).square().mean().backward()
            optimiser.step()
        return adapter.weight.detach()

    def difference(decay: float) -> float:
        full, frozen = (
            trained(method, decay) for method in (mv.FullFineTuning(), mv.FrozenFineTuning())
        )
        return float((full - frozen).abs().max())

    assert difference(0.0) < 1e-12
    assert difference(0.1) > 1e-4


def test_lora_a_has_no_gradient_on_the_first_step_only() -> None:
    adapter = mv.LoRA(3).on(random_linear(8, 12, torch.float64))
    x = normal((16, 12), 1.0, generator_for("x"))
    optimiser = torch.optim.SGD([adapter.A, adapter.B], lr=0.1)
    adapter(x).square().sum().backward()
    assert adapter.A.grad.abs().max() == 0
    optimiser.step()
    optimiser.zero_grad()
    adapter(x).square().sum().backward()
    assert adapter.A.grad.abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"init_weights": "mini", "mini_r": 5}])
def test_peft_converts_miss_to_lora_whatever_rank_is_asked_for(settings: dict) -> None:
    """A = T, B = D, α = r. PEFT goes through float32; `write_peft` does not."""
    from peft.tuners.lora.conversion import convert_to_lora

    model = get_peft_model(
        nn.ModuleDict({"fc": random_linear(20, 26, torch.float64)}),
        MissConfig(r=6, target_modules=["fc"], **settings),
        autocast_adapter_dtype=False,
    )
    layer = model.base_model.model.fc
    randomise(layer, "convert")
    ours = mv.MiSS(6, mini=settings.get("mini_r")).on(random_linear(20, 26, torch.float64))
    with torch.no_grad():
        ours.D.copy_(layer.miss_block["default"].mT)
    config, tensors = convert_to_lora(model, rank=2)
    (A,) = (tensor for name, tensor in tensors.items() if "lora_A" in name)
    (B,) = (tensor for name, tensor in tensors.items() if "lora_B" in name)
    assert A.shape[0] == B.shape[1] == 6
    assert float(config.lora_alpha) == config.r
    assert torch.allclose((B @ A).double(), ours.delta(), rtol=0, atol=1e-6)
    left, right = ours.factors()
    assert torch.allclose(left @ right, ours.delta(), rtol=0, atol=1e-14)
