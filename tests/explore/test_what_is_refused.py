"""Methods that do not keep the contract and input that cannot be drawn: one sentence each, before
anything is drawn or trained."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random
from own_methods import Bent, BentAdapter, GainMiSS

import missviz as mv
from missviz.analysis.inspection import inspect_adapter
from missviz.analysis.products import Product


class FaultyAdapter(BentAdapter):
    def __init__(self, method: "Faulty", base: torch.nn.Linear, generator: torch.Generator) -> None:
        super().__init__(method, base, generator)
        self.fault = method.fault
        if self.fault == "float64":
            self.A = torch.nn.Parameter(self.A.detach().double())

    def delta(self) -> torch.Tensor:
        delta = super().delta()
        if self.fault == "key error":
            raise KeyError("boom")
        if self.fault == "transposed":
            return delta.mT
        if self.fault == "nan":
            return delta * float("nan")
        return delta / delta.new_zeros(()) if self.fault == "nan later" and delta.any() else delta


@dataclass(frozen=True)
class Faulty(Bent):
    fault: str = ""

    @property
    def name(self) -> str:
        names: dict[str, Any] = {"number": 3, "long": "x" * 300, "formula": r"$\frac{a$"}
        return names.get(self.fault, f"faulty r={self.rank}")

    def num_parameters(self, out_features: int, in_features: int) -> Any:
        counts = {"negative": -1, "half": 1.5, "many": 10**12}
        return counts.get(self.fault, super().num_parameters(out_features, in_features))

    def adapter(self, base: torch.nn.Linear, generator: torch.Generator) -> Any:
        if self.fault == "another method":
            return FaultyAdapter(SimpleNamespace(rank=2, fault=""), base, generator)  # type: ignore[arg-type]
        return None if self.fault == "none" else FaultyAdapter(self, base, generator)

    def check_shape(self, out_features: int, in_features: int) -> None:
        if self.fault == "does not fit":
            raise ValueError("it fits nothing")


@dataclass(frozen=True)
class Frozen(Bent):
    """Nothing is trained, and it says so."""

    @property
    def name(self) -> str:
        return f"frozen r={self.rank}"

    def num_parameters(self, out_features: int, in_features: int) -> int:
        return 0

    def adapter(self, base: torch.nn.Linear, generator: torch.Generator) -> mv.Adapter:
        return super().adapter(base, generator).requires_grad_(False)


@dataclass(frozen=True)
class CalledLoRA(Bent):
    @property
    def name(self) -> str:
        return f"LoRA r={self.rank}"


TAKERS: dict[str, Callable[[mv.Method], object]] = {
    "race": lambda one: mv.explore.race(one, mv.LoRA(2)),
    "side_by_side": lambda one: mv.explore.side_by_side(one, mv.LoRA(2)),
    "update": lambda one: mv.explore.update(method=one, weight=random(8, 6)),
    "rank": lambda one: mv.explore.rank(method=one, weight=random(8, 6)),
    "colinearity": lambda one: mv.explore.colinearity(method=one),
    "gradient_norms": lambda one: mv.explore.gradient_norms(method=one),
    "lunch": lambda one: mv.explore.lunch(method=one, shown="closed form"),
}
FAULTS = {
    "key error": r"raised KeyError: 'boom'",
    "none": r"Faulty.adapter must return a missviz.Adapter",
    "nan": r"delta\(\) has \d+ values that are NaN",
    "negative": r"num_parameters says -1, training may change",
    "half": r"num_parameters says 1.5, training may change",
    "many": r"num_parameters says 1000000000000, training may",
    "another method": r"super\(\).*; method is a SimpleNamespace there",
    "does not fit": r"it fits nothing",
    "number": "Faulty: name must be a string, and is 3",
    "long": "Faulty: name cannot be drawn: it must be one line of at most 80 characters",
    "formula": r"Faulty: name cannot be drawn: .* without \$",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("taker", TAKERS)
def test_a_method_with_a_fault_is_refused_by_name(taker: str, fault: str) -> None:
    named = "" if FAULTS[fault].startswith("Faulty: ") else r"faulty r=\d+ on a layer of .*"
    with pytest.raises((TypeError, ValueError), match=named + FAULTS[fault]) as caught:
        TAKERS[taker](Faulty(2, fault))
    assert len(str(caught.value).splitlines()) == 1


def swept(method: mv.Method) -> object:
    return mv.experiments.no_free_lunch([method], seeds=1, steps=2)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sweep_stops_at_a_fault_and_says_whose_it_is(fault: str) -> None:
    """What the method's own code raises comes as it is, from wherever it ran."""
    message, error = FAULTS[fault], (TypeError, ValueError)
    if own := message.startswith("raised "):
        message, error = "boom", (KeyError,)
    with pytest.raises(error, match=message) as caught:
        swept(Faulty(2, fault))
    said = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "faulty r=2" in said.lower() or message.startswith("Faulty: ")
    assert own == (caught.type is KeyError)


