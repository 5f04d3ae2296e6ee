"""Reach by numbers against closed forms, and against what holds for any method."""

import itertools
import pickle

import pytest
import torch
from helpers import raises_one_sentence, random
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from methods_under_test import VARIANTS, methods_and_shapes
from own_methods import OWN, Bent, GainMiSS, Halved, Shift
from torch import nn

import missviz as mv
from missviz.adapters.base import Method
from missviz.adapters.linear import linear_with
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHED, ids=lambda method: method.name)
def test_what_a_method_made_itself_is_in_its_reach(method: Method) -> None:
    adapter = method.on(linear_with(BASE))
    randomise(adapter)
    assert mv.reach(method, adapter.delta().detach(), BASE) == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [mv.DoRA, mv.LoHa, mv.AdaLoRA, GainMiSS, Bent], ids=lambda make: make.__name__
)
def test_more_rank_reaches_more(make) -> None:
    target = random(12, 16, seed=1)
    shares = [mv.reach(make(rank), target, BASE) for rank in (1, 2, 4, 8)]
    assert all(more > less - 1e-4 for less, more in itertools.pairwise(shares))
    assert shares[-1] > shares[0]


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# --- What a reader's method may be that looks like another ----------------------------------------


class Own(mv.Method):
    """Any formula, from a function that gives the numbers and one that makes ΔW of them."""

    def __init__(self, numbers, delta, rank: int = 2) -> None:
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "formula", delta)
        object.__setattr__(self, "rank", rank)

    name = "own"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return self.rank * (out_features + in_features)

    def rank_bound(self, out_features: int, in_features: int) -> int:
        return min(out_features, in_features)

    def with_rank(self, rank: int) -> "Own":
        return self

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> "OwnAdapter":
        return OwnAdapter(self, base)


class OwnAdapter(mv.Adapter):
    def __init__(self, method: Own, base: nn.Linear) -> None:
        super().__init__(method, base)
        self.formula = method.formula
        made = method.numbers(self.out_features, self.in_features)
        self.numbers = nn.ParameterList(self.parameter(values) for values in made)

    def delta(self) -> torch.Tensor:
        return self.formula(*self.numbers)


def full(out_features: int, in_features: int) -> list[torch.Tensor]:
    return [torch.zeros(out_features, in_features)]


def share_of(target: torch.Tensor, update: torch.Tensor) -> float:
    return float(1 - (target - update).square().sum() / target.square().sum())


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("bound", [0.1, 1.0, 30.0])
def test_a_clamped_update_is_linear_only_as_far_as_its_clamp(bound: float, scale: float) -> None:
    target = scale * random(12, 12, seed=1)
    best = share_of(target, target.clamp(-bound, bound))
    found = mv.reach(Own(full, lambda d: d.clamp(-bound, bound)), target)
    assert found <= best + 1e-9
    assert found.lower_bound or found == pytest.approx(best, abs=1e-9)
    assert found >= best - 0.02


@pytest.mark.parametrize(
    "delta",
    [
        lambda d: d.clamp(-5, 5),
        lambda d: torch.where(d.abs() < 50, d, 0.0),
        lambda d: d + torch.relu(d - 20),
    ],
    ids=["clamp", "cut", "bend"],
)
def test_what_bends_only_beyond_the_numbers_of_a_probe_is_no_line(delta) -> None:
    assert mv.reach(Own(full, delta), 100 * random(12, 12, seed=1)).lower_bound


def test_numbers_that_never_train_reach_what_they_are() -> None:
    target, update = random(6, 8, seed=1), random(6, 8, seed=2)
    fixed = Own(lambda out, in_: [], lambda: update + target)
    found = mv.reach(fixed, target)
    assert not found.lower_bound
    assert found == pytest.approx(max(0.0, share_of(target, update + target)), abs=1e-12)
    exact = mv.reach(Own(lambda out, in_: [], lambda: target.clone()), target)
    assert exact == pytest.approx(1, abs=1e-12)


def altered(kind: type[Method], change) -> type[Method]:
    """A subclass whose adapter is the shipped one with something changed in it."""

    def adapter(self, base: nn.Linear, generator: torch.Generator) -> mv.Adapter:
        made = kind.adapter(self, base, generator)
        change(made)
        return made

    return type(f"Altered{kind.__name__}", (kind,), {"adapter": adapter})


