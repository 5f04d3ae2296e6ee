"""DoRA and AdaLoRA: identities, and what only these two do."""

import copy
import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from helpers import close, raises_one_sentence, random
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import missviz as mv
from missviz.adapters import dora
from missviz.experiments.ensemble import Ensemble, train
from missviz.experiments.tasks import TwoLayerNet
from missviz.testing import check_method, random_linear, randomise

OUT, IN, RANK = 20, 24, 4
F64 = {"dtype": torch.float64}


def on(method: mv.Method, moved: bool = True) -> mv.Adapter:
    adapter = method.on(random_linear(OUT, IN, torch.float64))
    if moved:
        randomise(adapter)
    return adapter


def gradients(adapter: mv.Adapter) -> tuple[Tensor, dict[str, Tensor]]:
    """G = ∂L/∂W′, and ∂L/∂p for each trained p, of the same loss on the same inputs."""
    x, direction = random(7, IN, seed=1), random(7, OUT, seed=2)
    trained = dict(adapter.named_parameters(recurse=False))
    found = torch.autograd.grad((adapter(x) * direction).sum(), trained.values())
    return direction.mT @ x, dict(zip(trained, found, strict=True))


@st.composite
def methods(draw: st.DrawFn) -> tuple[mv.Method, int, int]:
    d, k = draw(st.integers(1, 18)), draw(st.integers(1, 18))
    rank, alpha = draw(st.integers(1, min(d, k))), draw(st.none() | st.floats(0.5, 32))
    if draw(st.booleans()):
        return mv.DoRA(rank, alpha, norm_gradient=draw(st.booleans())), d, k
    target = draw(st.none() | st.integers(1, rank))
    total = None if target is None else 10
    gamma = draw(st.floats(0, 2))
    return mv.AdaLoRA(rank, alpha, gamma, target_rank=target, total_steps=total), d, k


@pytest.mark.slow
@settings(max_examples=30)
@given(case=methods())
def test_contract_on_random_settings(case: tuple[mv.Method, int, int]) -> None:
    method, d, k = case
    check_method(method, [(d, k)], [torch.float64, torch.float32])


# --- DoRA ---------------------------------------------------------------------------------------


def test_dora_starts_at_w0_with_gradients_in_m_and_b() -> None:
    adapter = on(mv.DoRA(RANK, alpha=6.0), moved=False)
    W, A = adapter.base.weight, adapter.A.detach()
    assert torch.equal(adapter.m, W.norm(dim=1))
    assert not adapter.delta().any()
    G, found = gradients(adapter)
    assert close(found["m"], (G * W).sum(dim=1) / W.norm(dim=1))
    assert not found["A"].any()
    assert close(found["B"], 6.0 / RANK * G @ A.mT)


def test_trained_dora_has_rows_of_length_m_and_full_rank() -> None:
    adapter = on(mv.DoRA(RANK, alpha=6.0))
    assert close(adapter.weight.norm(dim=1), adapter.m.abs())
    assert torch.linalg.matrix_rank(adapter.delta()) == min(OUT, IN)
    assert adapter.factors() is None


def test_gradient_with_the_norm_held_constant() -> None:
    """By hand, with c = m/‖V‖: ∂L/∂V counts as c ∘ G, as if ‖V‖ did not depend on V."""
    adapter, s = on(mv.DoRA(RANK, alpha=6.0)), 6.0 / RANK
    A, B, m = (p.detach() for p in (adapter.A, adapter.B, adapter.m))
    V = adapter.base.weight + s * B @ A
    c = (m / V.norm(dim=1)).unsqueeze(1)
    G, found = gradients(adapter)
    assert close(found["m"], (G * V).sum(dim=1) / V.norm(dim=1))
    assert close(found["B"], s * (c * G) @ A.mT)
    assert close(found["A"], s * B.mT @ (c * G))