@pytest.mark.parametrize("taker", ["race", "side_by_side"])
def test_numbers_of_another_dtype_than_the_weights_are_refused(taker: str) -> None:
    with pytest.raises(ValueError, match="faulty r=2 on a layer of 64 × 64: A is float64 on a lay"):
        TAKERS[taker](Faulty(2, "float64"))
    with pytest.raises(TypeError, match="fc1: A is float64 on a layer of float32"):
        swept(Faulty(2, "float64"))


@pytest.mark.parametrize("taker", [*TAKERS, "sweep"])
@pytest.mark.parametrize("rank", [0, 2.5, True])
def test_a_size_that_is_none_is_not_drawn_at_another(taker: str, rank: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"faulty r={rank}: rank={rank} is not"):
        TAKERS.get(taker, swept)(Faulty(rank))


def test_a_long_name_of_one_word_is_raced() -> None:
    @dataclass(frozen=True)
    class Long(Bent):
        name = "x" * 80  # type: ignore[assignment]

    panel = mv.explore.race(Long(2), data=(random(40, 8), random(40, 2, seed=1)))
    assert panel.picture


def test_one_rank_for_all_means_one_of_each_kind() -> None:
    for name in ("update", "rank"):
        panel = getattr(mv.explore, name)
        with pytest.raises(
            ValueError, match="method has gain MiSS r=2 and gain MiSS r=3: the panel"
        ):
            panel(method=[GainMiSS(2), GainMiSS(3)])
        with pytest.raises(ValueError, match="method='LoRA r=3': 'LoRA' is drawn already"):
            panel(method=CalledLoRA(3))
    assert "LoRA r=3" in mv.explore.update(method=mv.LoRA(3)).summary


@pytest.mark.slow
def test_race_takes_a_list_as_other_panels_do() -> None:
    methods = [mv.LoRA(2), mv.MiSS(4)]
    panel = mv.explore.race(methods)
    assert panel.state == mv.explore.race(*methods).state
    assert panel.picture == mv.explore.race(*methods).picture


# --- Numbers --------------------------------------------------------------------------------------


def test_an_update_that_becomes_infinite_is_said_in_the_picture() -> None:
    panel = mv.explore.update(method=Faulty(2, "nan later"))
    assert "faulty r=2: ΔW after a few steps has 64 values that are NaN" in panel.summary
    assert panel.picture


@pytest.mark.slow
def test_a_weight_of_zeros_has_no_norm_to_compare_with() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = mv.explore.update(method="MiSS", weight=torch.zeros(4, 4))
    assert "inf" not in panel.summary
    shown = panel.view.compute(**panel.values)
    assert f"and norm {np.linalg.norm(shown.delta):.2f}" in panel.summary


def test_a_rank_that_nobody_gave_fits_the_weight() -> None:
    assert mv.explore.rank(weight=random(64, 3)).values["rank"] == 3
    assert mv.explore.update(weight=random(6, 1)).values["rank"] == 1
    with pytest.raises(ValueError, match="rank=4 exceeds in_features=3"):
        mv.explore.rank(weight=random(64, 3), rank=4)


POINTS = random(40, 1), random(40, 2, seed=1)
AT = mv.attach(torch.nn.Sequential(torch.nn.Linear(4, 4)), mv.LoRA(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.explore.update(x=[1e300] * 8), ValueError, "x has entries up to 1e.300, whose"),
        (lambda: mv.explore.update(x=[10**400] * 8), ValueError, "x has a number that float64 can"),
        (lambda: mv.explore.gradient_norms(method=Frozen(2)), ValueError, "frozen r=2 trains noth"),
        (
            lambda: mv.experiments.no_free_lunch(data=POINTS, seeds=1, steps=2),
            ValueError,
            "does not fit data with 1 inputs .* by default: give methods of your own",
        ),
        (lambda: mv.explore.race(data=POINTS), ValueError, "by default: give methods of your own"),
        (
            lambda: mv.explore.race(mv.LoRA(1), data=(POINTS[0], 1e30 * POINTS[1])),
            ValueError,
            "y of data has values up to .*e.30, and losses are their squares",
        ),
        (lambda: mv.explore.adapter(AT, controls=[AT]), TypeError, "controls of type list; give"),
        (lambda: mv.explore.adapter(AT, controls={"none": AT}), ValueError, "'none' is there alr"),
        (
            lambda: mv.explore.adapter(AT, controls={"same-norm random": AT}),
            ValueError,
            "controls: 'same-norm random' is there already",
        ),
    ],
)
def test_bad_input_has_its_sentence(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


class Unequal(Product):
    """Factors that do not multiply."""

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.left, torch.ones(self.left.shape[1] + 1, 5)


def test_factors_that_do_not_multiply_are_named_with_their_module() -> None:
    updates = {"mod": Unequal(torch.ones(4, 2), torch.ones(2, 5))}
    with pytest.raises(ValueError, match=r"mod: factors\(\) are \(4, 2\) and \(3, 5\), which do n"):
        mv.spectra(updates)
    with pytest.raises(ValueError, match=r"factors\(\) are \(4, 2\) and \(3, 5\), which do not"):
        mv.spectrum(updates["mod"])
    table = inspect_adapter(updates)
    assert table["module"][0] == "mod"
    assert "which do not multiply" in table["warnings"][0][0]
