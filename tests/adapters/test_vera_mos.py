"""VeRA and MoS: layers that share. Each part of the definition, written again by hand."""

import copy
import io
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import close, raises_one_sentence, random
from torch import nn

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.adapters.training import adapters_in
from missviz.experiments.ensemble import Ensemble
from missviz.testing import random_linear, randomise

F64 = {"dtype": torch.float64}


def alike(layers: int = 3, d: int = 8, k: int = 12) -> nn.ModuleDict:
    """Layers of one shape that nothing connects."""
    return nn.ModuleDict({f"fc{i}": random_linear(d, k, torch.float64) for i in range(layers)})


def several(method: Method, layers: int = 3, seed: int = 0) -> list[Adapter]:
    """The method on layers of one shape, moved away from its start."""
    model = mv.attach(alike(layers), method, seed=seed)
    randomise(model)
    return list(adapters_in(model).values())


class Net(nn.Sequential):
    """12 → 8 → 8 → 12 → 8 → 8 → 12: two layers each of three shapes, in float64."""

    stackable = True

    def __init__(self, seed: int = 0) -> None:
        widths = (12, 8, 8, 12, 8, 8, 12)
        layers = [random_linear(d, k, torch.float64) for k, d in itertools.pairwise(widths)]
        super().__init__(*[part for layer in layers for part in (layer, nn.Tanh())][:-1])
        randomise(self, seed)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


SHARING = [mv.VeRA(5), mv.MoS(3, 2), mv.MoS(2, 2, shards_per_vector=2, private=1)]
sharing = pytest.mark.parametrize("method", SHARING, ids=str)


# --- VeRA ---------------------------------------------------------------------------------------


def test_vera_starts_with_a_gradient_in_b_alone() -> None:
    adapter = mv.VeRA(30).on(random_linear(20, 24, torch.float64))
    assert torch.equal(adapter.v, torch.full((30,), 0.1, **F64))
    x, direction = random(7, 24, seed=1), random(7, 20, seed=2)
    for_v, for_b = torch.autograd.grad((adapter(x) * direction).sum(), [adapter.v, adapter.b])
    G, (A, B) = direction.mT @ x, (adapter.A, adapter.B)
    assert not adapter.delta().any()
    assert not for_v.any()
    assert close(for_b, (G * (B @ torch.diag(adapter.v) @ A)).sum(dim=1))
    assert count(adapter) == 20 + 30 == adapter.method.num_parameters(20, 24)


def test_vera_draws_as_it_says() -> None:
    base = random_linear(2000, 500, torch.float32)
    for init, squared in (("kaiming", 6), ("linear", 1)):
        adapter = mv.VeRA(800, init=init).on(base)
        for drawn, inputs in ((adapter.A, 500), (adapter.B, 800)):
            bound = (squared / inputs) ** 0.5
            assert 0.999 * bound < float(drawn.abs().max()) <= bound
            assert float(drawn.std()) == pytest.approx(bound / 3**0.5, rel=0.01)


def test_vera_by_hand() -> None:
    adapter = mv.VeRA(2).on(random_linear(2, 2, torch.float64))
    values = {
        "A": [[1.0, 2.0], [3.0, 4.0]],
        "B": [[1.0, 1.0], [0.0, 1.0]],
        "v": [10.0, 1.0],
        "b": [1.0, -2.0],
    }
    state = {name: torch.tensor(value, **F64) for name, value in values.items()}
    adapter.load_state_dict(state, strict=False)
    # diag(v) A = [[10, 20], [3, 4]]; B of it = [[13, 24], [3, 4]]; row 2 times −2.
    assert adapter.delta().tolist() == [[13.0, 24.0], [-6.0, -8.0]]


