"""OLoRA and LoRA-GA: identities, the starts by hand, and what else takes them."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from helpers import close, raises_one_sentence, random
from hypothesis import given, settings
from torch import Tensor, nn

import missviz as mv
from missviz.testing import bound, check_method, random_linear, randomise

OUT, IN = 20, 24
F64 = {"dtype": torch.float64}
DIRECTIONS = ("ArB2r", "A2rBr", "ArBr", "random")
SCALES = ("stable", "weight_svd", "gd_scale", "unit")


STARTED = [
    mv.PiSSA(4, alpha=8.0),
    mv.OLoRA(4),
    mv.OLoRA(4, alpha=8.0),
    mv.LoRAGA(4),
    mv.LoRAGA(4, alpha=8.0),
    mv.LoRAGA(4, direction="A2rBr", scale="gd_scale"),
    mv.LoRAGA(4, direction="ArBr", scale="weight_svd"),
    mv.LoRAGA(4, niter=4),
]


@pytest.mark.parametrize("method", STARTED, ids=str)
def test_starts_at_w0_and_a_step_has_rank_2r(method: mv.Method) -> None:
    linear = random_linear(OUT, IN, torch.float64)
    x, y = random(9, IN), random(9, OUT, seed=3)

    def loss(layer: nn.Module) -> Tensor:
        return (layer(x) - y).square().mean()

    adapter = mv.attach(linear, method, calibration=loss if method.needs_gradient else None)
    assert torch.equal(adapter(x), linear(x))
    assert not adapter.delta().any()
    assert torch.linalg.norm(method.scaling * adapter.B @ adapter.A).item() > 0.05
    loss(adapter).backward()
    torch.optim.Adam(mv.param_groups(adapter, lr=1e-2)).step()
    values = mv.spectrum(adapter)
    assert int((values > 1e-10 * values[0]).sum()) == 8
    # As published: a frozen residual and a trained product.
    residual = linear.weight - method.scaling * adapter.B0 @ adapter.A0
    assert close(
        adapter(x), x @ (residual + method.scaling * adapter.B @ adapter.A).mT + linear.bias
    )


@pytest.mark.parametrize("alpha", [None, 12.0])
def test_olora_starts_at_the_projection_on_the_first_columns(alpha: float | None) -> None:
    rank = 4
    linear = random_linear(OUT, IN, torch.float64)
    adapter = mv.OLoRA(rank, alpha).on(linear)
    assert close(adapter.B.mT @ adapter.B, torch.eye(rank, **F64))
    assert not adapter.A.tril(-1).any()
    first = linear.weight[:, :rank]
    projector = first @ torch.linalg.pinv(first)
    assert close(adapter.B @ adapter.A, projector @ linear.weight)
    # So with s = 1 the residual's first r columns are zero.
    assert close((linear.weight - adapter.B @ adapter.A)[:, :rank], torch.zeros(OUT, rank, **F64))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("scale", SCALES)
def test_lora_ga_takes_its_start_from_the_gradient(direction: str, scale: str) -> None:
    rank, alpha, gamma = 3, 6.0, 25.0
    linear, G = random_linear(OUT, IN, torch.float64), random(OUT, IN, seed=5)
    method = mv.LoRAGA(rank, alpha, direction=direction, scale=scale, gamma=gamma)
    adapter = method.on(linear, gradient=G)
    U, S, Vh = torch.linalg.svd(G)
    places = {"ArB2r": ([0, 1, 2], [3, 4, 5]), "A2rBr": ([3, 4, 5], [0, 1, 2]), "ArBr": ([1, 3, 5], [0, 2, 4])}  # fmt: skip
    if direction == "random":
        found = (adapter.A @ Vh.mT).abs().argmax(dim=1).tolist()
        assert sorted(set(found)) == sorted(found)
        assert max(found) < 2 * rank
        places["random"] = found, found
    of_a, of_b = places[direction]
    factor = {
        "stable": OUT**0.25 / math.sqrt(gamma),
        "weight_svd": torch.linalg.svdvals(linear.weight)[0] / S[of_b[0]],
        "gd_scale": 1 / 2,
        "unit": 1.0,
    }[scale]
    assert close(adapter.A, Vh[of_a] * (0.5 if scale == "gd_scale" else 1), 1e-10)
    assert close(adapter.B, U[:, of_b] * S[of_b] * factor, 1e-10)


def test_lora_ga_keeps_within_the_gradients_rows_and_columns() -> None:
    """Of a gradient of rank 5, the sixth direction has no size: B's third column is zero."""
    G = random(OUT, 5) @ random(5, IN, seed=1)
    B = mv.LoRAGA(3).on(random_linear(OUT, IN, torch.float64), gradient=G).B
    sizes = torch.linalg.norm(B, dim=0)
    assert sizes[1] > 1
    assert sizes[2] < 1e-12


