"""How long a method takes to start on one layer: `missviz.attach` against `get_peft_model`.

Where the start is no random draw, both must start from the same numbers.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    LoHaConfig,
    LoraConfig,
    LoraGAConfig,
    MissConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor, nn

from missviz.adapters.adalora import AdaLoRA
from missviz.adapters.attach import attach
from missviz.adapters.base import Adapter, Method
from missviz.adapters.bat import Bat
from missviz.adapters.disha import DiSHA
from missviz.adapters.dora import DoRA
from missviz.adapters.fixed_factor import FixedFactor
from missviz.adapters.linear import linear_with
from missviz.adapters.loha import LoHa
from missviz.adapters.lora import LoRA
from missviz.adapters.loraga import LoRAGA
from missviz.adapters.miss import MiSS
from missviz.adapters.mora import MoRA
from missviz.adapters.mos import MoS
from missviz.adapters.olora import OLoRA
from missviz.adapters.pissa import PiSSA
from missviz.adapters.prolora import ProLoRA
from missviz.adapters.s2ft import S2FT
from missviz.adapters.vera import VeRA
from missviz.bench.clock import in_turns, own_garbage, peak_bytes, ratio, timed
from missviz.bench.results import write_result
from missviz.machine import conditions
from missviz.randomness import generator_for, normal

RANK = 64
VERA_RANK = 256
"""PEFT's default."""
FEATURES = {"cpu": 2048, "cuda": 4096}
QUICK = 1.0
"""Seconds below which a start is measured in five times as many rounds."""

Start = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Case:
    """A method, PEFT's configuration of it, and what of the start both must agree on."""

    method: Method
    config: Callable[[], Any] | None = None
    ours: Start | None = None
    theirs: Start | None = None


def lora(**settings: Any) -> Callable[[], Any]:
    return lambda: LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["fc"], **settings)


def miss(**settings: Any) -> Callable[[], Any]:
    return lambda: MissConfig(r=RANK, target_modules=["fc"], **settings)


def product(adapter: Adapter) -> Tensor:
    return adapter.get_parameter("B") @ adapter.get_parameter("A")


def peft_product(layer: nn.Module) -> Tensor:
    A, B = (layer.get_parameter(f"lora_{name}.default.weight") for name in "AB")
    return B @ A


def trained(name: str) -> Start:
    return lambda layer: layer.get_parameter(name)


def cases() -> list[Case]:
    block = trained("miss_block.default")
    return [
        Case(LoRA(RANK), lora()),
        Case(LoRA(RANK, init="gaussian"), lora(init_lora_weights="gaussian")),
        # Signs of singular vectors are free, those of the product are not.
        Case(PiSSA(RANK), lora(init_lora_weights="pissa"), product, peft_product),
        Case(PiSSA(RANK, niter=4), lora(init_lora_weights="pissa_niter_4")),
        Case(OLoRA(RANK), lora(init_lora_weights="olora"), product, peft_product),
        Case(
            LoRAGA(RANK, niter=4),
            lora(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig()),
        ),
        Case(
            DoRA(RANK),
            lora(use_dora=True),
            trained("m"),
            trained("lora_magnitude_vector.default.weight"),
        ),
        Case(
            AdaLoRA(RANK),
            lambda: AdaLoraConfig(
                init_r=RANK,
                target_r=RANK,
                lora_alpha=RANK,
                total_step=1000,
                target_modules=["fc"],
            ),
        ),
        Case(VeRA(VERA_RANK), lambda: VeraConfig(r=VERA_RANK, target_modules=["fc"])),
        Case(LoHa(RANK), lambda: LoHaConfig(r=RANK, alpha=RANK, target_modules=["fc"])),
        Case(MiSS(RANK), miss(), lambda adapter: adapter.get_parameter("D").mT, block),
        Case(Bat(RANK), miss(init_weights="bat"), trained("D"), block),
        # What PEFT does not have.
        *map(
            Case,
            [
                LoRAGA(RANK),
                MoRA(RANK),
                ProLoRA(RANK),
                MoS(RANK, RANK),
                FixedFactor(RANK, "orthogonal"),
                S2FT(RANK),
                DiSHA(RANK, RANK),
            ],
        ),
    ]