def draw_and_freeze_b(adapter: mv.Adapter) -> None:
    adapter.B.data = random(*adapter.B.shape, seed=3).to(adapter.B)
    adapter.B.requires_grad_(False)


def test_lora_with_b_frozen_is_a_projection_on_the_columns_of_b() -> None:
    target = random(12, 16, seed=1)
    Q = torch.linalg.qr(random(12, 2, seed=3)).Q
    share = mv.reach(altered(mv.LoRA, draw_and_freeze_b)(2), target)
    assert share == pytest.approx(float((Q.mT @ target).square().sum() / target.square().sum()))
    assert not share.lower_bound


@pytest.mark.parametrize("on_inputs", [False, True])
@pytest.mark.parametrize(
    ("method", "frozen"),
    [
        (mv.MiSS(2), ["D"]),
        (mv.MiSS(2, share="rows"), ["D"]),
        (mv.Bat(4), ["D"]),
        (mv.FixedFactor(2), ["D"]),
        (mv.S2FT(2), ["M"]),
        (mv.LoRA(2), ["A", "B"]),
        (mv.LoRA(2, freeze_a=True), ["B"]),
        (mv.FullFineTuning(), ["W"]),
        (mv.PiSSA(2), ["A", "B"]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_method_with_all_frozen_reaches_nothing(method, frozen: list[str], on_inputs) -> None:
    def freeze(adapter: mv.Adapter) -> None:
        for name in frozen:
            getattr(adapter, name).requires_grad_(False)

    kind = altered(type(method), freeze)
    still = object.__new__(kind)
    still.__dict__.update(vars(method))
    x = random(5, 16, seed=7) if on_inputs else None
    share = mv.reach(still, random(12, 16, seed=1), BASE, x=x)
    assert share == 0
    assert not share.lower_bound


def test_pissa_with_a_frozen_is_a_projection_on_the_rows_of_a() -> None:
    target = random(12, 16, seed=1)
    kind = altered(mv.PiSSA, lambda adapter: adapter.A.requires_grad_(False))
    rows = mv.PiSSA(2).on(linear_with(BASE)).A.detach()
    Q = torch.linalg.qr(rows.mT).Q
    wanted = float((target @ Q).square().sum() / target.square().sum())
    share = mv.reach(kind(2), target, BASE)
    assert share == pytest.approx(wanted, abs=1e-9)
    assert not share.lower_bound


def test_a_formula_that_one_adapter_was_given_counts() -> None:
    def double(adapter: mv.Adapter) -> None:
        adapter.delta = lambda: adapter.D.sum() * torch.ones(12, 16, dtype=torch.float64)

    target = random(12, 16, seed=1) + 1
    wanted = float(target.mean() ** 2 / target.square().mean())
    assert mv.reach(altered(mv.MiSS, double)(2), target) == pytest.approx(wanted, abs=1e-12)


def low_rank_of_zeros(out_features: int, in_features: int) -> list[torch.Tensor]:
    return [torch.zeros(out_features, 2), torch.zeros(2, in_features)]


def with_a_drawn(out_features: int, in_features: int) -> list[torch.Tensor]:
    return [torch.zeros(out_features, 2), random(2, in_features, seed=4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numbers", "delta"),
    [
        (low_rank_of_zeros, lambda B, A: B @ A),
        (with_a_drawn, lambda B, A: torch.relu(B @ A)),
        (with_a_drawn, lambda B, A: (B @ A) ** 2),
        (full, lambda D: D**3),
        (lambda out, in_: [torch.zeros(out), torch.zeros(out, in_)], lambda g, D: g[:, None] * D),
    ],
    ids=["B A, both 0", "relu", "square", "cube", "gains, both 0"],
)
def test_a_start_without_a_way_down_is_not_the_end(numbers, delta) -> None:
    """There the gradient is 0, though ΔW can be much."""
    method = Own(numbers, delta)
    drawn = [random(*values.shape, seed=n) for n, values in enumerate(numbers(12, 16))]
    target = delta(*drawn)
    assert mv.reach(method, target) > 0.9


def test_lora_that_starts_at_zero_reaches_what_lora_does() -> None:
    target = random(12, 16, seed=1)
    share = mv.reach(Own(low_rank_of_zeros, lambda B, A: B @ A), target)
    assert share == pytest.approx(mv.reach(mv.LoRA(2), target), abs=1e-5)


# --- Extremes, and what cannot be -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e200, 1e-170])
@pytest.mark.parametrize(
    "method",
    [mv.LoRA(2), mv.MiSS(2), mv.Bat(4), mv.MoRA(2), mv.LoHa(2), Shift()],
    ids=lambda method: method.name,
)
def test_squares_of_a_target_may_leave_the_range_of_numbers(method: Method, scale: float) -> None:
    target = random(12, 16, seed=1)
    share = mv.reach(method, scale * target, BASE)
    assert share == pytest.approx(mv.reach(method, target, BASE), abs=1e-4)


def test_a_huge_target_makes_pissa_a_lora_and_a_tiny_one_is_lost() -> None:
    target = random(12, 16, seed=1)
    share = mv.reach(mv.PiSSA(2), 1e200 * target, BASE)
    assert share == pytest.approx(mv.reach(mv.LoRA(2), target), abs=1e-9)
    lost = "target is lost in rounding beside the B₀A₀ that PiSSA r=2 starts from"
    raises_one_sentence(lambda: mv.reach(mv.PiSSA(2), 1e-170 * target, BASE), ValueError, lost)


@pytest.mark.parametrize("method", [mv.LoRA(2), Shift()], ids=lambda method: method.name)
def test_arrays_and_lists_are_targets_too(method: Method) -> None:
    target = random(12, 16, seed=1)
    share = mv.reach(method, target)
    assert mv.reach(method, target.numpy()) == share
    assert mv.reach(method, target.tolist()) == share
    based = mv.reach(mv.PiSSA(2), target, BASE)
    assert mv.reach(mv.PiSSA(2), target, BASE.numpy()) == based


def boom(D: torch.Tensor) -> torch.Tensor:
    raise KeyError("boom")


def nothing(self, base, generator) -> None:
    return None


NOT_A_NUMBER = torch.full((12, 16), torch.nan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.reach(Own(full, boom), BASE), ValueError, "delta() of own raised KeyError: 'b"),
        (
            lambda: mv.reach(Own(full, lambda D: D * torch.nan), BASE),
            ValueError,
            "delta() of own, before any step, has 192 values that are NaN",
        ),
        (
            lambda: mv.reach(altered(mv.LoRA, lambda a: a.A.data.fill_(torch.nan))(2), BASE),
            ValueError,
            "A of LoRA r=2 has ",
        ),
        (
            lambda: mv.reach(type("Empty", (mv.LoRA,), {"adapter": nothing})(2), BASE),
            TypeError,
            "must return a missviz.Adapter, and returns None",
        ),
        *[
            (
                lambda method=method: mv.reach(method, BASE, NOT_A_NUMBER),
                ValueError,
                "base has 192 values that are NaN",
            )
            for method in (mv.Bat(4), mv.PiSSA(2), mv.DoRA(2), mv.MiSS(2))
        ],
        (lambda: mv.reach(mv.LoRA(2), BASE + 0j), TypeError, "target of dtype torch.complex128"),
        (lambda: mv.reach(mv.LoRA(2), "M"), TypeError, "target of type str is no matrix of real"),
        (lambda: mv.reach(mv.LoRA(2), [[1.0], [1, 2]]), TypeError, "target of type list is no mat"),
        (
            lambda: mv.reach(mv.LoRA(2), BASE.to_sparse()),
            TypeError,
            "target is sparse or quantised",
        ),
        (lambda: mv.reach(mv.LoRA(2), BASE, "W"), TypeError, "base of type str is no matrix of"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(call, error, message: str) -> None:
    raises_one_sentence(call, error, message)


def test_a_large_layer_gets_fewer_starts_and_steps() -> None:
    """So that a search of any layer ends: 1024 × 1024 took four minutes with all of them."""
    assert reach_search._bounded(4, 300, 128 * 128) == (4, 300)
    for size in (512, 1024, 2048, 4096, 8192):
        starts, steps = reach_search._bounded(4, 300, size**2)
        assert 2 <= starts <= 4
        assert 30 <= steps <= 300
        assert starts * steps * size**2 <= reach_search.LARGEST_SEARCH or (starts, steps) == (2, 30)
    assert reach_search._bounded(1, 5, 8192**2) == (1, 5)


def test_fewer_starts_and_steps_are_those_of_the_search(monkeypatch) -> None:
    target = random(12, 16, seed=1)
    little = reaches(mv.LoHa(2), target[None], starts=2, steps=30)
    monkeypatch.setattr(reach_search, "LARGEST_SEARCH", 1)
    assert [mv.reach(mv.LoHa(2), target)] == little


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