def test_a_larger_loss_starts_lora_ga_further_out_except_with_weight_svd() -> None:
    linear, G = random_linear(OUT, IN, torch.float64), random(OUT, IN)
    for scale in SCALES:
        one, ten = (
            mv.LoRAGA(3, scale=scale).on(linear, gradient=size * G).B for size in (1.0, 10.0)
        )
        ratio = torch.linalg.norm(ten) / torch.linalg.norm(one)
        assert ratio.item() == pytest.approx(1.0 if scale == "weight_svd" else 10.0)


def test_lora_ga_of_a_zero_gradient_is_a_lora() -> None:
    linear = random_linear(OUT, IN, torch.float64)
    for scale in SCALES:
        adapter = mv.LoRAGA(3, scale=scale).on(linear, gradient=torch.zeros(OUT, IN, **F64))
        assert not adapter.B.any()
        assert close(adapter.A @ adapter.A.mT, torch.eye(3, **F64))


def test_random_directions_follow_the_generator() -> None:
    linear, G = random_linear(OUT, IN, torch.float64), random(OUT, IN)
    method = mv.LoRAGA(3, direction="random")
    starts = [
        method.on(linear, gradient=G, generator=torch.Generator().manual_seed(seed)).A
        for seed in range(6)
    ]
    assert len({tuple(A.flatten().tolist()) for A in starts}) > 1


