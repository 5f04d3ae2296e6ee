"""The race at shared rates: every method at every rate, each trained when it is first asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from missviz.adapters.base import Method
from missviz.experiments.arguments import ELEMENTWISE, FIRST_SEED, checked_device, on_own_data
from missviz.experiments.data import OwnData
from missviz.experiments.no_free_lunch import baselines, losses_at
from missviz.experiments.tasks import PROTOCOLS, Protocol

SEEDS = 10
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SPLITS = ("train", "valid")
LAYER = {"trained": "published", "frozen": "controlled"}
"""What happens to the second layer, and the protocol in which it does."""


class RaceRuns:
    """Losses of some methods in "no free lunch" at shared rates, with no rate chosen for anyone.

    Args:
        methods: who runs; their names differ.
        data: the reader's own points, or None for the published task.
        seeds: how many, from 43 on.
        rates: that `work` trains.

    What was trained once is kept, and is the same to the last bit whatever was trained before.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        data: OwnData | None = None,
        *,
        seeds: int = SEEDS,
        rates: Sequence[float] = RATES,
    ) -> None:
        self.methods, self.rates = tuple(methods), tuple(rates)
        self.seeds = tuple(range(FIRST_SEED, FIRST_SEED + seeds))
        self._device = checked_device(None)
        self._protocols = {layer: _race_protocol(name, data) for layer, name in LAYER.items()}
        self._losses: dict[tuple[str, float, str], dict[str, np.ndarray]] = {}
        self._constants: dict[str, float] = {}

    def losses(
        self, learning_rate: float, split: str, second_layer: str
    ) -> dict[str, Float[np.ndarray, "seeds steps1"]]:
        """By method, after 0, 1, … steps; trained now where that was not done before."""
        return {
            method.name: self._trained(method, learning_rate, second_layer)[split]
            for method in self.methods
        }

    def constant(self, split: str) -> float:
        """Loss of the constant predictor: each output's mean over the training points."""
        if not self._constants:
            table = baselines(
                self._protocols["trained"],
                ELEMENTWISE,
                None,
                self.seeds,
                torch.float32,
                self._device,
            )
            rows = table[table["baseline"] == "constant"]
            self._constants = rows.groupby("split")["loss"].mean().to_dict()
        return self._constants[split]

    def work(self, learning_rate: float, second_layer: str) -> Iterator[str]:
        """Train what is missing, one method at one rate with each `next()`, which says how far it
        has come; rates and layer near to these first."""
        layers = sorted(LAYER, key=lambda layer: layer != second_layer)
        rates = sorted(self.rates, key=lambda rate: abs(np.log(rate / learning_rate)))
        pieces = [(m, rate, layer) for layer in layers for rate in rates for m in self.methods]
        for done, (method, rate, layer) in enumerate(pieces, 1):
            if (method.name, rate, layer) not in self._losses:
                self._trained(method, rate, layer)
                yield (
                    f"Training the other points: {done} of {len(pieces)} "
                    f"({method.name} at {rate:g}, second layer {layer})"
                )

    def _trained(self, method: Method, rate: float, layer: str) -> dict[str, np.ndarray]:
        key = method.name, rate, layer
        if key not in self._losses:
            protocol = self._protocols[layer]
            self._losses[key] = losses_at(method, protocol, rate, self.seeds, self._device)
        return self._losses[key]


def _race_protocol(name: str, data: OwnData | None) -> Protocol:
    """The protocol without the split that tuning keeps back: here nothing is tuned."""
    protocol = PROTOCOLS[name]
    samples = {split: size for split, size in protocol.samples.items() if split in SPLITS}
    protocol = replace(protocol, samples=samples)
    return protocol if data is None else on_own_data(protocol, data)