def test_vera_bounds_of_the_pool() -> None:
    model = mv.attach(nn.Sequential(nn.Linear(96, 40), nn.Linear(40, 64)), mv.VeRA(150))
    A, B = model[0].A, model[0].B
    assert A.shape == (150, 96)
    assert B.shape == (64, 150)
    for M, bound in ((A, math.sqrt(6 / 96)), (B, math.sqrt(6 / 150))):
        assert 0.99 * bound < float(M.abs().max()) <= bound
        assert float(M.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert not M.requires_grad


def test_vera_layers_take_the_first_columns_and_rows() -> None:
    model = mv.attach(Net(), mv.VeRA(5))
    randomise(model)
    for adapter in adapters_in(model).values():
        d, k = adapter.out_features, adapter.in_features
        assert adapter.A is model[0].A
        assert adapter.B is model[0].B
        A, B = adapter.A[:, :k], adapter.B[:d]
        wanted = torch.diag(adapter.b) @ B @ torch.diag(adapter.v) @ A
        assert close(adapter.delta(), wanted)
    shapes = [(a.out_features, a.in_features) for a in adapters_in(model).values()]
    assert count(model) == sum(mv.VeRA(5).num_parameters(*shape) for shape in shapes)


# --- MoS ----------------------------------------------------------------------------------------


def test_mos_by_hand() -> None:
    """4 × 4, two vectors of two shards; pool shards of A are [1, 2], [3, 4], [5, 6], [7, 8]."""
    adapter = mv.MoS(2, 2, shards_per_vector=2, alpha=4.0).on(random_linear(4, 4, torch.float64))
    adapter.load_state_dict(
        {
            "P_A": torch.arange(1.0, 9.0).reshape(4, 2),
            "P_B": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]),
            "I_A": torch.tensor([[2, 0], [3, 1]]),
            "I_B": torch.tensor([[0, 1], [2, 3]]),
        },
        strict=False,
    )
    left, right = adapter.factors()
    assert right.tolist() == [[5.0, 6.0, 1.0, 2.0], [7.0, 8.0, 3.0, 4.0]]
    # s = α / r = 2; the columns of B are [1, 0, 0, 1] and [2, 0, 0, 3].
    assert left.mT.tolist() == [[2.0, 0.0, 0.0, 2.0], [4.0, 0.0, 0.0, 6.0]]
    assert adapter.delta().tolist() == [
        [38.0, 44.0, 14.0, 20.0],
        [0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [52.0, 60.0, 20.0, 28.0],
    ]


def test_scaling_is_alpha_over_the_rank_of_the_layer() -> None:
    for method, rank in ((mv.MoS(3, 2, 2, alpha=12.0), 3), (mv.MoS(None, 2, 2, alpha=12.0), 6)):
        for adapter in several(method):
            left, _ = adapter.factors()
            column = torch.cat([adapter.P_B[index] for index in adapter.I_B[0]])
            assert close(left[:, 0], 12.0 / rank * column)


@pytest.mark.parametrize("dissociate", [True, False])
def test_gathering_shards_is_the_chunk_transform(dissociate: bool) -> None:
    """Chunk i of every vector stands together, then chunks side by side; and shard by shard."""
    method = mv.MoS(4, 2, shards_per_vector=4, private=1, dissociate=dissociate)
    for adapter in several(method):
        built = []
        for pool, indices in (
            (adapter.P_A, adapter.I_A),
            (adapter.P_B, adapter.I_B),
        ):
            flat = pool[indices.flatten()]
            chunks = torch.cat([flat[i::4] for i in range(4)], dim=1)
            rows = [torch.cat([pool[int(index)] for index in row]) for row in indices]
            assert torch.equal(chunks, torch.stack(rows))
            built.append(chunks)
        A, B = built
        assert torch.equal(adapter.factors()[0], B.mT)
        assert torch.equal(adapter.factors()[1], A)
        assert torch.equal(adapter.delta(), B.mT @ A)


def test_sharing_pays_for_rank_5_with_the_numbers_of_lora_2() -> None:
    """Three layers for the price of LoRA r=2, each with an update of rank 5."""
    method = mv.MoS(5, 2)
    model = mv.attach(alike(), method)
    randomise(model)
    assert count(model) == 2 * 3 * (8 + 12) == count(mv.attach(alike(), mv.LoRA(2)))
    for adapter in adapters_in(model).values():
        assert int(torch.linalg.matrix_rank(adapter.delta())) == 5
    assert method.num_parameters(8, 12) == 2 * (8 + 12)


@pytest.mark.parametrize("shards", [1, 2])
def test_start_of_the_pools(shards: int) -> None:
    """A's bound is LoRA's, from all of k and not from a shard's k / l."""
    model = mv.attach(alike(3, 40, 60), mv.MoS(8, 20, shards_per_vector=shards))
    P_A, P_B = model["fc0"].P_A.detach(), model["fc0"].P_B
    assert P_A.shape == (20 * 3 * shards, 60 // shards)
    assert P_B.shape == (20 * 3 * shards, 40 // shards)
    assert 0.99 / math.sqrt(60) < float(P_A.abs().max()) <= 1 / math.sqrt(60)
    assert not P_B.any()


PURE = {"rank": None, "budget": 2, "dissociate": False}


def taken(adapters: list[Adapter]) -> list[tuple[set[int], set[int]]]:
    return [(set(a.I_A.flatten().tolist()), set(a.I_B.flatten().tolist())) for a in adapters]


def test_pure_sharing_is_one_update_for_all() -> None:
    adapters = several(mv.MoS(**PURE))
    assert taken(adapters) == [(set(range(6)), set(range(6)))] * 3
    for adapter in adapters:
        assert torch.equal(adapter.I_A, adapter.I_B)
        assert close(adapter.delta(), adapter.P_B.mT @ adapter.P_A)
        assert int(torch.linalg.matrix_rank(adapter.delta())) == 6


@pytest.mark.parametrize(
    ("switch", "rank"),
    [
        ({"rank": 4}, 4),
        ({"dissociate": True}, 6),
        ({"shards_per_vector": 2}, 6),
        ({"private": 1}, 4),
    ],
    ids=str,
)
def test_each_switch_alone_makes_layers_differ(switch: dict[str, Any], rank: int) -> None:
    """And does nothing else: pairs stay pairs, the whole pool is used, no shard twice."""
    method = mv.MoS(**PURE | switch)
    adapters = several(method)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not close(adapters[first].delta(), adapters[second].delta(), 1e-2)
    everything = set(range(6 * method.shards_per_vector))
    for adapter, (of_a, of_b) in zip(adapters, taken(adapters), strict=True):
        assert adapter.I_A.shape == adapter.I_B.shape == (rank, method.shards_per_vector)
        assert int(torch.linalg.matrix_rank(adapter.delta())) == rank
        assert torch.equal(adapter.I_A, adapter.I_B) == (not method.dissociate)
        assert len(of_a) == len(of_b) == adapter.I_A.numel()
        assert (of_a == of_b == everything) == (method.rank is None and not method.private)
    assert adapters[0].P_A.numel() + adapters[0].P_B.numel() == 2 * 3 * (8 + 12)


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("shards", [1, 2])
def test_private_shards_belong_to_one_layer(rank: int | None, shards: int) -> None:
    """e = 3, p = 2, L = 3: the first (e − p)·L·l shards are public, then p·l for each layer."""
    adapters = several(mv.MoS(rank, 3, shards_per_vector=shards, private=2))
    public = set(range(3 * shards))
    for place, (of_a, of_b) in enumerate(taken(adapters)):
        first = (3 + 2 * place) * shards
        own = set(range(first, first + 2 * shards))
        for used in (of_a, of_b):
            assert used - public == own
            assert len(used & public) == (3 if rank is None else 2) * shards


def test_shards_are_cut_across_vectors() -> None:
    """With l = 2 a row of A joins halves that were never one vector of the pool."""
    joined = [
        bool((adapter.I_A[:, 0] // 2 != adapter.I_A[:, 1] // 2).any())
        for adapter in several(mv.MoS(4, 2, shards_per_vector=2))
    ]
    assert all(joined)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_all_private_is_lora(shards: int) -> None:
    """p = e = r: layer t's A and B are its own part of the pool, in order. LoRA of rank r, and
    the published no-free-lunch script's MoS, which takes every shard of two per vector."""
    adapters = several(mv.MoS(2, 2, shards_per_vector=shards, private=2))
    for place, adapter in enumerate(adapters):
        lora = mv.LoRA(2).on(adapter.base)
        own = slice(place * 2 * shards, (place + 1) * 2 * shards)
        lora.A.data = adapter.P_A.detach()[own].reshape(2, 12).clone()
        lora.B.data = adapter.P_B.detach()[own].reshape(2, 8).mT.clone()
        assert torch.equal(adapter.delta(), lora.delta())
        x = random(5, 12)
        found = torch.autograd.grad(adapter(x).square().sum(), [adapter.P_A, adapter.P_B])
        wanted = torch.autograd.grad(lora(x).square().sum(), [lora.A, lora.B])
        assert close(found[0][own], wanted[0].reshape(found[0][own].shape))
        assert close(found[1][own], wanted[1].mT.reshape(found[1][own].shape))


@pytest.mark.parametrize("dissociate", [True, False])
@pytest.mark.parametrize("shards", [1, 2])
def test_alone_with_all_shards_it_trains_as_lora(dissociate: bool, shards: int) -> None:
    """One layer and r = e: every shard stands once, so MoS is LoRA with its entries renamed."""
    linear = random_linear(8, 12, torch.float64)
    mos = mv.MoS(2, 2, shards_per_vector=shards, dissociate=dissociate).on(linear)
    lora = mv.LoRA(2).on(linear)
    left, right = mos.factors()
    lora.A.data, lora.B.data = right.detach().clone(), left.detach().clone()
    x, y = random(16, 12), random(16, 8, seed=1)
    for adapter in (mos, lora):
        optimiser = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=0.05)
        for _ in range(20):
            optimiser.zero_grad()
            (adapter(x) - y).square().mean().backward()
            optimiser.step()
    assert float(torch.linalg.norm(lora.delta().detach())) > 0.1
    assert close(mos.delta(), lora.delta(), 1e-9)


def test_another_rank() -> None:
    assert mv.MoS(5, 2).with_rank(10) == mv.MoS(10, 4)
    assert mv.MoS(4, 4, private=1).with_rank(8) == mv.MoS(8, 8, private=2)
    assert mv.MoS(4, 4, private=1).with_rank(1) == mv.MoS(1, 1)
    assert mv.MoS(None, 4, private=2).with_rank(2) == mv.MoS(None, 2, private=1)
    for rank in (1, 2, 3, 7):
        several(mv.MoS(5, 2, private=1).with_rank(rank))


# --- Sharing in a model -------------------------------------------------------------------------


def test_mos_shares_between_layers_of_one_shape() -> None:
    model = mv.attach(Net(), mv.MoS(3, 2))
    for name in ("P_A", "P_B"):
        pools = [id(getattr(adapter, name)) for adapter in adapters_in(model).values()]
        # 8 × 12, 8 × 8 and 12 × 8, and again.
        assert [pools.index(pool) for pool in pools] == [0, 1, 2, 0, 1, 2]


def test_mos_shares_between_layers_of_one_dtype() -> None:
    layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8).double(), nn.Linear(8, 8)])
    for method in (mv.MoS(2, 2), mv.VeRA(3)):
        first, second, third = adapters_in(mv.attach(layers, method)).values()
        name = "A" if isinstance(method, mv.VeRA) else "P_A"
        assert getattr(first, name) is getattr(third, name) is not getattr(second, name)
        assert second(torch.ones(8, **F64)).dtype == torch.float64
    assert torch.equal(first.A, second.A.float())  # VeRA: the same numbers


@sharing
def test_shared_parameters_count_once(method: Method) -> None:
    model = mv.attach(Net(), method)
    shapes = [(a.out_features, a.in_features) for a in adapters_in(model).values()]
    assert count(model) == sum(method.num_parameters(*shape) for shape in shapes)
    groups = mv.param_groups(model, lr=0.1)
    assert sum(p.numel() for group in groups for p in group["params"]) == count(model)


def test_a_step_through_one_layer_moves_the_others() -> None:
    first, *others = several(mv.MoS(5, 2))
    before = [adapter.delta().detach() for adapter in others]
    optimiser = torch.optim.SGD([first.P_A, first.P_B], lr=0.1)
    first(random(4, 12)).square().sum().backward()
    optimiser.step()
    for adapter, delta in zip(others, before, strict=True):
        moved = (adapter.delta() - delta).detach()
        assert float(moved.abs().max()) > 1e-3
    # Private shards keep out of it.
    first, other, _ = several(mv.MoS(2, 2, private=2))
    first(random(4, 12)).square().sum().backward()
    for name in ("I_A", "I_B"):
        gradient = first.get_parameter(name.replace("I", "P")).grad
        assert gradient[first.get_buffer(name)].any()
        assert not gradient[other.get_buffer(name)].any()


@sharing
def test_merge_and_detach(method: Method) -> None:
    model = Net()
    attached = mv.attach(model, method)
    x = random(5, 12)
    assert torch.equal(attached(x), model(x))
    randomise(attached)
    moved = attached(x)
    assert not torch.allclose(moved, model(x), atol=1e-3)
    assert close(mv.merge(attached)(x), moved)
    assert mv.merge(attached).state_dict().keys() == model.state_dict().keys()
    assert torch.equal(mv.detach(attached)(x), model(x))
    for name, tensor in model.state_dict().items():
        assert torch.equal(mv.detach(attached).state_dict()[name], tensor)


@sharing
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save", "state", "move"])
def test_copies_keep_function_and_sharing(method: Method, way: str) -> None:
    attached = mv.attach(Net(), method, seed=1)
    randomise(attached)
    if way == "deepcopy":
        copied = copy.deepcopy(attached)
    elif way == "pickle":
        copied = pickle.loads(pickle.dumps(attached))
    elif way == "save":
        file = io.BytesIO()
        torch.save(attached, file)
        copied = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    elif way == "state":
        copied = mv.attach(Net(), method, seed=2)
        copied.load_state_dict(attached.state_dict())
    else:
        copied = copy.deepcopy(attached).float().double()
    x = random(5, 12)
    assert close(copied(x), attached(x), 1e-5 if way == "move" else 0.0)
    assert count(copied) == count(attached)
    shared = "A" if isinstance(method, mv.VeRA) else "P_A"
    assert getattr(copied[0], shared) is getattr(copied[6], shared)
    assert getattr(copied[0], shared) is not getattr(attached[0], shared)
    before = attached(x).detach().clone()
    randomise(copied, "again")
    assert torch.equal(attached(x), before)


@sharing
def test_neither_order_nor_company_matters(method: Method) -> None:
    """Layers of the same shape are no company: they make the pool. Nor does order, except for who
    gets which private pairs."""
    layers = alike()
    turned = nn.ModuleDict(dict(reversed(layers.items())))
    company = nn.ModuleDict({"others": alike(2, 4, 6), **layers})
    here = adapters_in(mv.attach(layers, method, seed=3))
    for model in (company,) if getattr(method, "private", 0) else (company, turned):
        there = adapters_in(mv.attach(model, method, seed=3))
        for name, adapter in here.items():
            for key, tensor in adapter.state_dict().items():
                assert torch.equal(there[name].state_dict()[key], tensor), (name, key)


@sharing
@pytest.mark.parametrize("engine", ["native", "vmap"])
def test_members_with_pools_run_as_one(method: Method, engine: str) -> None:
    members = [mv.attach(Net(seed), method, seed=seed) for seed in range(3)]
    for seed, member in enumerate(members):
        randomise(member, seed)
    x = random(3, 5, 12)
    ensemble = Ensemble(members, engine=engine)
    for index, member in enumerate(members):
        assert close(ensemble(x)[index], member(x[index]))
        single = ensemble.member(index, like=members[0])
        assert close(single(x[index]), member(x[index]), 0.0)
    assert ensemble.num_parameters == count(members[0])


def test_on_twice_with_one_generator_draws_twice() -> None:
    linear, generator = random_linear(8, 12, torch.float64), torch.Generator().manual_seed(0)
    assert not torch.equal(*[mv.VeRA(3).on(linear, generator=generator).A for _ in range(2)])
    assert not torch.equal(*[mv.MoS(3, 3).on(linear, generator=generator).P_A for _ in range(2)])


# --- Bad input ----------------------------------------------------------------------------------

LINEAR = nn.Linear(12, 8)
CASES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: mv.VeRA(0), ValueError, "rank=0 is not positive"),
    (lambda: mv.VeRA(4, d_initial=0.0), ValueError, "d_initial=0.0 is not a positive finite"),
    (lambda: mv.VeRA(4, d_initial="0.1"), TypeError, "d_initial='0.1' is not a number"),
    (lambda: mv.MoS(0, 2), ValueError, "rank=0 is not positive"),
    (lambda: mv.MoS(2.0, 2), TypeError, "rank=2.0 is not an integer"),
    (lambda: mv.MoS(2, 0), ValueError, "budget=0 is not positive"),
    (lambda: mv.MoS(2, 2, shards_per_vector=0), ValueError, "shards_per_vector=0 is not positive"),
    (lambda: mv.MoS(2, 2, private=-1), ValueError, "private=-1 is negative; the smallest is 0"),
    (lambda: mv.MoS(2, 2, private=False), TypeError, "private=False is not an integer"),
    (lambda: mv.MoS(4, 2, private=3), ValueError, "private=3 exceeds budget=2"),
    (lambda: mv.MoS(2, 4, private=3), ValueError, "private=3 exceeds rank=2"),
    (lambda: mv.MoS(2, 2, dissociate=1), TypeError, "dissociate=1 is not True or False"),
    (lambda: mv.MoS(2, 2, alpha=0), ValueError, "alpha=0 is not a positive finite"),
    (lambda: mv.MoS(2, 2, 3).on(LINEAR), ValueError, "shards_per_vector=3 does not divide out_features=8; nearest: 2, 4"),
    (lambda: mv.MoS(5, 2).on(LINEAR), ValueError, "rank=5 exceeds what budget=2 with private=0 offers to 1 layer of shape 8 × 12; the largest is 2"),
    (lambda: mv.attach(alike(), mv.MoS(7, 2)), ValueError, "offers to 3 layers of shape 8 × 12; the largest is 6"),
    (lambda: mv.attach(alike(), mv.MoS(6, 2, private=1)), ValueError, "the largest is 4"),
    (lambda: mv.attach(alike(), mv.MoS(3, 2, private=2)), ValueError, "the largest is 2"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CASES, ids=[case[2] for case in CASES])
def test_one_clear_sentence(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    raises_one_sentence(call, error, message)
