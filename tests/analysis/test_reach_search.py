"""Reach by numbers against closed forms, and against what holds for any method."""

import itertools
import pickle

import pytest
import torch
from helpers import random
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from methods_under_test import VARIANTS, methods_and_shapes
from own_methods import OWN, Bent, GainMiSS, Halved, Shift

import missviz as mv
from missviz.adapters.base import Method, linear_with
from missviz.analysis import reach_search
from missviz.analysis.reach import _CAPTURED, _bound, reaches
from missviz.testing import randomise


def searched(method: Method, target: torch.Tensor, base: torch.Tensor) -> float:
    """By numbers, also where there is a closed form."""
    adapter = _bound(method, target, base, None, None)
    return float(reach_search.search([adapter], target[None, None]).shares)


def by_steps(method: Method, target: torch.Tensor, base: torch.Tensor) -> float:
    """By gradient steps, also where least squares would do."""
    updates = reach_search._Updates([_bound(method, target, base, None, None)], target[None])
    return float(reach_search._searched(updates, target[None, None], 4, 300))


def has_closed_form(method: Method, out_features: int, in_features: int) -> bool:
    like = torch.zeros(out_features, in_features, dtype=torch.float64)
    return type(_bound(method, like, random(out_features, in_features), None, None)) in _CAPTURED


@settings(max_examples=60)
@given(case=methods_and_shapes(), seed=st.integers(0, 3))
@pytest.mark.parametrize("search", [searched, by_steps])
def test_it_reaches_every_closed_form_and_never_exceeds_one(search, case, seed: int) -> None:
    method, out_features, in_features = case
    assume(has_closed_form(*case))
    target, base = (random(out_features, in_features, seed=s) for s in (seed, 9))
    closed = mv.reach(method, target, base)
    assert not closed.lower_bound
    found = search(method, target, base)
    assert found <= closed + 1e-9
    assert found >= closed - 1e-5


@settings(max_examples=60)
@given(case=methods_and_shapes(), count=st.integers(1, 20), seed=st.integers(0, 3))
def test_on_inputs_it_reaches_every_closed_form(case, count: int, seed: int) -> None:
    """Given X itself, where the closed forms take R."""
    method, out_features, in_features = case
    assume(has_closed_form(*case))
    target, base = (random(out_features, in_features, seed=s) for s in (seed, 9))
    x = random(count, in_features, seed=5) + 0.5
    closed = mv.reach(method, target, base, x=x)
    assert not closed.lower_bound
    adapter = _bound(method, target, base, None, None)
    found = reach_search.search([adapter], target[None, None], x)
    assert closed - 1e-4 <= float(found.shares) <= closed + 1e-9


SEARCHED: list[Method] = [
    mv.DoRA(2),
    mv.DoRA(2, norm="columns"),
    mv.VeRA(8),
    mv.MoS(2, 2, shards_per_vector=2),
    mv.LoHa(2),
    mv.MoRA(2),
    mv.ProLoRA(4),
    mv.AdaLoRA(2),
    *OWN,
]
"""Without a closed form here."""
BASE = random(12, 16, seed=9) / 4


@pytest.mark.parametrize("method", SEARCHED, ids=lambda method: method.name)
def test_what_a_method_made_itself_is_in_its_reach(method: Method) -> None:
    adapter = method.on(linear_with(BASE))
    randomise(adapter)
    assert mv.reach(method, adapter.delta().detach(), BASE) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("method", SEARCHED, ids=lambda method: method.name)
def test_a_share_is_between_0_and_1_and_always_the_same(method: Method) -> None:
    state = torch.get_rng_state()
    target = random(12, 16, seed=1)
    share = mv.reach(method, target, BASE)
    assert 0 < share < 1
    assert share == mv.reach(method, target, BASE)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(share, float)
    assert share.lower_bound == (method not in (mv.MoRA(2), Shift(), Halved(2)))
    assert pickle.loads(pickle.dumps(share)).lower_bound == share.lower_bound