@pytest.mark.slow
@settings(max_examples=12)
@given(
    d=st.integers(2, 14),
    k=st.integers(2, 14),
    alpha=st.none() | st.floats(0.5, 32),
    niter=st.sampled_from([None, 2]),
    direction=st.sampled_from(DIRECTIONS),
    scale=st.sampled_from(SCALES),
    data=st.data(),
)
def test_the_contract_on_random_settings(
    d: int,
    k: int,
    alpha: float | None,
    niter: int | None,
    direction: str,
    scale: str,
    data: st.DataObject,
) -> None:
    dtypes = [torch.float64, torch.float32]
    check_method(mv.OLoRA(data.draw(st.integers(1, min(d, k))), alpha), [(d, k)], dtypes)
    rank = data.draw(st.integers(1, min(d, k) // 2))
    method = mv.LoRAGA(rank, alpha, direction=direction, scale=scale, niter=niter)
    check_method(method, [(d, k)], dtypes)


@pytest.mark.parametrize("method", [mv.OLoRA(2), mv.LoRAGA(2), mv.LoRAGA(2, scale="weight_svd")])
def test_reach_is_full_on_own_updates_and_of_gradient_0_that_of_lora(method: mv.Method) -> None:
    linear, G = random_linear(9, 8, torch.float64), random(9, 8)
    base, given_gradient = linear.weight.detach(), G if method.needs_gradient else None
    adapter = method.on(linear, gradient=given_gradient)
    randomise(adapter)
    own = adapter.delta().detach()
    assert mv.reach(method, own, base, gradient=given_gradient) == pytest.approx(1.0)
    assert mv.reach(mv.LoRA(2), own) < 0.99
    if method.needs_gradient:
        zero, target = torch.zeros(9, 8, **F64), random(9, 8, seed=2)
        lora = mv.reach(mv.LoRA(2), target)
        assert mv.reach(method, target, base, gradient=zero) == pytest.approx(lora)


def test_initial_gradient_norms_take_the_gradient_from_the_loss() -> None:
    linear, x = random_linear(OUT, IN, torch.float64), random(7, IN)

    def loss(layer: nn.Module) -> Tensor:
        return layer(x).square().mean()

    table = mv.initial_gradient_norms(linear, loss, [mv.LoRAGA(2)], ranks=[1, 3])
    adapter = mv.attach(linear, mv.LoRAGA(3), calibration=loss)
    loss(adapter).backward()
    norm = math.hypot(*(float(torch.linalg.norm(p.grad)) for p in (adapter.A, adapter.B)))
    found = table[(table["method"] == "LoRA-GA r=3") & (table["module"] == "*")]["norm"].item()
    assert found == pytest.approx(norm)


def test_lora_ga_in_the_experiment_starts_from_the_training_loss() -> None:
    """Every seed at its own W₀, and the start is that of `attach` with the train split's loss."""
    from missviz.experiments import adapter_snapshots
    from missviz.experiments.no_free_lunch import make_task
    from missviz.experiments.tasks import PROTOCOLS, base_models

    method = mv.LoRAGA(2)
    runs = mv.experiments.no_free_lunch(
        [method, mv.OLoRA(2), mv.LoRA(2)], seeds=[45, 46], steps=3, device="cpu"
    ).to_frame()
    firsts = runs[(runs["step"] == 0)].groupby(["seed", "split"])["loss"]
    assert float((firsts.max() - firsts.min()).max()) < 1e-6
    (base,) = base_models((45,), torch.float32, torch.device("cpu"))
    x, y = make_task(PROTOCOLS["published"], "published", None, base, 45)["train"]
    weight = base.fc1.weight.detach().clone().requires_grad_()
    predicted = base.fc2(torch.relu(x.float() @ weight.mT + base.fc1.bias))
    (G,) = torch.autograd.grad((predicted - y.float()).square().mean(), weight)
    start = adapter_snapshots(method, [0], seed=45)[0]
    U, S, Vh = torch.linalg.svd(G.double())
    wanted = (U[:, 2:4] * S[2:4]) @ U[:, 2:4].mT * (64**0.25 / 4)
    assert close((start.A.mT @ start.A).double(), Vh[:2].mT @ Vh[:2], 1e-4)
    assert close((start.B.double() @ torch.linalg.pinv(start.B.double())) @ wanted, wanted, 1e-4)
    assert torch.linalg.norm(start.B).item() == pytest.approx(
        torch.linalg.norm(wanted).item(), rel=1e-4
    )


def test_timings_take_what_fits() -> None:
    table = mv.experiments.adapter_timings(
        [mv.LoRAGA(2), mv.OLoRA(2)], ranks=[1, 4, 8], features=8, steps=1, repeats=1
    )
    assert table["method"].tolist() == [
        "LoRA-GA r=1",
        "LoRA-GA r=4",
        "OLoRA r=1",
        "OLoRA r=4",
        "OLoRA r=8",
    ]


def nan_layer() -> nn.Linear:
    linear = nn.Linear(8, 8)
    linear.weight.data[2, 3] = math.nan
    return linear


ONES = torch.ones(8, 8)
CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: mv.OLoRA(0), ValueError, "rank=0 is not positive"),
    (lambda: mv.OLoRA(4, alpha=-1), ValueError, "alpha=-1 is not a positive finite number"),
    (lambda: mv.OLoRA(9).on(nn.Linear(8, 9)), ValueError, "rank=9 exceeds min(out_features, in_features)=8"),
    (lambda: mv.OLoRA(2).on(nan_layer()), ValueError, "the weight for OLoRA's QR has 1 values that are NaN"),
    (lambda: mv.OLoRA(2).on(nn.Linear(8, 8), gradient=ONES), ValueError, "gradient: OLoRA r=2 does not start from the gradient"),
    (lambda: mv.LoRAGA(2.0), TypeError, "rank=2.0 is not an integer"),
    (lambda: mv.LoRAGA(2, direction="ArAr"), ValueError, "direction='ArAr' is unknown; choose from 'ArB2r'"),
    (lambda: mv.LoRAGA(2, scale=1.0), ValueError, "scale=1.0 is unknown; choose from 'stable'"),
    (lambda: mv.LoRAGA(2, gamma=0), ValueError, "gamma=0 is not a positive finite number"),
    (lambda: mv.LoRAGA(2, niter=0), ValueError, "niter=0 is not positive"),
    (lambda: mv.LoRAGA(5).on(nn.Linear(8, 9), gradient=torch.ones(9, 8)), ValueError, "rank=5 exceeds min(out_features, in_features) / 2=4"),
    (lambda: mv.LoRAGA(2, scale="weight_svd").on(nan_layer(), gradient=ONES), ValueError, "the weight for LoRA-GA's SVD has 1 values"),
    (lambda: mv.reach(mv.OLoRA(2), ONES), ValueError, "depends on W₀; give base"),
    (lambda: mv.reach(mv.LoRAGA(2), ONES, ONES), ValueError, "LoRA-GA r=2 starts from the gradient"),
    (lambda: mv.LoRAPlus(2, ratio=0), ValueError, "ratio=0 is not a positive finite number"),
    (lambda: mv.LoRAPlus(2, ratio="16"), TypeError, "ratio='16' is not a number"),
    (lambda: mv.LoRAPlus(2, freeze_a=True), ValueError, "freeze_a=True leaves A no rate for ratio=16"),
    (lambda: mv.LoRAPlus(2, 8, 16), TypeError, "rslora=16 is not True or False"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_clear_sentence(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)


def test_names_say_what_differs() -> None:
    methods = [mv.LoRAGA(2, direction=d, scale=s) for d in DIRECTIONS for s in SCALES]
    methods += [mv.LoRAGA(2, gamma=64), mv.LoRAGA(2, niter=4), mv.LoRAGA(2, 8.0), mv.OLoRA(2)]
    methods += [mv.LoRA(2), mv.LoRAPlus(2), mv.LoRAPlus(2, ratio=4), mv.LoRAPlus(2, rslora=True)]
    assert len({method.name for method in methods}) == len(methods)
    assert mv.LoRAGA(2).name == "LoRA-GA r=2"
    assert mv.LoRAPlus(2, ratio=4).name == "LoRA+ r=2 λ=4"
    assert bound(mv.LoRAGA(2), random_linear(8, 8, torch.float64)).method == mv.LoRAGA(2)
