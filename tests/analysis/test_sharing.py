"""Sharing: the search agrees with closed forms, with what adapters are, and with training."""

import numpy as np
import pytest
import torch

import missviz as mv
from missviz.analysis.sharing import (
    Wiring,
    fitted_updates,
    layer_targets,
    shared_reach,
    sharing_table,
    wired_reach,
)
from missviz.randomness import generator_for, normal

PURE = mv.MoS(None, 2, dissociate=False)
SWITCHES = [
    mv.MoS(3, 2, dissociate=False),
    mv.MoS(3, 2),
    mv.MoS(3, 2, 3),
    mv.MoS(3, 2, private=1),
    mv.MoS(3, 2, 3, 1),
]


def targets_at(alike: float, problems: int = 3, **sizes) -> torch.Tensor:
    return torch.stack(
        [layer_targets(alike, generator=generator_for("test", n), **sizes) for n in range(problems)]
    )


def random(*shape: int) -> torch.Tensor:
    return normal(shape, 1.0, generator_for("test", shape))


def stack_of(layers: int, out: int, in_: int) -> torch.nn.ModuleList:
    return torch.nn.ModuleList(
        mv.testing.random_linear(out, in_, torch.float64, bias=False) for _ in range(layers)
    )


# --- What the layers want ---------------------------------------------------------------------


def cosines(targets: torch.Tensor) -> torch.Tensor:
    flat = torch.nn.functional.normalize(targets.flatten(1), dim=1)
    return (flat @ flat.mT)[~torch.eye(len(flat)).bool()]


@pytest.mark.parametrize("alike", [0, 0.3, 0.7, 1.0])
def test_c_is_the_cosine_of_two_layers_targets(alike: float) -> None:
    found = torch.stack([cosines(problem) for problem in targets_at(alike, 20)])
    assert found.mean() == pytest.approx(alike, abs=0.01)
    assert targets_at(alike, 20).square().sum((2, 3)).mean() == pytest.approx(1, abs=0.02)


def test_the_parts_are_of_their_kind() -> None:
    common = layer_targets(1.0, rank=3, generator=generator_for(0))
    own = layer_targets(0.0, rank=3, generator=generator_for(0))
    assert torch.equal(common[0], common[5])
    for part in (common[0], *own):
        values = torch.linalg.svdvals(part)
        np.testing.assert_allclose(values[:3], 3**-0.5)
        np.testing.assert_allclose(values[3:], 0, atol=1e-14)
    mixed = layer_targets(0.36, rank=3, generator=generator_for(0))
    torch.testing.assert_close(mixed, 0.6 * common + 0.8 * own)


# --- The search against closed forms ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0, 0.5, 1])
def test_lora_through_the_search_is_eckart_young(alike: float) -> None:
    """With all pairs private MoS is LoRA, exactly."""
    wanted = targets_at(alike, layers=3, size=12)
    values = torch.linalg.svdvals(wanted).square()
    best = values[..., :2].sum((1, 2)) / values.sum((1, 2))
    torch.testing.assert_close(shared_reach(mv.LoRA(2), wanted), best)
    searched = shared_reach(mv.MoS(2, 2, private=2), wanted, steps=300)
    torch.testing.assert_close(searched, best, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [0, 0.5, 1])
def test_pure_sharing_through_the_search_is_eckart_young_of_the_mean(alike: float) -> None:
    wanted = targets_at(alike, layers=3, size=12)
    closed = shared_reach(PURE, wanted)
    wirings = [Wiring.of(PURE, 3, 12, 12)] * 3
    searched = wired_reach(wanted, wirings, steps=300)
    torch.testing.assert_close(searched, closed, atol=1e-6, rtol=0)


def test_pure_sharing_keeps_the_common_part_and_the_mean_of_the_others() -> None:
    """c + (1−c)/L where the rank is no limit."""
    for alike in (0, 0.4, 1):
        shares = shared_reach(mv.MoS(None, 4, dissociate=False), targets_at(alike, 20))
        assert shares.mean() == pytest.approx(alike + (1 - alike) / 6, abs=0.01)


def test_alpha_does_not_matter() -> None:
    wanted = targets_at(0.5, layers=3, size=12)
    for method in (PURE, SWITCHES[1]):
        scaled = mv.MoS(method.rank, 2, dissociate=method.dissociate, alpha=8.0)
        assert torch.equal(shared_reach(method, wanted), shared_reach(scaled, wanted))


# --- The search against adapters ----------------------------------------------------------------


@pytest.mark.parametrize("method", SWITCHES, ids=str)
def test_what_adapters_are_is_found_from_their_own_pool(method: mv.MoS) -> None:
    """So each shard stands where the adapter puts it; d and k differ."""
    attached = mv.attach(stack_of(3, 9, 12), method, seed=5)
    mv.testing.randomise(attached)
    wanted = torch.stack([adapter.delta() for adapter in attached]).detach()[None]
    wiring = Wiring.of(method, 3, 9, 12, seed=5)
    found = fitted_updates(wanted, [wiring], attached[0].P_A.detach(), steps=1)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    other = Wiring.of(method, 3, 9, 12, seed=6)
    missed = fitted_updates(wanted, [other], attached[0].P_A.detach(), steps=1)
    assert not torch.allclose(missed, wanted, atol=1e-2)


