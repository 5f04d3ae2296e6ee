"""Is a larger first gradient better? Turn up the gain, then turn down the rate."""

import functools

import pandas as pd

from missviz.displays.gradient_norms import GradientNormDisplay, first_gradients
from missviz.experiments.gain_and_rate import OPTIMISERS, gain_runs
from missviz.explore.panel import Panel

GAINS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
INPUT_MEANS = (0.0, 0.1, 0.3, 1.0)
SEEDS = 10


def gradient_norms(
    gain: float = 4.0, input_mean: float = 0.3, optimiser: str = "SGD", *, reveal: bool = True
) -> Panel:
    """First gradient against rank, and the loss that follows; controls: gain, input mean,
    optimiser.

    Left: LoRA's and MiSS's first gradient on a 64 × 64 layer, over full fine-tuning's: measured
    on ten seeds, and the laws c √(r/3k) and √(1 + (g−1)ρ). The gain c is LoRA's scaling s; inputs
    of a mean other than zero make the columns of G alike (ρ), which MiSS adds up.

    Right: training LoRA r = 8 with A frozen at gain 1; at gain c with the same rate; and at gain c
    with rate/c² (SGD) or rate/c (Adam). With reveal=False the runs at gain c stay hidden until
    `panel.reveal()`. All runs are done when the panel is made.
    """
    norms, runs = _norms(), _runs()

    def compute(gain: float, input_mean: float, optimiser: str) -> GradientNormDisplay:
        return GradientNormDisplay.from_tables(
            norms,
            runs[optimiser, input_mean],
            gain=gain,
            input_mean=input_mean,
            optimiser=optimiser,
        )

    return Panel(
        "gradient_norms",
        compute,
        {"gain": GAINS, "input_mean": INPUT_MEANS, "optimiser": OPTIMISERS},
        {"gain": gain, "input_mean": input_mean, "optimiser": optimiser},
        reveal=reveal,
    )


@functools.lru_cache(maxsize=1)
def _norms() -> pd.DataFrame:
    return first_gradients(INPUT_MEANS, seeds=SEEDS)


@functools.lru_cache(maxsize=1)
def _runs() -> dict[tuple[str, float], pd.DataFrame]:
    return {
        (optimiser, input_mean): gain_runs(GAINS, optimiser, input_mean)
        for optimiser in OPTIMISERS
        for input_mean in INPUT_MEANS
    }
