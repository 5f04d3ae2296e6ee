"""Claims on training the toy: each verdict turns where what it rests on is taken away, or planted."""

import math
from dataclasses import replace

import numpy as np
import pytest

from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.claims import judge, toy, training
from missviz.claims.claim import FAILS
from missviz.experiments.no_free_lunch import no_free_lunch

CLAIMS = {claim.id: claim for claim in training.CLAIMS}
FEW = (43, 44, 45)


def finite(judged) -> bool:
    return all(
        math.isfinite(part.low) and math.isfinite(part.high) for part in judged.parts.values()
    )


def with_less(of, name: str, less: float):
    """What `of` finds, but with `name` at so much less of every loss."""

    def found(*args):
        return {**of(*args), name: of(*args)[name] - less}

    return found


@pytest.mark.slow
def test_a_lora_that_cannot_express_its_target_is_harder(monkeypatch) -> None:
    monkeypatch.setattr(training, "RATES", (1e-2, 10**-1.5))
    monkeypatch.setattr(training, "MOST_STEPS", 150)
    judged = judge(CLAIMS["one-matrix-simpler"], FEW, "cpu")
    assert judged.verdict != "holds here"
    assert finite(judged)
    assert all(
        late == 0 for part in judged.parts.values() for late in part.seen["never_arrived"].values()
    )
    monkeypatch.setattr(training, "LORA", LoRA(1))
    assert judge(CLAIMS["one-matrix-simpler"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_figure_2s_rows_turn_with_what_miss_leaves(monkeypatch) -> None:
    ids = ("figure-2-train", "figure-2-adapts", "head-start")
    for name in ids:
        assert finite(judge(CLAIMS[name], FEW, "cpu"))
    figure_2 = training.figure_2
    monkeypatch.setattr(training, "figure_2", with_less(figure_2, training.MISS.name, 0.05))
    assert judge(CLAIMS["figure-2-train"], FEW, "cpu").verdict == "holds here"
    monkeypatch.setattr(training, "figure_2", with_less(figure_2, training.MISS.name, -0.1))
    assert judge(CLAIMS["figure-2-train"], FEW, "cpu").verdict == FAILS
    monkeypatch.setattr(training, "figure_2", with_less(figure_2, training.MISS.name, 0.5))
    assert judge(CLAIMS["figure-2-adapts"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_a_control_of_smaller_gain_has_no_head_start(monkeypatch) -> None:
    """The row is about the size of steps: with gain 1 in place of 4 the lead is there."""
    small = FixedFactor(4, "orthogonal")
    methods = [training.MISS, training.LORA, small]
    monkeypatch.setattr(training, "CONTROL", small)
    monkeypatch.setattr(
        training,
        "published",
        lambda seeds, device: no_free_lunch(methods, seeds=seeds, device=device),
    )
    assert judge(CLAIMS["head-start"], FEW, "cpu").verdict == "holds here"


@pytest.mark.slow
def test_on_its_own_target_alone_miss_has_a_free_lunch(monkeypatch) -> None:
    monkeypatch.setattr(
        training,
        "taught",
        lambda methods, seeds, device: toy.taught(methods, seeds, device, ["periodic"]),
    )
    judged = judge(CLAIMS["no-free-lunch"], (43, 44), "cpu")
    assert judged.verdict == FAILS
    assert judged.parts[""].seen["nearest_to_winning_all"] == "MiSS r=4"
    assert judged.parts[""].seen["winners"] == {"periodic": "MiSS r=4"}


def test_no_free_lunch_holds_where_each_wins_somewhere(monkeypatch) -> None:
    contest = [training.MISS.name, training.LORA.name, training.PISSA.name, "Bat b=4"]
    contest += [training.CONTROL.name, FixedFactor(4, "columns").name]
    made_up = {
        winner: {name: np.full(3, 0.0 if name == winner else 0.5) for name in contest}
        for winner in contest
    }
    monkeypatch.setattr(training, "taught", lambda methods, seeds, device: made_up)
    judged = judge(CLAIMS["no-free-lunch"], FEW, "cpu")
    assert judged.verdict == "holds here"
    assert judged.parts[""].effect == pytest.approx(0.5)


@pytest.mark.slow
def test_pissa_with_a_lead_is_faster(monkeypatch) -> None:
    judged = judge(CLAIMS["pissa-faster"], FEW, "cpu")
    assert finite(judged)
    name = training.PISSA.name
    monkeypatch.setattr(training, "figure_2", with_less(training.figure_2, name, 0.5))
    one = {training.LORA.name: np.array([0.4, 0.5]), name: np.array([0.1, 0.2])}
    monkeypatch.setattr(training, "taught", lambda *args: {"low rank": one, "dense": one})
    assert judge(CLAIMS["pissa-faster"], FEW, "cpu").verdict == "holds here"
    one[name] = one[training.LORA.name]
    monkeypatch.setattr(training, "figure_2", lambda *args: one)
    assert judge(CLAIMS["pissa-faster"], FEW, "cpu").verdict == FAILS


@pytest.mark.slow
def test_rank_five_learns_less_of_period_four_than_rank_four(monkeypatch) -> None:
    monkeypatch.setattr(training, "DOUBLED", (8, 4))
    monkeypatch.setattr(training, "ONE_MORE", (5, 4))
    judged = judge(CLAIMS["rank-helps"], (43, 44), "cpu")
    assert finite(judged)
    rule = CLAIMS["rank-helps"].rule
    assert rule.verdict(judged.parts["periodic, one more"]) == FAILS
    seen = judged.parts["periodic, one more"].seen["reach"]
    assert seen["r=4"] == 1 > seen["r=5"]


def test_rank_helps_where_each_rank_learns_more(monkeypatch) -> None:
    def taught(methods, seeds, device, kinds):
        noise = np.linspace(0, 1e-3, 3)
        return {kind: {m.name: 1 / m.rank + noise for m in methods} for kind in kinds}

    monkeypatch.setattr(training, "taught", taught)
    judged = judge(CLAIMS["rank-helps"], FEW, "cpu")
    assert judged.verdict == "holds here"
    assert finite(judged)


@pytest.mark.slow
def test_shares_are_of_the_unadapted_loss_seed_by_seed() -> None:
    runs = no_free_lunch([MiSS(4)], seeds=2)
    (found,) = toy.shares(runs, "final train").values()
    summary = runs.summary(reference="MiSS r=4").query("metric == 'final train'")
    means = summary.set_index("method")["mean"]
    assert found["MiSS r=4"].mean() == pytest.approx(means["MiSS r=4"] / means["unadapted"])
    assert found["constant"].mean() == pytest.approx(means["constant"] / means["unadapted"])
    halved = replace(runs, losses=runs.losses.assign(loss=runs.losses["loss"] / 2))
    (half,) = toy.shares(halved, "final train").values()
    np.testing.assert_allclose(half["MiSS r=4"], found["MiSS r=4"] / 2)