def test_gradient_with_the_norm_moving() -> None:
    """By hand: of c ∘ G only the part at right angles to each row of V is left."""
    adapter, s = on(mv.DoRA(RANK, alpha=6.0, norm_gradient=True)), 6.0 / RANK
    A, B, m = (p.detach() for p in (adapter.A, adapter.B, adapter.m))
    V = adapter.base.weight + s * B @ A
    length = V.norm(dim=1, keepdim=True)
    unit = V / length
    G, found = gradients(adapter)
    dV = m.unsqueeze(1) / length * (G - (G * unit).sum(dim=1, keepdim=True) * unit)
    assert close(found["m"], (G * unit).sum(dim=1))
    assert close(found["B"], s * dV @ A.mT)
    assert close(found["A"], s * B.mT @ dV)


def test_a_constant_norm_is_no_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its flag the contract would refuse it: the exemption is needed, and is for this."""
    made = mv.DoRA.adapter

    def unflagged(*arguments: Any) -> mv.Adapter:
        adapter = made(*arguments)
        assert not adapter.exact_gradient
        adapter.exact_gradient = True
        return adapter

    monkeypatch.setattr(mv.DoRA, "adapter", unflagged)
    with pytest.raises(AssertionError, match="finite differences"):
        check_method(mv.DoRA(RANK))


def test_the_bias_is_not_scaled() -> None:
    adapter = on(mv.DoRA(RANK))
    assert close(adapter(torch.zeros(IN, **F64)), adapter.bias)


def script(adapter: mv.Adapter, x: Tensor) -> Tensor:
    """The published script's formula, column by column."""
    V = adapter.base.weight + adapter.method.scaling * adapter.B @ adapter.A
    columns = [
        m * v / (v.square().sum().sqrt() + 1e-5) for m, v in zip(adapter.m, V.mT, strict=True)
    ]
    return x @ torch.stack(columns) + adapter.bias


def test_columns_are_the_published_script() -> None:
    adapter, x = on(mv.DoRA(RANK, norm="columns")), random(5, IN)
    trained = [adapter.A, adapter.B, adapter.m]
    ours, theirs = adapter(x), script(adapter, x)
    assert close(ours, theirs)
    pull = random(5, OUT, seed=3)
    for left, right in zip(
        torch.autograd.grad((ours * pull).sum(), trained),
        torch.autograd.grad((theirs * pull).sum(), trained),
        strict=True,
    ):
        assert close(left, right)


def test_columns_start_close_to_w0_only() -> None:
    adapter = on(mv.DoRA(RANK, norm="columns"), moved=False)
    W = adapter.base.weight
    length = W.norm(dim=0)
    assert close(adapter.delta(), W * (length / (length + 1e-5) - 1), 1e-14)
    assert 1e-7 < float(adapter.delta().detach().abs().max()) < 1e-5
    with pytest.raises(AssertionError, match="before training"):
        check_method(mv.DoRA(RANK, norm="columns"))


@pytest.mark.parametrize("norm_gradient", [True, False])
def test_without_the_1e_5_columns_keep_the_whole_contract(
    norm_gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dora, "EPSILON", 0.0)
    check_method(mv.DoRA(RANK, norm="columns", norm_gradient=norm_gradient))


def test_the_scripts_dora_is_not_pefts() -> None:
    """Same A, B and W₀, every length as it was: two functions, with other counts."""
    linear = random_linear(OUT, IN, torch.float64)
    rows, columns = (mv.DoRA(RANK, norm=norm).on(linear) for norm in ("rows", "columns"))
    assert torch.equal(rows.A, columns.A)
    rows.B.data = columns.B.data = random(OUT, RANK)
    assert float((rows.delta() - columns.delta()).detach().abs().max()) > 0.05
    assert close(rows.weight.norm(dim=1), linear.weight.norm(dim=1))
    assert not close(columns.weight.norm(dim=1), linear.weight.norm(dim=1), 0.05)
    assert mv.DoRA(RANK).num_parameters(OUT, IN) == RANK * (OUT + IN) + OUT
    assert mv.DoRA(RANK, norm="columns").num_parameters(OUT, IN) == RANK * (OUT + IN) + IN
    # The script's network: 64 → 64 at rank 1.
    assert mv.DoRA(1, norm="columns").num_parameters(64, 64) == 192


