"""OLoRA, LoRA-GA and LoRA+ against Hugging Face PEFT: start, output, merged weight, rates."""

import helpers
import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from peers.test_peft import One
from peft import LoraConfig, LoraGAConfig, MissConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora.loraga import preprocess_loraga
from torch import Tensor, nn

import missviz as mv
from missviz.testing import random_linear, randomise

LIMIT = 1e-5
DIRECTIONS = ("ArB2r", "A2rBr", "ArBr")
SCALES = ("stable", "weight_svd", "gd_scale", "unit")
sizes = st.integers(2, 16)
few = settings(max_examples=20)


def close(left: Tensor, right: Tensor, limit: float = LIMIT) -> bool:
    return helpers.close(left, right, limit)


def same_trained_function(ours: mv.Adapter, model: nn.Module) -> None:
    """With our trained A and B in PEFT's place: output, gradients and merged weight."""
    layer = model.base_model.model.fc
    randomise(ours)
    theirs = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        for mine, parameter in zip((ours.A, ours.B), theirs, strict=True):
            parameter.copy_(mine)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, ours.in_features, generator=generator)
    direction = torch.randn(5, ours.out_features, generator=generator)
    y, wanted = ours(x), model(x)
    assert close(y, wanted)
    found = torch.autograd.grad((y * direction).sum(), [ours.A, ours.B])
    for mine, other in zip(found, torch.autograd.grad((wanted * direction).sum(), theirs), strict=True):  # fmt: skip
        assert close(mine, other)
    assert close(ours.weight, model.merge_and_unload().fc.weight)


@few
@given(d=sizes, k=sizes, alpha=st.integers(1, 16), data=st.data())
def test_olora(d: int, k: int, alpha: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, min(d, k)))
    linear = random_linear(d, k, torch.float32)
    ours = mv.OLoRA(rank, alpha).on(linear)
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="olora", target_modules=["fc"])
    model = get_peft_model(One(random_linear(d, k, torch.float32)), config)
    layer = model.base_model.model.fc
    assert close(ours.A, layer.lora_A["default"].weight)
    assert close(ours.B, layer.lora_B["default"].weight)
    residual = linear.weight - ours.method.scaling * ours.B @ ours.A
    assert close(residual, layer.base_layer.weight)
    same_trained_function(ours, model)


def peft_lora_ga(linear: nn.Linear, gradient: Tensor, rank: int, alpha: int, **options: object) -> nn.Module:  # fmt: skip
    """PEFT's model, started from this gradient."""
    model = One(linear)
    model.fc._peft_loraga_grad = gradient.clone()
    return get_peft_model(model, lora_ga_config(rank, alpha, **options))


def lora_ga_config(rank: int, alpha: int, **options: object) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        init_lora_weights="lora_ga",
        lora_ga_config=LoraGAConfig(**options),
        target_modules=["fc"],
    )


def exact_svd(matrix: Tensor, q: int, niter: int) -> tuple[Tensor, Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :q], S[:q], Vh[:q].mT


