"""Claims on Bat: an effect that is planted flips each verdict."""

import math

import pytest
import torch
from torch import nn

from missviz import networks
from missviz.adapters.bat import Bat, OutputBatAdapter
from missviz.adapters.full import FrozenFineTuning
from missviz.adapters.miss import MiSS
from missviz.claims import bat, judge, toy
from missviz.claims.claim import FAILS

CLAIMS = {claim.id: claim for claim in bat.CLAIMS}
FEW = (43, 44, 45)


class QueryOnly(nn.Module):
    """As MiniLM calls it, with weights of a given size."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        query = nn.Linear(64, 64)
        nn.init.normal_(query.weight, std=omega)
        self.attention = nn.ModuleDict({"self": nn.ModuleDict({"query": query})})


def louder(snapshots):
    """The toy's trained Bat on a W₀ of thirty times the size."""

    def found(*args, **options):
        taken = snapshots(*args, **options)
        for adapter in taken.values():
            adapter.base.weight.data.mul_(30)
        return taken

    return found


def finite(judged) -> bool:
    return all(
        math.isfinite(part.low) and math.isfinite(part.high) for part in judged.parts.values()
    )


def test_bat_is_linear_and_a_square_of_d_would_be_seen(monkeypatch) -> None:
    judged = judge(CLAIMS["bat-nonlinear"], FEW, "cpu")
    assert judged.verdict == FAILS
    assert finite(judged)
    linear = OutputBatAdapter.delta_blocks
    squared = lambda self: linear(self) + (self.D @ self.D).unsqueeze(-2)  # noqa: E731
    monkeypatch.setattr(OutputBatAdapter, "delta_blocks", squared)
    assert judge(CLAIMS["bat-nonlinear"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_bat_separates_shards_where_weights_are_large(monkeypatch) -> None:
    monkeypatch.setattr(bat, "minilm", lambda: QueryOnly(0.05))
    judged = judge(CLAIMS["bat-separates"], FEW, "cpu")
    assert judged.verdict == FAILS
    assert finite(judged)
    monkeypatch.setattr(bat, "minilm", lambda: QueryOnly(2.0))
    monkeypatch.setattr(bat, "adapter_snapshots", louder(bat.adapter_snapshots))
    assert judge(CLAIMS["bat-separates"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
@pytest.mark.skipif(networks.missing() is not None, reason="MiniLM is not installed")
def test_shards_of_minilm_lie_where_the_law_has_them() -> None:
    seen = bat.bat_separates((43, 44), "cpu")["MiniLM"].seen
    assert seen["mean_cosine"] == pytest.approx(seen["by_the_law"], abs=0.005)


@pytest.mark.slow
def test_more_rank_in_the_control_would_show_as_a_limit(monkeypatch) -> None:
    judged = judge(CLAIMS["colinear-limits"], FEW, "cpu")
    assert judged.verdict != "holds here"
    assert finite(judged)
    monkeypatch.setattr(bat, "COPIES", MiSS(4))
    assert judge(CLAIMS["colinear-limits"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_bat_against_a_miss_of_fewer_numbers_is_richer(monkeypatch) -> None:
    judged = judge(CLAIMS["bat-full-rank-rich"], FEW, "cpu")
    assert judged.verdict == FAILS
    assert finite(judged)
    monkeypatch.setattr(bat, "MiSS", lambda rank: MiSS(1))
    assert judge(CLAIMS["bat-full-rank-rich"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_what_learns_more_than_miss_is_seen_to(monkeypatch) -> None:
    """All of the layer in Bat's place; a periodic target is MiSS's own."""
    monkeypatch.setattr(bat, "Bat", lambda block_size: FrozenFineTuning())
    two = ["periodic", "columns"]
    monkeypatch.setattr(bat, "taught", lambda *args: toy.taught(*args, two))
    judged = judge(CLAIMS["bat-beats-miss"], FEW, "cpu")
    assert judged.verdict == "holds in part: toy, columns"
    assert finite(judged)


def test_both_have_as_many_numbers_on_every_layer_here() -> None:
    for method in (Bat(bat.RANK), MiSS(bat.RANK)):
        assert method.num_parameters(64, 64) == 256
    assert bat.COPIES.num_parameters(64, 64) == bat.CONTROL.num_parameters(64, 64)