def test_norm_gradient_is_filled_in() -> None:
    assert mv.DoRA(4) == mv.DoRA(4, norm_gradient=False)
    assert mv.DoRA(4, norm="columns") == mv.DoRA(4, norm="columns", norm_gradient=True)
    names = {
        mv.DoRA(4, norm=norm, norm_gradient=gradient).name
        for norm in ("rows", "columns")
        for gradient in (True, False)
    }
    assert len(names) == 4
    assert "DoRA r=4" in names


# --- AdaLoRA ------------------------------------------------------------------------------------


def test_adalora_starts_with_a_gradient_in_e_alone() -> None:
    adapter = on(mv.AdaLoRA(RANK, alpha=6.0), moved=False)
    A, B = adapter.A.detach(), adapter.B.detach()
    G, found = gradients(adapter)
    assert not found["A"].any()
    assert not found["B"].any()
    wanted = [[6.0 / (RANK + 1e-5) * float(B[:, i] @ G @ A[i])] for i in range(RANK)]
    assert close(found["E"], torch.tensor(wanted, **F64))
    assert mv.AdaLoRA(RANK).num_parameters(OUT, IN) == RANK * (OUT + IN) + RANK
    assert mv.AdaLoRA(2).num_parameters(64, 64) == 258  # the published script's layer


def test_adalora_starts_narrow() -> None:
    """A and B ~ N(0, 0.02²): on 10 000 numbers the standard deviation is known to 1 %."""
    adapter = mv.AdaLoRA(50).on(random_linear(200, 200, torch.float64))
    for drawn in (adapter.A.detach(), adapter.B.detach()):
        assert float(drawn.std()) == pytest.approx(0.02, rel=0.03)
        assert float(drawn.mean()) == pytest.approx(0, abs=0.001)


def test_penalty_is_zero_for_orthonormal_factors_and_the_mean_norm_else() -> None:
    adapter = on(mv.AdaLoRA(RANK, orthogonality=0.3))
    identity = torch.eye(RANK, **F64)
    rows, columns = adapter.A @ adapter.A.mT - identity, adapter.B.mT @ adapter.B - identity
    wanted = 0.3 * (rows.square().sum().sqrt() + columns.square().sum().sqrt()) / 2
    assert close(adapter.penalty(), wanted)
    adapter.A.data = torch.linalg.qr(random(IN, RANK)).Q.mT
    adapter.B.data = torch.linalg.qr(random(OUT, RANK)).Q
    assert float(adapter.penalty().detach()) < 1e-14
    adapter.E.data = random(RANK, 1)
    values = adapter.method.scaling * adapter.E.abs().flatten().sort(descending=True).values
    assert close(mv.spectrum(adapter)[:RANK], values)  # |E| are then the singular values


def test_budget_falls_along_a_cubic() -> None:
    method = mv.AdaLoRA(12, target_rank=8, total_steps=100, initial_steps=10, final_steps=20)
    assert [method.budget(step, layers=10) for step in (1, 10)] == [120, 120]
    assert method.budget(45, layers=10) == 85  # half way: 80 + 40/8
    assert [method.budget(step, layers=10) for step in (80, 81, 100)] == [80, 80, 80]
    budgets = [method.budget(step, layers=10) for step in range(1, 101)]
    assert budgets == sorted(budgets, reverse=True)
    assert mv.AdaLoRA(12).budget(50, layers=10) == 120


