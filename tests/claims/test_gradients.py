"""Claims on gradients: each verdict turns where what it rests on is taken away, or planted."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from missviz import networks
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.claims import gradients, judge
from missviz.claims.claim import FAILS
from missviz.experiments import gain_and_rate

CLAIMS = {claim.id: claim for claim in gradients.CLAIMS}
FEW = (43, 44, 45)
TINY = FixedFactor(4, "orthogonal", gain=1e-3)


class StandIn(nn.Module):
    """Query and value as MiniLM calls them, of 64 features, in its last layer."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        parts = nn.ModuleDict({name: nn.Linear(64, 64, bias=False) for name in ("query", "value")})
        for part in parts.values():
            nn.init.normal_(part.weight, std=0.125, generator=generator)
        block = nn.ModuleDict({"attention": nn.ModuleDict({"self": parts})})
        self.layer = nn.ModuleDict({"5": block})
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.layer["5"]["attention"]["self"]
        return parts["value"](torch.relu(parts["query"](x)))


def points(seed: int, count: int, size: int, device: str) -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(size, 64, generator=generator) + 0.5 for _ in range(2))
        for _ in range(count)
    ]


@pytest.fixture
def small(monkeypatch) -> None:
    """Something small in MiniLM's place."""
    monkeypatch.setattr(gradients, "pretrained", lambda seed, device: StandIn(seed))
    monkeypatch.setattr(gradients, "batches", points)
    monkeypatch.setattr(
        gradients, "loss_on", lambda model, batch: mse_loss(model(batch[0]), batch[1])
    )


def finite(judged) -> bool:
    return all(
        math.isfinite(part.low) and math.isfinite(part.high) for part in judged.parts.values()
    )


@pytest.mark.slow
def test_the_order_of_first_gradients_fails_where_misss_is_small(monkeypatch, small) -> None:
    judged = judge(CLAIMS["larger-first-gradient"], FEW, "cpu")
    assert judged.verdict.startswith("holds")
    assert finite(judged)
    for which in ("TOY", "REAL"):
        monkeypatch.setattr(gradients, which, (TINY, *getattr(gradients, which)[1:]))
    assert judge(CLAIMS["larger-first-gradient"], FEW, "cpu").verdict == FAILS


@pytest.mark.slow
def test_without_compensation_a_larger_gradient_would_be_faster(monkeypatch, small) -> None:
    judged = judge(CLAIMS["larger-is-faster"], FEW, "cpu")
    assert finite(judged)
    own = [part for place, part in judged.parts.items() if place.endswith("own rate")]
    assert all(abs(part.effect) < 1e-3 for part in own)
    assert judged.verdict.startswith("holds in part")
    assert "own rate" not in judged.verdict
    for place in (gradients, gain_and_rate):
        monkeypatch.setattr(place, "compensated_rate", lambda rate, gain, optimiser: rate)
    assert judge(CLAIMS["larger-is-faster"], FEW, "cpu").verdict == "holds here"


@pytest.mark.parametrize("times", [1.0, 2.0, 4.0])
def test_speed_is_how_many_times_sooner_a_curve_comes_down(times: float) -> None:
    steps = np.arange(101)
    slow, fast = np.exp(-0.01 * steps), np.exp(-0.01 * times * steps)
    assert gradients.speed(slow, fast) == pytest.approx(math.log(times), abs=1e-3)


def test_a_curve_that_never_comes_so_far_counts_as_half_as_fast() -> None:
    assert gradients.speed(np.linspace(1, 0, 11), np.ones(11)) == pytest.approx(-math.log(2))


@pytest.mark.slow
def test_less_variance_in_misss_gradients_would_be_seen(monkeypatch, small) -> None:
    judged = judge(CLAIMS["gradient-variance"], FEW, "cpu")
    assert judged.verdict != "holds here"
    assert finite(judged)
    calm = np.array([0.01, 1, 1, 1])
    ratios, after = gradients.ratios, gradients.after_training
    monkeypatch.setattr(gradients, "ratios", lambda *args: np.array(ratios(*args)) * calm)

    def calmer(*args):
        found, losses = after(*args)
        return found * calm, losses

    monkeypatch.setattr(gradients, "after_training", calmer)
    assert judge(CLAIMS["gradient-variance"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_a_curvature_turned_upside_down_explains_no_rate(monkeypatch) -> None:
    some = (LoRA(2), PiSSA(2), MiSS(4), FixedFactor(4, "orthogonal"))
    monkeypatch.setattr(gradients, "default_methods", lambda protocol: some)
    judged = judge(CLAIMS["curvature-sets-rate"], (43, 44), "cpu")
    assert "gradient descent" in judged.verdict or judged.verdict == "holds here"
    assert finite(judged)
    true = gradients.curvature
    monkeypatch.setattr(gradients, "curvature", lambda model, loss: 0.01 / true(model, loss))
    assert judge(CLAIMS["curvature-sets-rate"], (43, 44), "cpu").verdict == FAILS


@pytest.mark.slow
@pytest.mark.skipif(networks.missing() is not None, reason="MiniLM is not installed")
def test_first_gradients_of_minilm_are_measured_on_sentences_of_their_own() -> None:
    first, second = gradients.batches(43, 2, 8, "cpu")
    assert first.labels.shape == (8,)
    assert not set(map(tuple, first.inputs["input_ids"].tolist())) & set(
        map(tuple, second.inputs["input_ids"].tolist())
    )
    found = gradients.norms(
        gradients.pretrained(43, "cpu"),
        lambda model: gradients.loss_on(model, first),
        gradients.REAL,
        43,
        gradients.QUERY_AND_VALUE,
    )
    assert len(found) == len(gradients.REAL)
    assert min(found) > 0
