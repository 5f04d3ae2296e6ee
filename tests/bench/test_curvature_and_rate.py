"""The program that holds curvature against rates: its runs, and what it says of its stored table."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import missviz as mv
from missviz.experiments.no_free_lunch import make_task
from missviz.experiments.tasks import PROTOCOLS, TARGETS, base_models

FOLDER = Path(__file__).parents[2] / "benchmarks"
spec = importlib.util.spec_from_file_location(
    "curvature_and_rate", FOLDER / "curvature_and_rate.py"
)
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)

LINEAR = ("MiSS r=4", "fixed orthogonal r=4 gain=4", "MoRA r=2", "fixed columns r=4")
FROM_ZERO = (
    *("LoRA r=2", "DoRA columns r=1", "VeRA r=64", "ProLoRA r=2 u=1 2×2"),
    "MoS r=2 e=2 l=2",
)
ADALORA, FULL = "AdaLoRA r=2 γ=0", "full fine-tuning + bias"


def task(method, seed: int = 43):
    """A model at its start, its loss, and its points, of the teacher's first target."""
    (base,) = base_models((seed,), torch.float64, torch.device("cpu"))
    x, y = make_task(PROTOCOLS["teacher"], "low rank", TARGETS["low rank"], base, seed)["train"]
    model = mv.attach(base, method, "fc1", seed=seed)
    return model, (lambda m: mse_loss(m(x), y)), (x, y)


def descended(model: nn.Module, loss, rate: float, steps: int) -> tuple[float, float]:
    """First and last loss of torch's own SGD; the model is trained in place."""
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss(model)
        losses.append(float(value.detach()))
        value.backward()
        optimiser.step()
    return losses[0], float(loss(model).detach())


@pytest.mark.parametrize("method", [mv.LoRA(2), mv.DoRA(1, norm="columns")], ids=str)
def test_its_descent_is_that_of_torch_s_sgd(method) -> None:
    model, loss, points = task(method)
    rates = [1.0, 10.0]
    found = program.descend([(model, points, rate) for rate in rates], 8)
    for row, rate in zip(found, rates, strict=True):
        assert row == pytest.approx(descended(task(method)[0], loss, rate, 8), rel=1e-10)


def test_a_rate_is_stable_up_to_the_first_that_is_not() -> None:
    rates = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    losses = np.array([[1, 0.9], [1, 0.2], [1, 0.6], [1, math.nan], [1, 0.1]])
    found = program.rates_of(losses, rates, "")
    assert (found["stable_rate"], found["best_rate"]) == (4, 16)
    assert (found["stable_on_edge"], found["best_on_edge"]) == (False, True)
    losses[0] = [1, 2]
    with pytest.raises(RuntimeError, match="no rate from 1 on is stable"):
        program.rates_of(losses, rates, "")


@pytest.mark.parametrize(
    ("method", "least", "most"),
    [
        (mv.MiSS(4), 0.97, 1.03),
        (mv.FullFineTuning(bias=True), 0.97, 1.03),
        (mv.LoRA(2), 2, 3),
        (mv.AdaLoRA(2, orthogonality=0.0), 20, 200),
    ],
    ids=str,
)
def test_curvature_grows_where_a_product_starts_at_zero(method, least: float, most: float) -> None:
    model, loss, _ = task(method)
    start = mv.analysis.curvature(model, loss)
    first, last = descended(model, loss, 10.0 if most > 1.5 else 0.5, 200)
    assert last < first
    assert least < mv.analysis.curvature(model, loss) / start < most


# --- The stored table -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored() -> dict:
    return json.loads((FOLDER / "results" / "curvature-and-rate-cpu.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def rows(stored: dict) -> pd.DataFrame:
    return pd.DataFrame(stored["methods"])


def test_its_relations_are_those_of_its_rows(stored: dict, rows: pd.DataFrame) -> None:
    wanted = program.relations(rows)
    pd.testing.assert_frame_equal(pd.DataFrame(stored["relations"]), wanted)


def test_no_rate_is_on_the_edge_of_its_grid(rows: pd.DataFrame) -> None:
    assert not rows[["stable_on_edge", "best_on_edge", "adam_best_on_edge"]].to_numpy().any()


def test_what_the_program_says_of_it(stored: dict, rows: pd.DataFrame) -> None:
    published = rows[rows["task"] == "published"]
    frozen = rows[rows["task"] != "published"]
    stable = frozen.set_index("method")["stable_ratio"]
    assert stable[list(LINEAR)].between(0.99, 1.04).all()
    assert stable[list(FROM_ZERO)].between(0.46, 0.61).all()
    assert stable[FULL].between(1.99, 2.1).all()
    assert stable[ADALORA].between(0.02, 0.05).all()
    others = frozen[frozen["method"] != ADALORA]
    assert others["best_ratio"].between(0.17, 1.01).all()
    rates = frozen.groupby("task")["best_rate"]
    assert (rates.max() / rates.min() > 50).all()
    assert published["best_ratio"].between(0.68, 1.33).all()
    assert published["adam_best_rate"].between(0.03, 0.036).all()
    related = pd.DataFrame(stored["relations"])
    adam = related[(related["rate"] == "adam_best_rate") & (related["without"] == "")]
    adam = adam[adam["task"] != "published"]
    assert adam["correlation"].between(0.6, 0.83).all()
    assert (adam["spread_of_ratio"] > 20).all()