@own_garbage()
def compare(device: str = "cpu", rounds: int = 3, features: int | None = None) -> dict[str, Any]:
    """Every method, ours and PEFT's in turns.

    Slow starts take `rounds` turns, others five times as many.
    """
    place = torch.device(device)
    size = features or FEATURES[place.type]
    weight, gradient = (
        normal((size, size), size**-0.5, generator_for("bench init", what)).to(place).float()
        for what in ("weight", "gradient")
    )
    return {
        "part": "init",
        "features": size,
        "rank": RANK,
        "dtype": "float32",
        **conditions(device, ("peft",)),
        "rows": [_row(case, weight, gradient, place, rounds) for case in cases()],
    }


def _row(
    case: Case, weight: Tensor, gradient: Tensor, device: torch.device, rounds: int
) -> dict[str, Any]:
    method, config = case.method, case.config
    model = nn.ModuleDict({"fc": linear_with(weight)})
    # Its gradient in W₀ is `gradient`.
    loss = (lambda model: (model["fc"].weight * gradient).sum()) if method.needs_gradient else None

    def ours() -> Any:
        return attach(model, method, "fc", calibration=loss)["fc"]

    fresh: list[nn.ModuleDict] = []  # PEFT changes the model that it is given

    def theirs() -> Any:
        assert config is not None
        return get_peft_model(fresh.pop(), config()).base_model.model.fc

    sides = {"missviz": ours} if config is None else {"missviz": ours, "peft": theirs}
    fresh.append(_copy(weight, gradient))
    started, seconds = {}, []
    for side, work in sides.items():
        started[side], taken = timed(work, device)
        seconds.append(taken)
    difference = None
    if case.ours is not None and case.theirs is not None:
        mine, other = case.ours(started["missviz"]), case.theirs(started["peft"])
        difference = float(
            (mine - other).detach().abs().max() / other.detach().abs().max().clamp(min=1e-30)
        )
    turns = rounds if max(seconds) > QUICK else 5 * rounds
    fresh += [_copy(weight, gradient) for _ in range(turns + 1)]
    times = in_turns(sides, device, turns, warm_ups=0)
    row = {
        "method": method.name,
        "rounds": turns,
        "missviz_ms": 1000 * statistics.median(times["missviz"]),
        "peft_ms": None,
        "largest_difference": difference,
        "peak_bytes": {side: peak_bytes(work, device) for side, work in sides.items()},
    }
    if config is not None:
        row["peft_ms"] = 1000 * statistics.median(times["peft"])
        row |= ratio("to_peft", times["missviz"], times["peft"])
    return row


def _copy(weight: Tensor, gradient: Tensor) -> nn.ModuleDict:
    """A model for PEFT to adapt, with the gradient where PEFT's LoRA-GA expects it."""
    linear: Any = linear_with(weight.clone())
    linear._peft_loraga_grad = gradient.clone()
    return nn.ModuleDict({"fc": linear})


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print the table and write the JSON; returns its path."""
    print(
        f"starting on one {result['features']} × {result['features']} layer, {result['dtype']}, "
        f"in turns, medians; {result['machine']}, {result['threads']} threads, "
        f"torch {result['versions']['torch']}, PEFT {result['versions']['peft']}"
    )
    print(
        f"{'method':24}{'rounds':>7}{'ours ms':>10}{'PEFT ms':>10}{'ours/PEFT (quartiles)':>26}"
        f"{'difference':>12}"
    )
    for row in result["rows"]:
        line = f"{row['method']:24}{row['rounds']:7}{row['missviz_ms']:10.1f}"
        if row["peft_ms"] is not None:
            spread = f"{row['to_peft']:.2f} ({row['to_peft_low']:.2f}-{row['to_peft_high']:.2f})"
            line += f"{row['peft_ms']:10.1f}{spread:>26}"
        if row["largest_difference"] is not None:
            line += f"{row['largest_difference']:12.0e}"
        print(line)
    return write_result(result, folder)
