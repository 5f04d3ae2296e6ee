"""Claims on gradients: each verdict turns where what it rests on is taken away, or planted."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from missviz import networks
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.full import FrozenFineTuning, FullFineTuning
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.vera import VeRA
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
    calm = np.log([0.01, 1, 1, 1])
    ratios, after = gradients.log_ratios, gradients.after_training
    monkeypatch.setattr(gradients, "log_ratios", lambda *args: ratios(*args) + calm[: len(args[3])])

    def calmer(*args):
        found, losses = after(*args)
        return found + calm, losses

    monkeypatch.setattr(gradients, "after_training", calmer)
    assert judge(CLAIMS["gradient-variance"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_curvature_explains_rates_that_go_along_with_it_and_no_others(monkeypatch) -> None:
    some = (FullFineTuning(bias=True), LoRA(2), PiSSA(2), MiSS(4))
    monkeypatch.setattr(gradients, "default_methods", lambda protocol: some)
    upside_down = False

    def best_rates(starts, rates, run) -> list[float]:
        bends = [
            gradients.curvature(model, lambda m, points=points: gradients.mse_on(m, points))
            for model, points in starts
        ]
        return [bend if upside_down else 1 / bend for bend in bends]

    monkeypatch.setattr(gradients, "best_rates", best_rates)
    judged = judge(CLAIMS["curvature-sets-rate"], FEW, "cpu")
    assert judged.verdict == "holds here"
    assert all(part.effect == pytest.approx(1) for part in judged.parts.values())
    upside_down = True
    assert judge(CLAIMS["curvature-sets-rate"], FEW, "cpu").verdict == FAILS


@pytest.mark.parametrize("run", [gradients.descend, gradients.with_adam])
def test_best_rates_are_those_that_end_lowest(run) -> None:
    """On a loss that bends alike everywhere, rate 1/λ arrives in one step, 4 · 2/λ diverges."""
    layer = nn.Linear(8, 8, bias=False, dtype=torch.float64)
    start = FrozenFineTuning().on(layer), (torch.eye(8).double(), torch.ones(8, 8).double())
    scale = 2 / gradients.curvature(start[0], lambda m: gradients.mse_on(m, start[1]))
    rates = [scale / 512, scale / 2, 4 * scale] if run is gradients.descend else [1e-5, 0.03, 1e3]
    assert gradients.best_rates([start, start], [rates, rates], run) == [rates[1]] * 2


@pytest.mark.slow
def test_rates_of_two_methods_are_found_by_training(monkeypatch) -> None:
    monkeypatch.setattr(gradients, "default_methods", lambda protocol: (LoRA(2), VeRA(64)))
    judged = judge(CLAIMS["curvature-sets-rate"], (43, 44), "cpu")
    assert judged.parts["gradient descent"].effect == pytest.approx(1)
    assert judged.parts["gradient descent"].seen["on_edge_of_grid"] == 0


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
