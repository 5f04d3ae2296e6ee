"""What algebra decides, and that each verdict turns where the algebra is another."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS, MiSSAdapter
from missviz.claims import algebra, judge
from missviz.claims.claim import FAILS, HOLDS, Claim

CLAIMS = {claim.id: claim for claim in algebra.CLAIMS}
SEEDS = (1, 2)


def verdict(name: str) -> str:
    return judge(CLAIMS[name], SEEDS, "cpu").verdict


Patch = pytest.MonkeyPatch


def rows_that_share_columns(patch: Patch) -> None:
    patch.setattr(algebra, "MiSS", lambda rank, **_: MiSS(rank))


def one_layout_only(patch: Patch) -> None:
    patch.setattr(algebra, "MiSS", lambda rank, **_: MiSS(rank))


def expand_as_repeat(patch: Patch) -> None:
    patch.setattr(torch.Tensor, "expand", lambda self, *sizes: self.repeat(*sizes))


def noise_in_delta(patch: Patch) -> None:
    right = algebra.delta

    def wrong(adapter: Any) -> torch.Tensor:
        found = right(adapter)
        return found + 1e-6 * torch.randn(found.shape, generator=torch.Generator()).to(found)

    patch.setattr(algebra, "delta", wrong)


def copies_with_signs(patch: Patch) -> None:
    """A copy that is not the same: more rank than D."""
    right = MiSSAdapter.delta

    def wrong(self: MiSSAdapter) -> torch.Tensor:
        return right(self) * torch.linspace(1, 2, self.in_features).to(self.D) ** torch.arange(
            1, self.out_features + 1
        ).to(self.D).unsqueeze(-1)

    patch.setattr(MiSSAdapter, "delta", wrong)


def mini_of_full_size(patch: Patch) -> None:
    patch.setattr(algebra, "MiSS", lambda rank, **_: MiSS(rank))


def file_that_forgets(patch: Patch) -> None:
    right = algebra.read_peft

    def wrong(folder: str) -> Any:
        updates = right(folder)
        return {name: _Doubled(update) for name, update in updates.items()}

    patch.setattr(algebra, "read_peft", wrong)


class _Doubled:
    def __init__(self, update: Any) -> None:
        self._update = update

    def delta(self) -> torch.Tensor:
        return 2 * self._update.delta()


def pissa_as_lora(patch: Patch) -> None:
    patch.setattr(algebra, "PiSSA", LoRA)


def smaller_published_norm(patch: Patch) -> None:
    right = algebra.published_table

    def wrong(name: str) -> Any:
        table = right(name)
        table.loc[table["method"] == "BigLoRA", "norm"] *= 0.7
        return table

    patch.setattr(algebra, "published_table", wrong)


def frozen_at_half(patch: Patch) -> None:
    right = torch.autograd.grad
    calls: list[int] = []

    def wrong(*given: Any, **options: Any) -> Any:
        calls.append(1)
        (gradient,) = right(*given, **options)
        return (gradient * (0.5 if len(calls) % 2 == 0 else 1),)

    patch.setattr(algebra.torch.autograd, "grad", wrong)


def lora_from_zero(patch: Patch) -> None:
    class Zero(LoRA):
        def adapter(self, base: Any, generator: Any) -> Any:
            made = super().adapter(base, generator)
            made.A.data.zero_()
            return made

    patch.setattr(algebra, "LoRA", Zero)


@pytest.mark.parametrize(
    ("name", "found", "mutant", "turned"),
    [
        ("efficient-form", FAILS, rows_that_share_columns, HOLDS),
        ("one-layout", FAILS, one_layout_only, HOLDS),
        ("figure-3-runs", FAILS, expand_as_repeat, HOLDS),
        ("low-rank", HOLDS, noise_in_delta, FAILS),
        ("copying-enriches", FAILS, copies_with_signs, HOLDS),
        ("mini-default", FAILS, mini_of_full_size, HOLDS),
        ("miss-converts", HOLDS, file_that_forgets, FAILS),
        ("pissa-is-lora-start", FAILS, pissa_as_lora, HOLDS),
        ("biglora-defect", FAILS, smaller_published_norm, HOLDS),
        ("frozen-smaller", FAILS, frozen_at_half, HOLDS),
        ("zero-start-saddle", FAILS, lora_from_zero, HOLDS),
    ],
)
def test_verdict_and_mutant(
    name: str, found: str, mutant: Callable[[Patch], None], turned: str, monkeypatch: Patch
) -> None:
    assert verdict(name) == found
    mutant(monkeypatch)
    assert verdict(name) == turned


def test_every_claim_of_the_file_has_a_mutant() -> None:
    (mark,) = [m for m in test_verdict_and_mutant.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == set(CLAIMS)


def test_claims_are_whole() -> None:
    for claim in algebra.CLAIMS:
        assert isinstance(claim, Claim)
        for text in (claim.claim, claim.said, claim.test, claim.unit, claim.because):
            assert text
        assert claim.claim.endswith(".")
        assert replace(claim, seeds=3).seeds == 3