@pytest.mark.parametrize("method", SEARCHED, ids=lambda method: method.name)
def test_on_inputs_a_share_is_what_some_update_makes_of_them(method: Method) -> None:
    """What a method made itself is in its reach there too; of one input it can be more than of all,
    and the scale of inputs changes nothing."""
    adapter = method.on(linear_with(BASE))
    randomise(adapter)
    own, x = adapter.delta().detach(), random(5, 16, seed=7)
    assert mv.reach(method, own, BASE, x=x) == pytest.approx(1, abs=1e-3)
    target = random(12, 16, seed=1)
    usual = mv.reach(method, target, BASE)
    share = mv.reach(method, target, BASE, x=x)
    assert share.lower_bound == usual.lower_bound
    assert mv.reach(method, target, BASE, x=1e6 * x) == pytest.approx(share, abs=1e-3)
    eye = torch.eye(16, dtype=torch.float64)
    assert mv.reach(method, target, BASE, x=eye) == pytest.approx(usual, abs=1e-3)
    if not isinstance(method, Shift):  # one number, which need not suit these inputs
        assert mv.reach(method, target, BASE, x=x[:1]) > usual


def test_gains_beside_miss_on_inputs_by_alternating_fits() -> None:
    """ΔW x = D (sums of gain · x): for fixed gains a fit of D to outputs, for a fixed D one of the
    gains."""
    target, x = random(12, 16, seed=1), random(9, 16, seed=7)
    wanted = target @ x.mT
    owners = torch.arange(16) % 2
    gain, best = torch.ones(16, dtype=torch.float64), 1.0
    for _ in range(3000):
        sums = torch.stack([(x * gain * (owners == n)).sum(1) for n in range(2)])
        D = torch.linalg.lstsq(sums.mT, wanted.mT, driver="gelsd").solution.mT
        per_gain = torch.stack([torch.outer(D[:, owners[j]], x[:, j]).flatten() for j in range(16)])
        gain = torch.linalg.lstsq(per_gain.mT, wanted.flatten(), driver="gelsd").solution
        missed = (wanted.flatten() - gain @ per_gain).square().sum()
        best = min(best, float(missed / wanted.square().sum()))
    assert mv.reach(GainMiSS(2), target, x=x) >= 1 - best - 1e-6


@pytest.mark.parametrize(
    "make", [mv.DoRA, mv.LoHa, mv.AdaLoRA, GainMiSS, Bent], ids=lambda make: make.__name__
)
def test_more_rank_reaches_more(make) -> None:
    target = random(12, 16, seed=1)
    shares = [mv.reach(make(rank), target, BASE) for rank in (1, 2, 4, 8)]
    assert all(more > less - 1e-4 for less, more in itertools.pairwise(shares))
    assert shares[-1] > shares[0]


@pytest.mark.parametrize("scale", [1e-6, 1e3])
@pytest.mark.parametrize(
    "method",
    [m for m in SEARCHED if not isinstance(m, mv.DoRA | Bent)],
    ids=lambda method: method.name,
)
def test_the_scale_of_a_target_does_not_matter(method: Method, scale: float) -> None:
    """But to DoRA, whose ΔW is bound to W₀, and to a ΔW that cannot grow beyond 1."""
    target = random(12, 16, seed=1)
    assert mv.reach(method, scale * target) == pytest.approx(mv.reach(method, target), abs=1e-4)


def test_a_bounded_update_reaches_less_of_a_large_target() -> None:
    target = random(12, 16, seed=1)
    assert mv.reach(Bent(2), 100 * target) < 0.05 < mv.reach(Bent(2), target)


def test_gains_beside_miss_reach_rank_r_of_each_owners_columns() -> None:
    """For fixed owners the best D's are top singular vectors: Eckart-Young, group by group."""
    target = random(12, 16, seed=1)
    groups = [target[:, owner::2] for owner in range(2)]
    best = sum(float(torch.linalg.svdvals(group)[0] ** 2) for group in groups)
    share = mv.reach(GainMiSS(2), target)
    assert share == pytest.approx(best / float(target.square().sum()), abs=1e-7)


def test_dora_reaches_at_least_what_lora_does() -> None:
    target = random(12, 16, seed=1)
    share = mv.reach(mv.DoRA(2), target, BASE)
    assert share > mv.reach(mv.LoRA(2), target)
    # What backward holds constant changes no ΔW, so it must not change the search.
    assert share == mv.reach(mv.DoRA(2, norm_gradient=True), target, BASE)


