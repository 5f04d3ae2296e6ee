"""Is a larger first gradient better? Turn up the gain, then turn down the rate."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from missviz.adapters.base import Method
from missviz.adapters.trial import on_layer, trained_numbers
from missviz.analysis.gradients import first_gradients
from missviz.displays.gradient_norms import FAMILIES, RANKS, GradientNormDisplay
from missviz.experiments.gain_and_rate import OPTIMISERS, gain_runs, linear_task
from missviz.explore.methods import beside, code
from missviz.explore.panel import Panel
from missviz.explore.view import check_choices

GAINS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
INPUT_MEANS = (0.0, 0.1, 0.3, 1.0)
SEEDS = 10


def gradient_norms(
    gain: float = 4.0,
    input_mean: float = 0.3,
    optimiser: str = "SGD",
    method: Any = None,
    *,
    reveal: bool = True,
) -> Panel:
    """First gradient against rank, and the loss that follows; controls: gain, input mean,
    optimiser.

    Left: LoRA's and MiSS's first gradient on a 64 × 64 layer, over full fine-tuning's: measured
    on ten seeds, and the laws c √(r/3k) and √(1 + (g−1)ρ). The gain c is LoRA's scaling s; inputs
    of a mean other than zero make the columns of G alike (ρ), which MiSS adds up.

    Right: training LoRA r = 8 with A frozen at gain 1; at gain c with the same rate; and at gain c
    with rate/c² (SGD) or rate/c (Adam). What is not shown yet is measured while nobody waits.

    Args:
        gain: c, which multiplies LoRA's frozen factor.
        input_mean: μ of the inputs.
        optimiser: "SGD" or "Adam".
        method: your own beside LoRA and MiSS on the left, measured at each rank: a method object,
            or a list (`missviz.explore.methods` has the rule). One without a size is a level line.
        reveal: False hides the runs at gain c until `panel.reveal()`.

    Raises TypeError or ValueError, naming the argument.
    """
    own = beside(FAMILIES, method)
    choices = {"gain": GAINS, "input_mean": INPUT_MEANS, "optimiser": OPTIMISERS}
    values = {"gain": gain, "input_mean": input_mean, "optimiser": optimiser}
    values = check_choices("gradient_norms", choices, values)
    for one in own.values():
        if not trained_numbers(on_layer(one, linear_task().linear)):
            raise ValueError(f"method: {one} trains nothing, so it has no first gradient")

    @functools.cache
    def norms(input_mean: float) -> pd.DataFrame:
        usual = _usual(input_mean)
        return pd.concat([usual, _norms(input_mean, own)]) if own else usual

    def compute(gain: float, input_mean: float, optimiser: str) -> GradientNormDisplay:
        return GradientNormDisplay.from_tables(
            norms(input_mean),
            _runs(optimiser, input_mean),
            gain=gain,
            input_mean=input_mean,
            optimiser=optimiser,
        )

    def work() -> Iterator[str]:
        for done, mean in enumerate(INPUT_MEANS, 1):
            norms(mean)
            for name in OPTIMISERS:
                _runs(name, mean)
            yield f"first gradients: {done} of {len(INPUT_MEANS)} input means"

    fixed = {"method": code(method)} if own else {}
    return Panel(
        "gradient_norms",
        compute,
        choices,
        values,
        fixed=fixed,
        reveal=reveal,
        work=work(),
    )


@functools.cache
def _usual(input_mean: float) -> pd.DataFrame:
    return _norms(input_mean, FAMILIES)


def _norms(input_mean: float, methods: Mapping[str, Method]) -> pd.DataFrame:
    tasks = [linear_task(input_mean, seed) for seed in range(SEEDS)]
    return first_gradients(tasks, methods, RANKS).assign(input_mean=input_mean)


@functools.cache
def _runs(optimiser: str, input_mean: float) -> pd.DataFrame:
    return gain_runs(GAINS, optimiser, input_mean)