@few
@given(
    d=sizes,
    k=sizes,
    alpha=st.integers(1, 16),
    direction=st.sampled_from(DIRECTIONS),
    scale=st.sampled_from(SCALES),
    gamma=st.sampled_from([16, 64]),
    data=st.data(),
)
def test_lora_ga(
    d: int, k: int, alpha: int, direction: str, scale: str, gamma: int, data: st.DataObject
) -> None:
    """PEFT's SVD is randomised and inexact where 4r < min(d, k): with an exact one in its place,
    all else is the same."""
    rank = data.draw(st.integers(1, min(d, k) // 2))
    linear = random_linear(d, k, torch.float32)
    G = torch.randn(d, k, generator=torch.Generator().manual_seed(2))
    method = mv.LoRAGA(rank, alpha, direction=direction, scale=scale, gamma=gamma)
    ours = method.on(linear, gradient=G)
    options = {"direction": direction, "scale": scale, "stable_gamma": gamma}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "svd_lowrank", exact_svd)
        model = peft_lora_ga(random_linear(d, k, torch.float32), G, rank, alpha, **options)
    layer = model.base_model.model.fc
    assert close(ours.A, layer.lora_A["default"].weight)
    assert close(ours.B, layer.lora_B["default"].weight)
    residual = linear.weight - method.scaling * ours.B @ ours.A
    assert close(residual, layer.base_layer.weight)
    x = torch.randn(5, k, generator=torch.Generator().manual_seed(3))
    assert close(model(x), linear(x))
    assert torch.equal(ours(x), linear(x))
    same_trained_function(ours, model)


def graded_gradient(d: int, k: int) -> Tensor:
    """Singular values 1, 1/2, 1/4, …, so that an SVD is unique but for signs."""
    generator = torch.Generator().manual_seed(2)
    U, V = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in (d, k))
    n = min(d, k)
    return (U[:, :n] * 0.5 ** torch.arange(n)) @ V[:, :n].mT


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lora_ga_with_pefts_own_svd(direction: str) -> None:
    """The same start where its SVD is wide enough (4r ≥ min(d, k)), up to signs."""
    linear, G = random_linear(6, 8, torch.float32), graded_gradient(6, 8)
    ours = mv.LoRAGA(2, 4, direction=direction).on(linear, gradient=G)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft_lora_ga(
            random_linear(6, 8, torch.float32), G, 2, 4, direction=direction, scale="stable"
        )
    layer = model.base_model.model.fc
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert close(ours.A, A * (ours.A * A).sum(dim=1, keepdim=True).sign())
    assert close(ours.B, B * (ours.B * B).sum(dim=0, keepdim=True).sign())


def test_pefts_weight_svd_underestimates_the_weights_norm() -> None:
    """Its randomised SVD of W₀ is r wide: at r = 1 a power iteration of five steps."""
    linear, G = random_linear(20, 20, torch.float32), graded_gradient(20, 20)
    wanted = torch.linalg.matrix_norm(linear.weight, 2).item()
    ours = mv.LoRAGA(1, scale="weight_svd").on(linear, gradient=G)
    assert torch.linalg.norm(ours.B).item() == pytest.approx(wanted, rel=1e-5)
    sizes = []
    for seed in range(5):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = peft_lora_ga(random_linear(20, 20, torch.float32), G, 1, 1, scale="weight_svd")
        layer = model.base_model.model.fc
        sizes.append(torch.linalg.norm(layer.lora_B["default"].weight).item() / wanted)
    assert max(sizes) <= 1 + 1e-4
    assert min(sizes) < 0.99


def test_calibration_is_pefts_gradient() -> None:
    linear, generator = random_linear(6, 8, torch.float32), torch.Generator().manual_seed(0)
    x, y = (torch.randn(30, n, generator=generator) for n in (8, 6))
    method = mv.LoRAGA(2, 2)
    ours = mv.attach(linear, method, calibration=lambda layer: (layer(x) - y).square().mean())
    model = One(random_linear(6, 8, torch.float32))
    # Its count of backward passes warns unless the inputs want a gradient too.
    inputs = x.clone().requires_grad_()
    preprocess_loraga(
        model, lora_ga_config(2, 2), lambda: (model(inputs) - y).square().mean().backward()
    )
    G = model.fc._peft_loraga_grad
    from_peft = method.on(linear, gradient=G)
    assert close(ours.B @ ours.A, from_peft.B @ from_peft.A)


def test_lora_ga_default_settings_are_pefts() -> None:
    theirs, ours = LoraGAConfig(), mv.LoRAGA(4)
    assert (theirs.direction, theirs.scale, theirs.stable_gamma) == (
        ours.direction,
        ours.scale,
        ours.gamma,
    )


def test_twice_the_rank_must_fit() -> None:
    """Where 2r > min(d, k), PEFT's B has too few columns and its error is about shapes."""
    linear, G = random_linear(6, 8, torch.float32), torch.ones(6, 8)
    with pytest.raises(ValueError, match="rank=4 exceeds"):
        mv.LoRAGA(4).on(linear, gradient=G)
    with torch.random.fork_rng(), pytest.raises(RuntimeError):
        peft_lora_ga(linear, G, 4, 4)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_peft_rejects_float64(init: str) -> None:
    config = LoraConfig(r=2, init_lora_weights=init, target_modules=["fc"])
    with pytest.raises(TypeError):
        get_peft_model(One(random_linear(6, 8, torch.float64)), config)
    method = {"pissa": mv.PiSSA(2), "olora": mv.OLoRA(2)}[init]
    assert method.on(random_linear(6, 8, torch.float64)).A.dtype == torch.float64


