"""λ_max against the eigenvalues of the Hessian that torch builds, and against cases by hand."""

import dataclasses
import math

import pytest
import torch
from helpers import raises_one_sentence, random
from hypothesis import given, settings
from hypothesis import strategies as st
from methods_under_test import VARIANTS, methods_and_shapes
from tiny_transformer import Transformer, some_words
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, mse_loss

import missviz as mv
from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.adapters.shards import shard_matrix
from missviz.analysis import curvature
from missviz.analysis import hessian as under_test
from missviz.testing import random_linear, randomise

# A table of n × n for n = 1024 (d + k) is what no test can afford.
METHODS = [
    dataclasses.replace(m, rank=7) if type(m) is mv.BigLoRA else m for m in VARIANTS
]  # fmt: skip
EXACT = {"tolerance": 1e-10}


def two_layers(out_features: int, in_features: int) -> nn.Sequential:
    first = random_linear(out_features, in_features, torch.float64)
    return nn.Sequential(first, nn.Tanh(), random_linear(3, out_features, torch.float64))


def on_data(in_features: int, samples: int = 7):
    x, y = random(samples, in_features, seed=1), random(samples, 3, seed=2)
    return lambda model: mse_loss(model(x), y)


def built_hessian(model: nn.Module, loss) -> Tensor:
    """∂²L/∂θ² as torch.autograd.functional builds it: (n, n)."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def of_numbers(theta: Tensor) -> Tensor:
        parts = theta.split([p.numel() for p in trained.values()])
        own = {n: part.view_as(p) for (n, p), part in zip(trained.items(), parts, strict=True)}
        return loss(lambda *inputs: torch.func.functional_call(model, own, inputs))

    start = torch.cat([p.detach().reshape(-1) for p in trained.values()])
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.functional.hessian(of_numbers, start)


def adapted(method: Method, out_features: int, in_features: int, loss, moved: bool):
    model = attach(
        two_layers(out_features, in_features),
        method,
        "0",
        calibration=loss if method.needs_gradient else None,
    )
    if moved:
        randomise(model[0])
    return model


def holds(method: Method, out_features: int, in_features: int, moved: bool) -> None:
    loss = on_data(in_features)
    model = adapted(method, out_features, in_features, loss, moved)
    wanted = torch.linalg.eigvalsh(built_hessian(model, loss))
    scale = float(wanted.abs().max())
    assert abs(curvature(model, loss, **EXACT) - float(wanted[-1])) <= 1e-8 * scale
    least = -curvature(model, lambda m: -loss(m), **EXACT)
    assert abs(least - float(wanted[0])) <= 1e-8 * scale


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True], ids=["start", "moved"])
@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_every_variant_has_the_extreme_eigenvalues_of_the_built_hessian(
    method: Method, moved: bool
) -> None:
    holds(method, 8, 12, moved)


@pytest.mark.slow
@settings(max_examples=30)
@given(case=methods_and_shapes(), moved=st.booleans())
def test_extreme_eigenvalues_on_random_settings(case: tuple[Method, int, int], moved: bool) -> None:
    holds(*case, moved)


# --- By hand ----------------------------------------------------------------------------------


def linear_task(d: int = 6, k: int = 12) -> tuple[nn.Linear, Tensor, Tensor]:
    return random_linear(d, k, torch.float64), random(20, k, seed=3), random(20, d, seed=4)


@pytest.mark.parametrize("layout", ["tiled", "block"])
def test_of_a_quadratic_it_is_that_of_the_inputs_that_the_method_sees(layout: str) -> None:
    """ΔW = D F: L = ‖(D F − M) x‖² / nd, whose Hessian is 2/d · F C Fᵀ for each row of D."""
    linear, x, y = linear_task()
    C = x.mT @ x / len(x)
    lora = mv.LoRA(4, alpha=12.0, freeze_a=True)
    cases = {
        mv.FrozenFineTuning(): torch.eye(12, dtype=torch.float64),
        mv.MiSS(4, layout=layout): shard_matrix(12, 4, layout, x),
        lora: 3.0 * lora.on(linear).A.detach(),
    }
    for method, F in cases.items():
        wanted = 2 / 6 * float(torch.linalg.eigvalsh(F @ C @ F.mT)[-1])
        found = curvature(method.on(linear), lambda m: mse_loss(m(x), y), **EXACT)
        assert found == pytest.approx(wanted, rel=1e-10), method


def test_at_lora_s_start_it_joins_b_s_parabola_with_the_product_that_bends_a() -> None:
    """H = [[H_BB, H_BA], [H_ABᵀ, 0]]: the loss is linear in A there, so an eigenvalue is below 0
    although the start is no critical point."""
    linear, x, y = linear_task(3, 4)
    adapter = mv.LoRA(2).on(linear)
    A, C = adapter.A.detach(), x.mT @ x / len(x)
    G = 2 / 3 * ((linear(x) - y).detach().mT @ x) / len(x)
    H_BB = 2 / 3 * torch.kron(torch.eye(3, dtype=torch.float64), A @ C @ A.mT)
    # ∂²L / ∂B_ij ∂A_lm = G_im where j = l.
    H_BA = torch.einsum("im,jl->ijlm", G, torch.eye(2, dtype=torch.float64)).reshape(6, 8)
    H = torch.cat([torch.cat([H_BB, H_BA], 1), torch.cat([H_BA.mT, torch.zeros(8, 8)], 1)])
    wanted = torch.linalg.eigvalsh(H)

    def loss(model):
        return mse_loss(model(x), y)

    assert curvature(adapter, loss, **EXACT) == pytest.approx(float(wanted[-1]), rel=1e-10)
    least = -curvature(adapter, lambda m: -loss(m), **EXACT)
    assert least == pytest.approx(float(wanted[0]), rel=1e-10)
    assert least < 0


@pytest.mark.parametrize(("share", "grows"), [(0.98, False), (1.02, True)])
def test_gradient_descent_is_stable_up_to_two_over_it(share: float, grows: bool) -> None:
    linear, x, y = linear_task()
    adapter = mv.MiSS(4).on(linear)
    rate = share * 2 / curvature(adapter, lambda m: mse_loss(m(x), y))
    losses = []
    for _ in range(400):
        loss = mse_loss(adapter(x), y)
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, [adapter.D])
        with torch.no_grad():
            adapter.D -= rate * gradient
    assert (losses[-1] > losses[0]) == grows


def test_dora_s_held_norm_is_that_of_the_loss_in_which_it_stays() -> None:
    linear, x, y = linear_task()
    adapter, moving = mv.DoRA(2).on(linear), mv.DoRA(2, norm_gradient=True).on(linear)
    randomise(adapter)
    moving.load_state_dict(adapter.state_dict())
    W, held = linear.weight.detach(), adapter.lengths(adapter.direction()).detach()

    def loss(model):
        return mse_loss(model(x), y)

    def stays(theta: Tensor) -> Tensor:
        A, B, m = theta.split([2 * 12, 6 * 2, 6])
        weight = (m / held).unsqueeze(-1) * (W + B.view(6, 2) @ A.view(2, 12))
        return mse_loss(x @ weight.mT + linear.bias.detach(), y)

    start = torch.cat([p.detach().reshape(-1) for p in (adapter.A, adapter.B, adapter.m)])
    wanted = torch.linalg.eigvalsh(torch.autograd.functional.hessian(stays, start))[-1]
    assert curvature(adapter, loss, **EXACT) == pytest.approx(float(wanted), rel=1e-9)
    assert abs(curvature(moving, loss) / float(wanted) - 1) > 1e-3


def test_eigenvalues_below_zero_are_smaller_however_large() -> None:
    layer = nn.Linear(3, 1, bias=False).double()
    bent = torch.tensor([-50.0, 1.0, 2.0]).double()
    assert curvature(layer, lambda m: (bent * m.weight[0] ** 2).sum()) == pytest.approx(4)


def test_a_loss_without_curvature_has_none() -> None:
    layer = nn.Linear(3, 2)
    assert curvature(layer, lambda m: m(torch.ones(1, 3)).sum()) == 0
    below = curvature(layer, lambda m: -m.weight.square().sum() - m.bias.square().sum())
    assert below == pytest.approx(-2)


# --- Any model --------------------------------------------------------------------------------


def test_more_numbers_than_the_memory_of_the_search_has_vectors() -> None:
    """A Hessian of which all is known, 400 × 400, whose two largest eigenvalues stand close."""
    values = torch.linspace(-1, 1, 400).double()
    values[-1] = 1.01
    layer = nn.Linear(400, 1, bias=False).double()
    Q = torch.linalg.qr(random(400, 400)).Q

    def loss(model: nn.Module) -> Tensor:
        return (values * (Q @ model.weight[0]) ** 2).sum() / 2

    assert curvature(layer, loss, tolerance=1e-8) == pytest.approx(1.01, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("method", [mv.LoRA(2), mv.MiSS(2), mv.Bat(2), mv.PiSSA(2)], ids=str)
def test_of_a_transformer_with_the_usual_attention(method: Method) -> None:
    words = some_words(3, 5)
    model = attach(Transformer().double(), method, ["query", "value"])

    def loss(network) -> Tensor:
        scores = network(words[:, :-1])
        return cross_entropy(scores.flatten(0, 1), words[:, 1:].flatten())

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = curvature(model, loss, **EXACT)
    wanted = float(torch.linalg.eigvalsh(built_hessian(model, loss))[-1])
    assert found == pytest.approx(wanted, rel=1e-8)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_of_a_hugging_face_model() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=20,
        attn_implementation="sdpa",
    )
    model = attach(transformers.BertModel(config).eval(), mv.MiSS(2), ["query", "value"])
    words = some_words(2, 4)

    def loss(network) -> Tensor:
        return network(input_ids=words).last_hidden_state[..., :3].square().mean()

    exact = curvature(model.double(), loss, **EXACT)
    assert exact == pytest.approx(
        float(torch.linalg.eigvalsh(built_hessian(model, wrapped(loss)))[-1]), rel=1e-8
    )
    assert curvature(model.float(), loss) == pytest.approx(exact, rel=2e-4)


def wrapped(loss):
    """`loss` for the stand-in of `built_hessian`, which takes no keywords."""
    return lambda call: loss(lambda input_ids: call(input_ids))


def test_it_is_the_same_at_each_call_and_asks_no_global_generator() -> None:
    model, loss = adapted(mv.LoRA(3), 8, 12, on_data(12), True), on_data(12)
    state = torch.get_rng_state()
    with torch.no_grad():
        assert curvature(model, loss) == curvature(model, loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_drawn_once() -> None:
    model = nn.Sequential(random_linear(8, 12, torch.float64), nn.Dropout(0.5))
    attached = attach(model, mv.MiSS(4), "0").train()
    x = random(5, 12)
    calls = []

    def loss(network) -> Tensor:
        calls.append(1)
        return network(x).square().mean()

    curvature(attached, loss, **EXACT)
    assert len(calls) == 1


# --- What it refuses --------------------------------------------------------------------------


def test_it_says_so_where_it_did_not_converge() -> None:
    model, loss = adapted(mv.LoRA(3), 8, 12, on_data(12), True), on_data(12)
    with pytest.raises(RuntimeError, match=r"did not converge to 1e-10 in 3 .* last change .* λ ="):
        curvature(model, loss, most_products=3, **EXACT)


def test_low_precision_is_not_taken_for_convergence() -> None:
    loss = on_data(12)
    model = adapted(mv.LoRA(3), 8, 12, loss, True).float()
    x, y = random(7, 12, seed=1).float(), random(7, 3, seed=2).float()
    with pytest.raises(RuntimeError, match="a model in float64"):
        curvature(model, lambda m: mse_loss(m(x), y), **EXACT)


class OnlyOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, direction: Tensor) -> Tensor:
        return 2 * direction * ctx.saved_tensors[0]


@pytest.mark.parametrize(
    ("model", "loss", "options", "error", "message"),
    [
        (nn.Linear(2, 2), lambda m: m.weight, {}, ValueError, "must be one number"),
        (nn.Linear(2, 2), lambda m: m.weight.sum() * math.nan, {}, ValueError, "the loss has 1"),
        (nn.Linear(2, 2), lambda m: torch.ones(()), {}, ValueError, "does not depend on what"),
        (nn.ReLU(), lambda m: torch.ones(()), {}, ValueError, "trains nothing"),
        (nn.Linear(2, 2), 3, {}, TypeError, "loss=3 is not a function"),
        (3, lambda m: m, {}, TypeError, "model=3 is not an nn.Module"),
        (
            nn.Linear(2, 2),
            lambda m: m.weight.sum(),
            {"tolerance": 0},
            ValueError,
            "tolerance=0 is not",
        ),
        (
            nn.Linear(2, 2),
            lambda m: OnlyOnce.apply(m.weight),
            {},
            ValueError,
            "no second derivative: OnlyOnce is once differentiable",
        ),
    ],
)
def test_bad_input(model, loss, options, error: type[Exception], message: str) -> None:
    raises_one_sentence(lambda: curvature(model, loss, **options), error, message)


def test_no_table_of_the_size_of_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 000 trained numbers: a table of n × n would be 3.2 GB. What is kept is BASIS × n."""
    layer = nn.Linear(200, 100, bias=False).double()
    scale = torch.ones(100, 1).double()
    scale[3] = 2
    monkeypatch.setattr(torch, "zeros", counted := Counted(torch.zeros))
    assert curvature(layer, lambda m: (scale * m.weight**2).sum()) == pytest.approx(4)
    assert max(counted.sizes) == under_test.BASIS * 20_000


class Counted:
    def __init__(self, make) -> None:
        self.make, self.sizes = make, []

    def __call__(self, *size: int, **options) -> Tensor:
        self.sizes.append(math.prod(size))
        return self.make(*size, **options)