@pytest.mark.parametrize("method", SWITCHES, ids=str)
def test_no_step_makes_it_worse(method: mv.MoS) -> None:
    wanted = targets_at(0.5, 1, layers=3, size=12)
    wirings = [Wiring.of(method, 3, 12, 12)]
    found = [wired_reach(wanted, wirings, starts=1, steps=steps) for steps in range(1, 12)]
    gains = np.diff(torch.cat(found))
    assert (gains > -1e-9).all()
    assert gains[0] > 0


@pytest.mark.parametrize("method", SWITCHES, ids=str)
def test_training_finds_no_more(method: mv.MoS) -> None:
    wanted = targets_at(0.5, 1, layers=3, size=12)
    attached = mv.attach(stack_of(3, 12, 12), method)
    optimiser = torch.optim.Adam(attached.parameters(), 0.02)
    for _ in range(400):
        updates = torch.stack([adapter.delta() for adapter in attached])
        missed = (wanted[0] - updates).square().sum()
        optimiser.zero_grad()
        missed.backward()
        optimiser.step()
    trained = 1 - missed.item() / wanted.square().sum()
    searched = shared_reach(method, wanted).item()
    assert trained < searched + 0.01
    assert trained > searched - 0.1


def test_shards_that_no_layer_takes_do_no_harm() -> None:
    wiring = Wiring.of(mv.MoS(1, 2), 3, 12, 12)
    assert len(wiring.I_A.unique()) < wiring.shards
    share = wired_reach(targets_at(1.0, 1, layers=3, size=12), [wiring])
    assert 0 < share < 1


# --- What it depends on -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_result_does_not_depend_on_the_company() -> None:
    wanted = targets_at(0.5, layers=3, size=12)
    together = shared_reach(SWITCHES[4], wanted, seeds=[4, 5, 6])
    for n in range(3):
        alone = shared_reach(SWITCHES[4], wanted[n : n + 1], seeds=[4 + n])
        torch.testing.assert_close(together[n : n + 1], alone, atol=1e-6, rtol=0)
    assert not torch.allclose(together, shared_reach(SWITCHES[4], wanted, seeds=[7, 8, 9]))


def test_more_starts_reach_no_less() -> None:
    wanted = targets_at(0.5, layers=3, size=12)
    one, three = (shared_reach(SWITCHES[2], wanted, starts=n) for n in (1, 3))
    assert (three >= one).all()
    assert (three > one).any()


def test_the_table_has_what_shared_reach_says() -> None:
    methods = {"LoRA": mv.LoRA(1), "MoS": mv.MoS(2, 1)}
    small = dict(rank=2, layers=2, size=6)
    table = sharing_table(methods, [0.0, 0.5], seeds=[3, 4], steps=20, **small)
    assert list(table) == ["method", "alike", "seed", "share", "at_least"]
    assert dict(zip(table["method"], table["at_least"], strict=True)) == {
        "LoRA": False,
        "MoS": True,
    }
    assert len(table) == 2 * 2 * 2
    wanted = layer_targets(0.5, **small, generator=generator_for("layers", 4))
    rows = table.set_index(["method", "alike", "seed"])["share"]
    for name, method in methods.items():
        share = shared_reach(method, wanted[None], seeds=[4], steps=20)
        assert rows[name, 0.5, 4] == pytest.approx(share.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(method="LoRA"), TypeError, "method='LoRA' is not a missviz method"),
        (dict(targets=torch.ones(3, 4, 4)), ValueError, r"targets of shape \(3, 4, 4\)"),
        (dict(targets=torch.zeros(1, 2, 4, 4)), ValueError, "one layer's is zero"),
        (dict(targets=torch.full((1, 2, 4, 4), torch.nan)), ValueError, "32 values that are NaN"),
        (dict(seeds=[1, 2]), ValueError, "seeds has 2 entries for 1 problems"),
        (dict(steps=0), ValueError, "steps=0 is not positive"),
        (dict(starts=1.5), TypeError, "starts=1.5 is not an integer"),
        (dict(method=mv.MoS(2, 2, 3)), ValueError, "shards_per_vector=3 does not divide"),
        (dict(method=mv.MoS(9, 2)), ValueError, "rank=9 exceeds"),
    ],
)
def test_bad_input(arguments: dict, error: type, message: str) -> None:
    good = dict(method=mv.MoS(2, 2), targets=random(1, 2, 4, 4))
    with pytest.raises(error, match=message):
        shared_reach(**{**good, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(alike=1.5), "alike=1.5 is not between 0 and 1"),
        (dict(alike=float("nan")), "alike=nan is not between 0 and 1"),
        (dict(rank=25), "rank=25 exceeds size=24"),
        (dict(layers=0), "layers=0 is not positive"),
    ],
)
def test_bad_targets(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_targets(**{"alike": 0.5, "generator": generator_for(0), **arguments})