def small_model(seed: int = 0) -> nn.Module:
    torch_layers = [
        random_linear(9, 6, torch.float64),
        nn.Tanh(),
        random_linear(5, 9, torch.float64),
    ]
    model = nn.Sequential(*torch_layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(random(*parameter.shape, seed=seed + 10), alpha=0.1)
    return model


def train_alone(
    method: mv.AdaLoRA, steps: int, look: Callable[[nn.Module, int], None] | None = None
) -> nn.Module:
    model = mv.attach(small_model(), method, seed=3)
    optimiser = torch.optim.Adam(mv.param_groups(model, lr=0.02))
    x, y = random(16, 6, seed=4), random(16, 5, seed=5)
    for step in range(1, steps + 1):
        (mse_loss(model(x), y) + mv.penalty(model)).backward()
        optimiser.step()
        mv.after_step(model, step)
        optimiser.zero_grad()
        if look is not None:
            look(model, step)
    return model


def triplets(model: nn.Module) -> int:
    return sum(int((model[place].E != 0).sum()) for place in (0, 2))


def test_budget_is_kept() -> None:
    method = mv.AdaLoRA(
        4, target_rank=2, total_steps=20, initial_steps=3, final_steps=6, interval=2
    )
    left: dict[int, int] = {}
    last: dict[int, Tensor] = {}

    def look(model: nn.Module, step: int) -> None:
        left[step] = triplets(model)
        last[step] = torch.cat([model[0].kept, model[2].kept])

    train_alone(method, 25, look)
    for step in range(1, 26):
        if step <= 3:
            assert left[step] == 8
        elif step >= 14:
            assert left[step] == 4
            assert torch.equal(last[step], last[14])
        elif step % 2 == 0:
            assert left[step] == method.budget(step, layers=2)
    assert left[5] == 8  # between two allocations what was dropped comes back


def test_a_target_of_the_whole_rank_drops_nothing() -> None:
    method = mv.AdaLoRA(4, target_rank=4, total_steps=10)
    assert triplets(train_alone(method, 10)) == 8


def test_without_target_rank_nothing_is_dropped() -> None:
    assert triplets(train_alone(mv.AdaLoRA(4), 10)) == 8


def test_what_was_seen_is_saved_with_the_adapter() -> None:
    method = mv.AdaLoRA(4, target_rank=2, total_steps=20)
    model = train_alone(method, 12)
    other = mv.attach(small_model(), method, seed=8)
    other.load_state_dict(model.state_dict())
    for place in (0, 2):
        assert torch.equal(other[place].scores(), model[place].scores())
        assert torch.equal(other[place].kept, model[place].kept)


def test_members_of_an_ensemble_drop_what_each_would_alone() -> None:
    method = mv.AdaLoRA(4, target_rank=2, total_steps=12, final_steps=3)
    models = [
        mv.attach(TwoLayerNet(torch.Generator().manual_seed(seed)).double(), method, seed=seed)
        for seed in range(3)
    ]
    x, y = random(3, 10, 64, seed=1), random(3, 10, 64, seed=2)
    together = Ensemble(models)
    assert together.engine == "native"
    train(together, {"train": (x, y)}, [0.01] * 3, steps=12)
    for index, model in enumerate(models):
        stacked = together.member(index, model)
        alone = Ensemble([model] * 2)
        train(alone, {"train": (x[[index] * 2], y[[index] * 2])}, [0.01] * 2, steps=12)
        single, loop = alone.member(0, model), copy.deepcopy(model)
        optimiser = torch.optim.Adam(mv.param_groups(loop, lr=0.01))
        for step in range(1, 13):
            (mse_loss(loop(x[index]), y[index]) + mv.penalty(loop)).backward()
            optimiser.step()
            mv.after_step(loop, step)
            optimiser.zero_grad()
        for name in ("fc1", "fc2"):
            kept = stacked.get_submodule(name).kept
            assert torch.equal(kept, single.get_submodule(name).kept)
            assert torch.equal(kept, loop.get_submodule(name).kept)
            assert close(stacked.get_submodule(name).E, loop.get_submodule(name).E, 1e-8)
        assert sum(int(stacked.get_submodule(name).kept.sum()) for name in ("fc1", "fc2")) == 4
    patterns = {
        tuple(together.member(i, m).fc1.kept.flatten().tolist()) for i, m in enumerate(models)
    }
    assert len(patterns) > 1  # else a threshold across members would pass too


# --- Bad input ----------------------------------------------------------------------------------


def zero_row_layer() -> nn.Linear:
    linear = nn.Linear(8, 8)
    linear.weight.data[2] = 0
    return linear


def nan_layer() -> nn.Linear:
    linear = nn.Linear(8, 8)
    linear.weight.data[2, 3] = math.nan
    return linear


def no_gradient() -> None:
    adapter = mv.AdaLoRA(2, target_rank=1, total_steps=5).on(nn.Linear(4, 4))
    mv.after_step(adapter, 1)


def budgeted(**settings: Any) -> mv.AdaLoRA:
    return mv.AdaLoRA(**{"rank": 4, "target_rank": 2, "total_steps": 10} | settings)


CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: mv.DoRA(0), ValueError, "rank=0 is not positive; the smallest is 1"),
    (lambda: mv.DoRA(9).on(nn.Linear(8, 20)), ValueError, "rank=9 exceeds min(out_features, in_features)=8"),
    (lambda: mv.DoRA(2, alpha=-1), ValueError, "alpha=-1 is not a positive finite number"),
    (lambda: mv.DoRA(2, norm="row"), ValueError, "norm='row' is unknown; choose from 'rows', 'columns'"),
    (lambda: mv.DoRA(2, norm_gradient=1), TypeError, "norm_gradient=1 is not True or False"),
    (lambda: mv.DoRA(2).on(zero_row_layer()), ValueError, "the weight has 1 rows of zeros of 8"),
    (lambda: mv.DoRA(2).on(nan_layer()), ValueError, "1 values that are NaN or infinite of 64"),
    (lambda: mv.AdaLoRA(True), TypeError, "rank=True is not an integer"),
    (lambda: mv.AdaLoRA(9).on(nn.Linear(8, 20)), ValueError, "rank=9 exceeds min(out_features, in_features)=8"),
    (lambda: mv.AdaLoRA(4, alpha="8"), TypeError, "alpha='8' is not a number"),
    (lambda: mv.AdaLoRA(4, orthogonality=-0.5), ValueError, "orthogonality=-0.5 is not a finite number of 0 or more"),
    (lambda: mv.AdaLoRA(4, orthogonality=math.nan), ValueError, "orthogonality=nan is not a finite number"),
    (lambda: mv.AdaLoRA(4, target_rank=2), ValueError, "target_rank=2 and total_steps=None belong together"),
    (lambda: mv.AdaLoRA(4, total_steps=9), ValueError, "target_rank=None and total_steps=9 belong together"),
    (lambda: budgeted(target_rank=5), ValueError, "target_rank=5 exceeds rank=4; the largest is 4"),
    (lambda: budgeted(initial_steps=-1), ValueError, "initial_steps=-1 is negative; the smallest is 0"),
    (lambda: budgeted(final_steps=1.5), TypeError, "final_steps=1.5 is not an integer"),
    (lambda: budgeted(interval=0), ValueError, "interval=0 is not positive"),
    (lambda: budgeted(initial_steps=4, final_steps=6), ValueError, "total_steps=10 leaves no step to drop anything"),
    (lambda: budgeted(beta1=1), ValueError, "beta1=1.0 is not below 1"),
    (lambda: budgeted(beta2=0), ValueError, "beta2=0 is not a positive finite number"),
    (no_gradient, ValueError, "AdaLoRA r=2→1 finds no gradient on A; call missviz.after_step"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_clear_sentence(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)


def test_columns_take_a_column_of_zeros() -> None:
    linear = random_linear(6, 8, torch.float64)
    linear.weight.data[:, 3] = 0
    adapter = mv.DoRA(2, norm="columns").on(linear)
    assert not adapter.delta()[:, 3].any()
