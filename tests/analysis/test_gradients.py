"""Initial gradient norms against gradients taken by hand, and the laws that they follow."""

import math

import pytest
import torch
from torch import nn

import missviz as mv


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)).double()


X = torch.randn(50, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss(network: nn.Module) -> torch.Tensor:
    return (network(X) - X.flip(1)).square().mean()


def full_gradients(model: nn.Sequential) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss(model), [model[0].weight, model[2].weight])
    return dict(zip(("0", "2"), found, strict=True))


def norms(model, methods, **options):
    table = mv.initial_gradient_norms(model, loss, methods, **options)
    return table.set_index(["method", "seed", "module"])["norm"]


def test_against_gradients_by_hand(model: nn.Sequential) -> None:
    G = full_gradients(model)
    found = norms(model, [mv.MiSS(4), mv.FullFineTuning(), mv.FrozenFineTuning()])
    for name, gradient in G.items():
        shards = gradient.reshape(gradient.shape[0], -1, 4).sum(dim=1)
        assert found["MiSS r=4", 0, name] == pytest.approx(torch.linalg.norm(shards).item())
        assert found["full fine-tuning", 0, name] == pytest.approx(
            torch.linalg.norm(gradient).item()
        )
    total = math.sqrt(sum(torch.linalg.norm(g).item() ** 2 for g in G.values()))
    assert found["full fine-tuning", 0, "*"] == pytest.approx(total)
    assert found["frozen fine-tuning", 0, "*"] == pytest.approx(total)


def test_full_rank_miss_is_frozen_fine_tuning(model: nn.Sequential) -> None:
    found = norms(model, [mv.MiSS(16), mv.FrozenFineTuning()], targets="0")
    assert found["MiSS r=16", 0, "*"] == pytest.approx(found["frozen fine-tuning", 0, "*"])


def test_lora_follows_the_square_root_law(model: nn.Sequential) -> None:
    table = mv.initial_gradient_norms(model, loss, [mv.LoRA(1)], [2, 4, 8, 16], 100, targets="0")
    mean = (
        table[table["module"] == "*"].groupby("rank")["norm"].apply(lambda n: (n**2).mean() ** 0.5)
    )
    G = torch.linalg.norm(full_gradients(model)["0"]).item()
    for rank, norm in mean.items():
        assert norm == pytest.approx(G * math.sqrt(rank / (3 * 16)), rel=0.1)


def test_rows_and_counts(model: nn.Sequential) -> None:
    table = mv.initial_gradient_norms(model, loss, [mv.MiSS(4), mv.FullFineTuning()], [2, 4], 3)
    assert len(table) == (2 * 3 + 1 * 3) * 3
    assert set(table["family"]) == {"MiSS r=4", "full fine-tuning"}
    rows = table[(table["method"] == "MiSS r=2") & (table["seed"] == 0)].set_index("module")
    assert rows["num_parameters"].to_dict() == {"0": 48, "2": 32, "*": 80}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_adapter_that_the_loss_does_not_see_has_norm_zero(model: nn.Sequential) -> None:
    found = mv.initial_gradient_norms(model, lambda net: net[0](X).sum(), [mv.MiSS(4)])
    assert found.set_index("module")["norm"]["2"] == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: mv.initial_gradient_norms(m, lambda net: net(X), [mv.MiSS(4)]),
            ValueError,
            "must be one number",
        ),
        (
            lambda m: mv.initial_gradient_norms(
                m, lambda net: net(X).sum() * math.nan, [mv.MiSS(4)]
            ),
            ValueError,
            "the loss has 1 values that are NaN",
        ),
        (
            lambda m: mv.initial_gradient_norms(m, loss, mv.MiSS(4)),
            TypeError,
            "is one method; give a list",
        ),
        (
            lambda m: mv.initial_gradient_norms(m, loss, [mv.MiSS(4)], [99]),
            ValueError,
            "0: rank=99 exceeds",
        ),
        (
            lambda m: mv.initial_gradient_norms(m, loss, [mv.MiSS(4)], seeds=0),
            ValueError,
            "seeds=0 is not positive",
        ),
        (
            lambda m: mv.initial_gradient_norms(m, loss, [mv.MiSS(4)], targets="x"),
            ValueError,
            "matches no linear layer",
        ),
    ],
)
def test_bad_input(model: nn.Sequential, call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(model)
