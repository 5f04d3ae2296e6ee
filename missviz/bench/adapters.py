"""One training step of an adapted layer against the frozen layer's own, and against PEFT's.

A step is forward, backward (to the adapter and to the layer's input, as in the middle of a network)
and fused Adam. All sides of a case take turns in one process.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, MissConfig, get_peft_model
from torch import Tensor, nn

from missviz.adapters.base import Adapter, Method
from missviz.adapters.bat import Bat
from missviz.adapters.dora import DoRA
from missviz.adapters.linear import linear_with
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.trial import randomise
from missviz.analysis.cost import kept_bytes
from missviz.bench.clock import in_turns, own_garbage, peak_bytes, ratio
from missviz.bench.results import write_result
from missviz.machine import conditions
from missviz.randomness import generator_for, normal

RANK = 64
Config = Callable[[], Any]
LORA: Config = lambda: LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["fc"])  # noqa: E731
DORA: Config = lambda: LoraConfig(  # noqa: E731
    r=RANK, lora_alpha=RANK, use_dora=True, target_modules=["fc"]
)
MISS: Config = lambda: MissConfig(r=RANK, target_modules=["fc"])  # noqa: E731
BAT: Config = lambda: MissConfig(r=RANK, init_weights="bat", target_modules=["fc"])  # noqa: E731

SETTINGS: dict[str, tuple[int, int, torch.dtype]] = {
    # features, tokens, dtype
    "cpu": (2048, 1024, torch.float32),
    "cuda": (4096, 8192, torch.bfloat16),
}
UNEVEN = 2
"""Input features more than a multiple of the rank: there PEFT's MiSS copies its input."""

Case = tuple[Method, Config, dict[str, tuple[str, bool]], int]


def cases() -> list[Case]:
    """Method, PEFT's configuration, {our parameter: (PEFT's, transposed)}, additional inputs."""
    block = {"D": ("miss_block.default", True)}
    product = {n: (f"lora_{n}.default.weight", False) for n in "AB"}
    lengths = {"m": ("lora_magnitude_vector.default.weight", False)}
    return [
        (LoRA(RANK), LORA, product, 0),
        (DoRA(RANK), DORA, product | lengths, 0),
        (MiSS(RANK), MISS, block, 0),
        (MiSS(RANK), MISS, block, UNEVEN),
        (Bat(RANK), BAT, {"D": ("miss_block.default", False)}, 0),
        # PEFT has one Bat; the other two have as many numbers, and a form without ΔW.
        (Bat(RANK, index="input"), BAT, {}, 0),
        (Bat(RANK, side="left"), BAT, {}, 0),
    ]


class Step:
    """One side: a layer, an input that asks for a gradient, and an optimiser."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x.detach().requires_grad_(True)
        trained = [p for p in layer.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=1e-4, fused=True) if trained else None
        self.direction: Tensor | None = None

    def __call__(self) -> None:
        y = self.layer(self.x)
        if self.direction is None:
            self.direction = torch.ones_like(y)
        y.backward(self.direction)
        self.x.grad = None
        if self.optimiser is not None:
            self.optimiser.step()
            self.optimiser.zero_grad()


@own_garbage()
def compare(device: str = "cpu", rounds: int = 15) -> dict[str, Any]:
    """Every case; the layer's own step, ours and PEFT's in turns."""
    place = torch.device(device)
    features, tokens, dtype = SETTINGS[place.type]
    rows = []
    for method, config, pairs, more in cases():
        shape = (features, features + more)
        weight = normal(shape, shape[1] ** -0.5, generator_for("bench", shape))
        linear = linear_with(weight.to(place, dtype))
        x = normal((tokens, shape[1]), 1.0, generator_for("bench", "x")).to(place, dtype)
        ours = method.on(linear)
        peer: Any = get_peft_model(
            nn.ModuleDict({"fc": linear_with(linear.weight.detach().clone())}),
            config(),
            autocast_adapter_dtype=False,
        )
        peer = peer.base_model.model.fc
        randomise(ours, std=0.01)
        difference = _agree(ours, peer, pairs, x) if pairs else None
        frozen = linear_with(linear.weight.detach()).requires_grad_(False)
        sides = {"frozen": frozen, "missviz": ours, "peft": peer}
        steps = {side: Step(layer, x) for side, layer in sides.items()}
        times = in_turns(steps, place, rounds)
        kept = {side: kept_bytes(layer, x) for side, layer in sides.items()}
        rows.append(
            {
                "method": method.name,
                "out_features": shape[0],
                "in_features": shape[1],
                **{f"{side}_ms": 1000 * statistics.median(times[side]) for side in sides},
                **ratio("to_frozen", times["missviz"], times["frozen"]),
                **ratio("to_peft", times["missviz"], times["peft"]),
                **ratio("peft_to_frozen", times["peft"], times["frozen"]),
                "kept_bytes": kept["missviz"],
                "peft_kept_bytes": kept["peft"],
                "peak_bytes": {side: peak_bytes(step, place) for side, step in steps.items()},
                "largest_difference": difference,
            }
        )
    return {
        "part": "adapters",
        "rank": RANK,
        "tokens": tokens,
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": rounds,
        **conditions(device, ("peft",)),
        "rows": rows,
    }


def _agree(ours: Adapter, peer: nn.Module, pairs: dict[str, tuple[str, bool]], x: Tensor) -> float:
    """Give PEFT our numbers; the largest difference in y, relative to its largest entry."""
    with torch.no_grad():
        for name, (path, transposed) in pairs.items():
            value = ours.get_parameter(name)
            peer.get_parameter(path).copy_(value.mT if transposed else value)
        y, wanted = ours(x).float(), peer(x).float()
    return float((y - wanted).abs().max() / wanted.abs().max())


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print the table and write the JSON; returns its path."""
    print(
        f"one step, rank {result['rank']}, {result['tokens']} tokens, {result['dtype']}, "
        f"{result['rounds']} rounds in turns, medians; {result['machine']}, "
        f"{result['threads']} threads, torch {result['versions']['torch']}"
    )
    print(
        f"{'method':18}{'out × in':>13}{'frozen ms':>11}{'ours':>8}{'PEFT':>8}"
        f"{'ours/frozen':>13}{'ours/PEFT':>11}{'PEFT/frozen':>13}{'kept MB, ours and PEFT':>25}"
    )
    for row in result["rows"]:
        shape = f"{row['out_features']} × {row['in_features']}"
        kept = f"{row['kept_bytes'] / 1e6:.1f} {row['peft_kept_bytes'] / 1e6:.1f}"
        print(
            f"{row['method']:18}{shape:>13}{row['frozen_ms']:11.1f}{row['missviz_ms']:8.1f}"
            f"{row['peft_ms']:8.1f}{row['to_frozen']:13.2f}{row['to_peft']:11.2f}"
            f"{row['peft_to_frozen']:13.2f}{kept:>25}"
        )
    return write_result(result, folder)
