"""Layers that share: that verdicts turn where sharing did something else."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from missviz.adapters.attach import attach
from missviz.adapters.lora import LoRA
from missviz.adapters.mos import MoS
from missviz.adapters.vera import VeRA
from missviz.claims import cost, sharing
from missviz.claims.claim import FAILS, HOLDS, IN_PART, UNDECIDED, parts_of, verdict_of

CLAIMS = {claim.id: claim for claim in sharing.CLAIMS}
Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def verdict(name: str, seeds: tuple[int, ...] = (1, 2, 3)) -> str:
    return verdict_of(CLAIMS[name], parts_of(CLAIMS[name].measure(seeds, "cpu")))


def replaced(**methods: Any) -> Mutant:
    def mutant(patch: Patch) -> None:
        for name, method in methods.items():
            patch.setattr(sharing, name, method)

    return mutant


def as_it_is(patch: Patch) -> None:
    pass


def a_small_place() -> sharing.Place:
    """Sixteen layers of 64 × 64, with the methods' sizes to match."""
    x = torch.randn(50, 2, 64, generator=torch.Generator().manual_seed(0))
    many = sharing.FirstOf(16, 64)
    return sharing.Place(
        model=lambda method: many,
        targets="*",
        run=lambda model, rows: model(x[rows]),
        tokens=2,
        methods={
            "LoRA": LoRA(8),
            "VeRA": VeRA(16),
            "MoS, an eighth": MoS(8, 1, shards_per_vector=2),
        },
    )


def planted(seconds: Mapping[str, float], methods: Mapping[str, Any] | None = None) -> Mutant:
    """Sides take these seconds (others 1), give or take one part in a hundred."""

    def mutant(patch: Patch) -> None:
        place = a_small_place()
        place = replace(place, methods={**place.methods, **(methods or {})})
        patch.setattr(sharing, "PLACES", {"a small place": lambda: place})
        patch.setattr(sharing, "TENANTS", (1, 3))
        patch.setattr(cost, "SIZES", {"cpu": (128, 16, torch.float32)})
        draw = np.random.default_rng(0)

        def in_turns(
            sides: Mapping[str, Any], _device: Any, rounds: int, **__: Any
        ) -> dict[str, list[float]]:
            return {
                side: [seconds.get(side, 1.0) * draw.uniform(0.99, 1.01) for _ in range(rounds)]
                for side in sides
            }

        patch.setattr(sharing, "in_turns", in_turns)
        patch.setattr(cost, "in_turns", in_turns)

    return mutant


BYTES = f"{IN_PART}: bytes, a small place"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "before", "found", "mutant", "turned"),
    [
        ("eight-times", as_it_is, f"{IN_PART}: c = 1", replaced(LoRA=lambda _: LoRA(1)), HOLDS),
        (
            "pure-sharing-hurts",
            as_it_is,
            f"{IN_PART}: c = 0",
            replaced(PURE=MoS(2, 2, private=2)),
            FAILS,
        ),
        (
            "differentiation-helps",
            as_it_is,
            f"{IN_PART}: c = 0",
            replaced(FULL=sharing.PURE),
            FAILS,
        ),
        (
            "which-differentiation",
            as_it_is,
            UNDECIDED,
            replaced(WITHOUT=sharing.WITHOUT | dict.fromkeys(list(sharing.WITHOUT)[:2], LoRA(1))),
            HOLDS,
        ),
        ("many-tenants", planted({}), BYTES, planted({"LoRA": 2.0}), HOLDS),
        ("many-tenants", planted({}), BYTES, planted({}, {"MoS, an eighth": MoS(8, 8)}), FAILS),
        (
            "routing-overhead",
            planted({}),
            HOLDS,
            planted({"MoS": 1.2, "MoS, an eighth": 1.2}),
            FAILS,
        ),
    ],
)
def test_verdict_and_mutant(
    name: str, before: Mutant, found: str, mutant: Mutant, turned: str, monkeypatch: Patch
) -> None:
    before(monkeypatch)
    assert verdict(name) == found
    mutant(monkeypatch)
    assert verdict(name) == turned


def test_every_claim_of_the_file_has_a_mutant() -> None:
    (mark,) = [m for m in test_verdict_and_mutant.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(CLAIMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CLAIMS))
def test_two_seeds_give_finite_evidence(name: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(sharing, "PLACES", {"a small place": a_small_place})
    monkeypatch.setattr(cost, "SIZES", {"cpu": (128, 16, torch.float32)})
    for part in parts_of(CLAIMS[name].measure((1, 2), "cpu")).values():
        assert np.isfinite([part.effect, part.low, part.high]).all()


def test_what_is_compared_trains_as_many_numbers() -> None:
    methods = [sharing.LORA, sharing.PURE, sharing.FULL, *sharing.WITHOUT.values()]
    assert len({method.num_parameters(24, 24) for method in methods}) == 1


@pytest.mark.parametrize("method", list(a_small_place().methods.values()), ids=str)
def test_a_batch_of_tenants_gets_what_each_gets_alone(method: Any) -> None:
    place = a_small_place()
    models = sharing.tenants_of(place, method, 4)
    together = place.run(sharing.stack(models), slice(0, 4))
    for n, model in enumerate(models):
        alone = place.run(model, slice(n, n + 1))
        torch.testing.assert_close(together[n : n + 1], alone)
        if n:
            assert not torch.allclose(alone, place.run(models[0], slice(n, n + 1)))


def test_bytes_of_a_tenant() -> None:
    """Per layer of sixteen, in float32: LoRA r (d + k); MoS e (d + k) and 2 r l indices of 8."""
    place = a_small_place()
    lora, vera, mos = (
        sharing.own_bytes(sharing.tenants_of(place, method, 1)[0])
        for method in place.methods.values()
    )
    assert lora == 4 * 8 * 128
    assert vera == 4 * (64 + 16)
    assert mos == 4 * 128 + 8 * 2 * 8 * 2


def test_bytes_of_a_network_are_of_all_its_layers() -> None:
    network = attach(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)), LoRA(2))
    assert sharing.own_bytes(network) == 4 * 2 * (16 + 12)
