"""What a method may ask for beside its layer: shared parts, a gradient, a penalty, a say after each
step, rates of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import raises_one_sentence, random
from torch import Tensor, nn

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.experiments.ensemble import Ensemble, train
from missviz.experiments.tasks import TwoLayerNet
from missviz.testing import random_linear

F64 = {"dtype": torch.float64}
log: list[Any] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    log.clear()


@dataclass(frozen=True)
class Scale(Method):
    """ΔW = c W₀, one number c; it shares, penalises c² and halves c after each step."""

    label: str = "scale"

    @property
    def name(self) -> str:
        return self.label

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return 1

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def shared(self, layers: Sequence[nn.Linear], generator: torch.Generator) -> list[Any]:
        log.append(("shared", [layer.in_features for layer in layers], generator.initial_seed()))
        return ["pool"]

    def adapter(self, base: nn.Linear, generator: torch.Generator, shared: Any = None) -> Adapter:
        return ScaleAdapter(self, base, shared)

    def after_step(self, adapters: Sequence[Adapter], step: int) -> None:
        log.append((self.label, step, [adapter.in_features for adapter in adapters]))
        for adapter in adapters:
            log.append(float(adapter.c.grad.sum()))
            adapter.c.data.mul_(0.5)


class ScaleAdapter(Adapter):
    stackable = True

    def __init__(self, method: Scale, base: nn.Linear, pool: Any) -> None:
        super().__init__(method, base)
        self.c, self.pool = self.zeros(1, 1), pool

    def delta(self) -> Tensor:
        return self.c * self.base.weight

    def penalty(self) -> Tensor:
        return self.c.square().sum(dim=(-2, -1))


@dataclass(frozen=True)
class Witness(Scale):
    """Keeps the gradient that it was given."""

    needs_gradient: ClassVar[bool] = True

    def adapter(
        self, base: nn.Linear, generator: torch.Generator, gradient: Tensor, shared: Any = None
    ) -> Adapter:
        made = ScaleAdapter(self, base, shared)
        made.register_buffer("G", gradient)
        return made


def net() -> nn.Sequential:
    return nn.Sequential(
        random_linear(6, 4, torch.float64), nn.Tanh(), random_linear(3, 6, torch.float64)
    )


X = random(5, 4)


def loss(model: nn.Module) -> Tensor:
    return (model(X) - 1).square().mean()


# --- shared ---------------------------------------------------------------------------------------


def test_attach_shares_once_among_all_layers() -> None:
    adapted = mv.attach(net(), Scale(), seed=3)
    assert [entry[1] for entry in log] == [[4, 6]]
    assert adapted[0].pool is adapted[2].pool
    mv.attach(net(), Scale(), ["2"], seed=3)
    mv.attach(net(), Scale(), seed=4)
    assert [entry[1] for entry in log] == [[4, 6], [6], [4, 6]]
    assert log[0][2] == log[1][2] != log[2][2]


def test_a_layer_in_two_places_is_shared_once() -> None:
    linear = random_linear(4, 4, torch.float64)
    adapted = mv.attach(nn.Sequential(linear, nn.Tanh(), linear), Scale())
    assert [entry[1] for entry in log] == [[4]]
    assert adapted[0] is adapted[2]


def test_on_shares_with_itself_alone() -> None:
    adapter = Scale().on(random_linear(3, 5, torch.float64))
    assert [entry[1] for entry in log] == [[5]]
    assert adapter.pool == ["pool"]


# --- calibration ----------------------------------------------------------------------------------


def test_calibration_gives_autograds_own_gradient() -> None:
    model = net()
    G = torch.autograd.grad(loss(model), [model[0].weight, model[2].weight])
    calls = []

    def calibration(probe: nn.Module) -> Tensor:
        calls.append(probe)
        return loss(probe)

    with torch.no_grad():
        adapted = mv.attach(model, Witness(), calibration=calibration)
    assert len(calls) == 1
    for index, wanted in zip((0, 2), G, strict=True):
        assert torch.allclose(adapted[index].G, wanted, rtol=1e-12, atol=1e-14)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in adapted.buffers())


def test_calibration_of_some_layers_and_of_one_in_two_places() -> None:
    model = net()
    (G,) = torch.autograd.grad(loss(model), [model[2].weight])
    adapted = mv.attach(model, Witness(), ["2"], calibration=loss)
    assert torch.allclose(adapted[2].G, G, rtol=1e-12, atol=1e-14)
    linear = random_linear(4, 4, torch.float64)
    tied = nn.Sequential(linear, nn.Tanh(), linear)
    (G,) = torch.autograd.grad(loss(tied), [linear.weight])
    adapted = mv.attach(tied, Witness(), calibration=loss)
    assert torch.allclose(adapted[0].G, G, rtol=1e-12, atol=1e-14)


def test_the_same_gradient_by_hand_or_by_calibration() -> None:
    linear = random_linear(6, 4, torch.float64)
    (G,) = torch.autograd.grad(loss(linear), [linear.weight])
    by_hand, calibrated = (
        mv.LoRAGA(2).on(linear, gradient=G),
        mv.attach(linear, mv.LoRAGA(2), calibration=loss),
    )
    assert torch.allclose(by_hand.B @ by_hand.A, calibrated.B @ calibrated.A, atol=1e-12)


# --- penalty --------------------------------------------------------------------------------------


def test_penalty_is_the_mean_of_those_that_have_one() -> None:
    adapted = mv.attach(mv.attach(net(), Scale(), ["0"]), mv.LoRA(2), ["2"])
    adapted[0].c.data.fill_(3.0)
    assert mv.penalty(adapted).item() == 9.0
    adapted = mv.attach(net(), Scale())
    for index, c in ((0, 3.0), (2, 1.0)):
        adapted[index].c.data.fill_(c)
    assert mv.penalty(adapted).item() == 5.0
    mv.penalty(adapted).backward()
    assert adapted[0].c.grad.item() == 3.0  # d(9 + 1)/2


def test_penalty_of_a_method_without_one_is_zero() -> None:
    adapted = mv.attach(net(), mv.LoRA(2))
    assert mv.penalty(adapted).shape == ()
    assert mv.penalty(adapted).item() == 0.0
    assert mv.penalty(adapted).dtype == torch.float64


# --- after_step -----------------------------------------------------------------------------------


def test_after_step_comes_once_per_method_with_all_its_adapters() -> None:
    log.clear()
    model = nn.Sequential(*net(), nn.Tanh(), random_linear(2, 3, torch.float64))
    adapted = mv.attach(mv.attach(model, Scale("one"), ["0", "2"]), Scale("two"), ["4"])
    log.clear()
    loss(adapted).backward()
    gradients = [float(adapted[index].c.grad) for index in (0, 2, 4)]
    adapted[2].c.data.fill_(8.0)
    mv.after_step(adapted, 7)
    assert log == [("one", 7, [4, 6]), *gradients[:2], ("two", 7, [3]), gradients[2]]
    assert adapted[2].c.item() == 4.0


def test_an_ensemble_gives_penalty_and_after_step_as_the_loop_does() -> None:
    """Three members at once against a loop as in the documentation."""
    generator = torch.Generator().manual_seed(1)
    models = [mv.attach(TwoLayerNet(generator).double(), Scale(), "fc1") for _ in range(3)]
    x, y = random(3, 10, 64), random(3, 10, 64, seed=2)
    ensemble = Ensemble(models)
    found = train(ensemble, {"train": (x, y)}, [1e-2] * 3, 6).losses["train"]
    for index, model in enumerate(models):
        single = single_run(model, x[index], y[index], 1e-2, 6)
        np.testing.assert_allclose(found[index], single, atol=1e-10)
    with pytest.raises(ValueError, match='scale needs engine="native", for its penalty'):
        Ensemble(models, "vmap")


def single_run(model: nn.Module, x: Tensor, y: Tensor, lr: float, steps: int) -> list[float]:
    optimiser = torch.optim.Adam(mv.param_groups(model, lr))
    losses = []
    for step in range(1, steps + 2):
        task = (model(x) - y).square().mean()
        losses.append(task.item())
        (task + mv.penalty(model)).backward()
        optimiser.step()
        mv.after_step(model, step)
        optimiser.zero_grad()
    return losses


# --- rates ----------------------------------------------------------------------------------------


def rates(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    listed = [(names[p], group["lr"]) for group in groups for p in group["params"]]
    assert len(listed) == len(dict(listed))
    return dict(listed)


def test_param_groups_of_lora_plus() -> None:
    model = mv.attach(net(), mv.LoRAPlus(2, ratio=4), ["0"], trainable="2")
    found = rates(model, mv.param_groups(model, 0.5))
    assert found == {"0.A": 0.5, "0.B": 2.0, "2.weight": 0.5, "2.bias": 0.5}
    found = rates(model, mv.param_groups(model, 0.5, ratio=10))
    assert found["0.B"] == 5.0


def test_param_groups_with_a_ratio_makes_lora_plus_of_any_product() -> None:
    for method in (mv.LoRA(2), mv.PiSSA(2), mv.OLoRA(2), mv.LoRA(2, alpha=8, rslora=True)):
        model = mv.attach(mv.attach(net(), method, ["0"]), mv.MiSS(2), ["2"])
        found = rates(model, mv.param_groups(model, 0.5, ratio=4))
        assert found == {"0.A": 0.5, "0.B": 2.0, "2.D": 0.5}
        assert len(mv.param_groups(model, 0.5)) == 1


def test_param_groups_without_adapters_and_of_a_tied_layer() -> None:
    model = net()
    assert set(rates(model, mv.param_groups(model, 0.1)).values()) == {0.1}
    linear = random_linear(4, 4, torch.float64)
    tied = mv.attach(nn.Sequential(linear, nn.Tanh(), linear), mv.LoRAPlus(2))
    assert rates(tied, mv.param_groups(tied, 1.0)) == {"0.A": 1.0, "0.B": 16.0}


def test_lora_plus_is_lora_whose_first_step_is_longer() -> None:
    linear = random_linear(6, 4, torch.float64)
    lora, plus = mv.LoRA(2).on(linear), mv.LoRAPlus(2, ratio=5).on(linear)
    assert torch.equal(lora.A, plus.A)
    for adapter in (lora, plus):
        loss(adapter).backward()
        torch.optim.SGD(mv.param_groups(adapter, 0.1)).step()
    assert torch.allclose(plus.delta(), 5 * lora.delta())
    assert torch.equal(lora.A, plus.A)


@pytest.mark.parametrize("engine", ["native", "vmap"])
def test_an_ensemble_of_lora_plus_equals_single_runs(engine: str) -> None:
    generator = torch.Generator().manual_seed(1)
    models = [
        mv.attach(
            TwoLayerNet(generator).double(), mv.LoRAPlus(2), "fc1", seed=seed, trainable="fc2"
        )
        for seed in range(3)
    ]
    x, y = random(3, 10, 64), random(3, 10, 64, seed=2)
    learning_rates = [1e-3, 1e-3, 1e-2]
    found = train(Ensemble(models, engine), {"train": (x, y)}, learning_rates, 6).losses["train"]
    for index, model in enumerate(models):
        single = single_run(model, x[index], y[index], learning_rates[index], 6)
        np.testing.assert_allclose(found[index], single, atol=1e-10)
    lora = mv.attach(mv.detach(models[0]), mv.LoRA(2), "fc1", seed=0, trainable="fc2")
    other = single_run(lora, x[0], y[0], 1e-3, 6)
    assert abs(other[-1] - found[0][-1]) > 1e-6


def test_snapshots_follow_the_rates_too() -> None:
    from missviz.experiments import adapter_snapshots

    plus, lora = (
        adapter_snapshots(method, [0, 1], seed=45) for method in (mv.LoRAPlus(2), mv.LoRA(2))
    )
    assert torch.equal(plus[0].A, lora[0].A)
    assert torch.allclose(plus[1].delta(), 16 * lora[1].delta(), rtol=1e-2, atol=1e-5)
    assert not any(p.grad is not None for p in plus[1].parameters())


# --- LoRA-FA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 12.0])
def test_lora_fa_can_follow_the_gradients_projection(alpha: float | None) -> None:
    """With ĝ_B = g_B (A Aᵀ)⁻¹ / s², the update s ĝ_B A is G projected on the rows of A."""
    method = mv.LoRA(3, alpha, freeze_a=True)
    linear, x, direction = random_linear(20, 24, torch.float64), random(7, 24), random(7, 20)
    adapter = method.on(linear)
    (g,) = torch.autograd.grad((adapter(x) * direction).sum(), [adapter.B])
    G, s, A = direction.mT @ x, method.scaling, adapter.A
    wanted = G @ torch.linalg.pinv(A) @ A
    projected = s * (g @ torch.linalg.inv(A @ A.mT) / s**2) @ A
    assert torch.allclose(projected, wanted, atol=1e-11)
    assert torch.linalg.norm(wanted) > 0.1 * torch.linalg.norm(G)


# --- errors ---------------------------------------------------------------------------------------


def linear() -> nn.Linear:
    return random_linear(6, 4, torch.float64)


def lora() -> nn.Module:
    return mv.attach(net(), mv.LoRA(2))


G = torch.ones(6, 4)
CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: mv.LoRAGA(2).on(linear()), ValueError, "LoRA-GA r=2 starts from the gradient: method.on(linear, gradient=G)"),
    (lambda: mv.LoRA(2).on(linear(), gradient=G), ValueError, "gradient: LoRA r=2 does not start from the gradient"),
    (lambda: mv.LoRAGA(2).on(linear(), gradient=G.mT), ValueError, "gradient has shape (4, 6); it must be (6, 4)"),
    (lambda: mv.LoRAGA(2).on(linear(), gradient=G.long()), TypeError, "gradient is not a tensor of floating-point numbers"),
    (lambda: mv.LoRAGA(2).on(linear(), gradient=[[1.0]]), TypeError, "gradient is not a tensor"),
    (lambda: mv.LoRAGA(2).on(linear(), gradient=G / 0), ValueError, "gradient has 24 values that are NaN or infinite"),
    (lambda: mv.attach(net(), mv.LoRAGA(1)), ValueError, "LoRA-GA r=1 starts from the gradient: attach(..., calibration=loss)"),
    (lambda: mv.attach(net(), mv.LoRA(2), calibration=loss), ValueError, "calibration: LoRA r=2 does not start from the gradient"),
    (lambda: mv.attach(net(), mv.LoRAGA(1), calibration=3), TypeError, "calibration=3 is not a function from the model to its loss"),
    (lambda: mv.attach(net(), mv.LoRAGA(1), calibration=lambda m: m(X)), ValueError, "calibration does not return one loss that depends"),
    (lambda: mv.attach(net(), mv.LoRAGA(1), calibration=lambda m: 1.0), ValueError, "calibration does not return one loss"),
    (lambda: mv.attach(net(), mv.LoRAGA(1), calibration=lambda m: X.sum()), ValueError, "calibration does not return one loss"),
    (lambda: mv.attach(net(), mv.LoRAGA(1), calibration=lambda m: m[0](X).sum()), ValueError, "2: calibration's loss does not depend on it"),
    (lambda: mv.attach(net(), mv.LoRAGA(1), calibration=lambda m: loss(m) / 0), ValueError, "0: gradient has 24 values that are NaN or infinite"),
    (lambda: mv.attach(net(), mv.LoRAGA(2), calibration=loss), ValueError, "2: rank=2 exceeds min(out_features, in_features) / 2=1"),
    (lambda: mv.penalty(net()), ValueError, "the model has no adapters"),
    (lambda: mv.penalty("net"), TypeError, "model='net' is not an nn.Module"),
    (lambda: mv.after_step(net(), 1), ValueError, "the model has no adapters"),
    (lambda: mv.after_step(lora(), 0), ValueError, "step=0 is not positive"),
    (lambda: mv.after_step(lora(), 1.0), TypeError, "step=1.0 is not an integer"),
    (lambda: mv.param_groups("net", 1e-3), TypeError, "model='net' is not an nn.Module"),
    (lambda: mv.param_groups(lora(), 0), ValueError, "lr=0 is not a positive finite number"),
    (lambda: mv.param_groups(lora(), "1e-3"), TypeError, "lr='1e-3' is not a number"),
    (lambda: mv.param_groups(lora(), 1e-3, ratio=-1), ValueError, "ratio=-1 is not a positive finite number"),
    (lambda: mv.param_groups(lora(), 1e-3, ratio=True), TypeError, "ratio=True is not a number"),
    (lambda: mv.param_groups(mv.attach(net(), mv.MiSS(2)), 1e-3, ratio=4), ValueError, "ratio=4 multiplies the rate of B, and no adapter trains A and B"),
    (lambda: mv.param_groups(mv.attach(net(), mv.LoRA(2, freeze_a=True)), 1e-3, ratio=4), ValueError, "no adapter trains A and B"),
    (lambda: mv.param_groups(net().requires_grad_(False), 1e-3), ValueError, "nothing to train: every parameter is frozen"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_clear_sentence(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)