# --- LoRA+ ----------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A layer and a one-dimensional parameter beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.fc, self.norm = linear, nn.LayerNorm(linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.fc(x))


def rates(model: nn.Module, groups: list[dict[str, object]]) -> dict[str, float]:
    """Learning rates by the last part of the names that both have."""
    names = {
        parameter: name.replace(".default", "").removesuffix(".weight").rpartition(".")[2]
        for name, parameter in model.named_parameters()
    }
    return {names[parameter]: group["lr"] for group in groups for parameter in group["params"]}


def peft_groups(config: LoraConfig | MissConfig, ratio: float) -> tuple[nn.Module, torch.optim.AdamW]:  # fmt: skip
    model = get_peft_model(Normed(random_linear(6, 8, torch.float32)), config)
    return model, create_loraplus_optimizer(model, torch.optim.AdamW, lr=0.5, loraplus_lr_ratio=ratio)  # fmt: skip


def test_lora_plus_has_pefts_rates() -> None:
    model, optimiser = peft_groups(LoraConfig(r=2, target_modules=["fc"]), 4.0)
    assert rates(model, optimiser.param_groups) == {"lora_A": 0.5, "lora_B": 2.0}
    for ours, ratio in ((mv.LoRAPlus(2, ratio=4), None), (mv.LoRA(2), 4.0)):
        attached = mv.attach(Normed(random_linear(6, 8, torch.float32)), ours)
        groups = mv.param_groups(attached, 0.5, ratio=ratio)
        assert rates(attached, groups) == {"A": 0.5, "B": 2.0}


def test_lora_plus_trains_as_pefts() -> None:
    linear, generator = random_linear(6, 8, torch.float32), torch.Generator().manual_seed(0)
    ours = mv.LoRAPlus(2, ratio=4).on(linear)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["fc"])
    model = get_peft_model(One(random_linear(6, 8, torch.float32)), config)
    layer = model.base_model.model.fc
    layer.lora_A["default"].weight.data = ours.A.detach().clone()
    # PEFT's groups have no weight decay; AdamW's own default would have some.
    mine = torch.optim.AdamW(mv.param_groups(ours, 1e-2), weight_decay=0.0)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-2, loraplus_lr_ratio=4)
    x, y = (torch.randn(20, n, generator=generator) for n in (8, 6))
    for _ in range(5):
        for network, optimiser in ((ours, mine), (model, theirs)):
            optimiser.zero_grad()
            (network(x) - y).square().mean().backward()
            optimiser.step()
    assert close(ours.A, layer.lora_A["default"].weight)
    assert close(ours.B, layer.lora_B["default"].weight)
    assert ours.B.abs().max().item() > 0.1


def test_what_pefts_lora_plus_does_else() -> None:
    """One-dimensional parameters get B's rate there, ours A's; on MiSS it does nothing there and is
    refused here."""
    config = LoraConfig(r=2, target_modules=["fc"], modules_to_save=["norm"])
    model, optimiser = peft_groups(config, 4.0)
    found = rates(model, optimiser.param_groups)
    # "modules_to_save" is the norm's weight.
    assert found == {"lora_A": 0.5, "lora_B": 2.0, "modules_to_save": 2.0, "bias": 2.0}
    attached = mv.attach(
        Normed(random_linear(6, 8, torch.float32)), mv.LoRAPlus(2, ratio=4), "fc", trainable="norm"
    )
    ours = rates(attached, mv.param_groups(attached, 0.5))
    assert ours == {"A": 0.5, "B": 2.0, "norm": 0.5, "bias": 0.5}
    model, optimiser = peft_groups(MissConfig(r=2, target_modules=["fc"]), 4.0)
    assert set(rates(model, optimiser.param_groups).values()) == {0.5}
    attached = mv.attach(Normed(random_linear(6, 8, torch.float32)), mv.MiSS(2))
    with pytest.raises(ValueError, match="no adapter trains A and B"):
        mv.param_groups(attached, 0.5, ratio=4)