def test_a_subclass_is_asked_for_its_own_formula() -> None:
    target = random(12, 16, seed=1)
    upper = float(target[:6].square().sum() / target.square().sum())
    half = upper * mv.reach(mv.MiSS(2), target[:6])
    assert mv.reach(Halved(2), target) == pytest.approx(half, abs=1e-12)


def test_one_number_reaches_the_mean() -> None:
    target = random(12, 16, seed=1) + 1
    wanted = float(target.mean() ** 2 / target.square().mean())
    assert mv.reach(Shift(), target) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("method", [mv.LoHa(2), GainMiSS(2), Shift()], ids=lambda m: m.name)
def test_many_targets_at_once_are_each_alone(method: Method) -> None:
    targets = torch.stack([random(12, 16, seed=seed) * 10.0**-seed for seed in range(3)])
    alone = [mv.reach(method, target) for target in targets]
    assert reaches(method, targets) == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("method", VARIANTS, ids=lambda method: method.name)
def test_every_method_has_a_reach(method: Method) -> None:
    target, base = random(16, 16, seed=1), random(16, 16, seed=9) / 4
    gradient = random(16, 16, seed=3) if method.needs_gradient else None
    assert 0 <= mv.reach(method, target, base, gradient=gradient) <= 1


def test_numbers_that_moved_already_are_where_the_search_begins() -> None:
    """ΔW is then not 0 at the start, and least squares must count from there."""
    adapter, target = mv.MoRA(2).on(linear_with(BASE)), random(12, 16, seed=1)
    randomise(adapter, std=3.0)
    found = float(reach_search.search([adapter], target[None, None]).shares)
    assert found == pytest.approx(mv.reach(mv.MoRA(2), target), abs=1e-12)


def test_alpha_changes_no_step_of_the_search() -> None:
    """By a power of two, so that not even the rounding is another."""
    target = random(12, 16, seed=1)
    assert by_steps(mv.LoRA(2, alpha=64), target, BASE) == by_steps(mv.LoRA(2), target, BASE)


def test_no_step_makes_a_value_larger() -> None:
    """Even where the gradient points the wrong way."""

    def uphill(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return points.square().sum(-1), -2 * points

    points = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert float(reach_search.lowest(uphill, points, 5)) <= 5


class Asking(type(GainMiSS(1).on(torch.nn.Linear(1, 1)))):  # type: ignore[misc]
    """A delta() that looks at a number, which vmap cannot."""

    def delta(self) -> torch.Tensor:
        assert self.gain.sum().item() is not None
        return super().delta()


def test_a_delta_that_looks_at_its_numbers_is_taken_one_by_one(monkeypatch) -> None:
    target = random(6, 8, seed=1)
    usual = mv.reach(GainMiSS(2), target)
    monkeypatch.setattr(GainMiSS, "adapter", lambda self, base, generator: Asking(self, base))
    assert mv.reach(GainMiSS(2), target) == pytest.approx(usual, abs=1e-6)


class Wrong(type(Shift().on(torch.nn.Linear(1, 1)))):  # type: ignore[misc]
    def delta(self) -> torch.Tensor:
        return self.c.expand(3, 4)


def test_a_delta_of_another_shape_is_named(monkeypatch) -> None:
    monkeypatch.setattr(Shift, "adapter", lambda self, base, generator: Wrong(self, base))
    with pytest.raises(ValueError, match=r"delta\(\) of shift is \(3, 4\) .* weight \(6, 8\)"):
        mv.reach(Shift(), random(6, 8))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.reach(GainMiSS, BASE), TypeError, r"pass an instance: GainMiSS\("),
        (lambda: mv.reach(Shift, BASE), TypeError, r"pass an instance: Shift\("),
        (lambda: mv.reach("MiSS", BASE), TypeError, "method='MiSS' is not a missviz method"),
        (lambda: mv.reach(mv.DoRA(2), BASE), ValueError, "depends on W₀; give base"),
        (lambda: mv.reach(mv.LoHa(13), BASE), ValueError, "rank=13 exceeds"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
