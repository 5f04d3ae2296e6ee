"""What `mv.spectrum` of an adapter takes: against LAPACK's SVD of the dense ΔW (on a GPU:
cuSOLVER's), and against the bare product of the same factors, for every method that has factors.

And `mv.spectra` and `mv.inspect_adapter` of a model with adapters on all linear layers of a
7-billion-weight model's size.
"""

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

import missviz as mv
from missviz.adapters.base import Adapter, Method
from missviz.adapters.trial import bound, random_linear, randomise
from missviz.adapters.update import product_spectrum
from missviz.analysis.products import NEGLIGIBLE
from missviz.bench.clock import in_turns, one_core_clock, own_garbage, peak_bytes, ratio
from missviz.bench.results import write_result
from missviz.machine import conditions

RANK = 64
SIZES = ((512, 512), (1024, 1024), (2048, 2048), (4096, 4096))
"""(out, in). The dense one takes most of a minute at 4096 × 4096 on two cores."""
REPEATS = 10
"""Spectra of ours in one turn, as they are short."""
TURNS = 60
"""Turns of each thin method, for one spectrum and its bare product."""
THIN: tuple[Method, ...] = (
    mv.LoRA(RANK),
    mv.PiSSA(RANK, niter=2),
    mv.AdaLoRA(RANK),
    mv.VeRA(RANK),
    mv.MoS(RANK, RANK),
    mv.LoHa(8),
    mv.ProLoRA(RANK),
    mv.FixedFactor(RANK, "orthogonal"),
    mv.S2FT(RANK),
    mv.S2FT(RANK, "rows"),
    mv.MiSS(RANK),
    mv.MiSS(RANK, layout="block"),
    mv.MiSS(RANK, share="rows"),
    mv.MiSS(RANK, mini=RANK),
    mv.DiSHA(RANK, RANK),
)
"""Methods whose ΔW is a product with r = 64 (PiSSA's has 128; LoHa's 8² = 64)."""

LLAMA_7B = {
    **dict.fromkeys([f"self_attn.{name}_proj" for name in "qkvo"], (4096, 4096)),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
"""(out, in) of the linear layers in each of Llama-2-7B's 32 layers."""
LAYERS = 32


def adapted(method: Method, linear: nn.Linear, name: object = "") -> Adapter:
    """An adapter in float32, moved away from its start."""
    adapter = bound(method, linear)
    randomise(adapter, name, std=0.01)
    return adapter


@own_garbage()
def compare(
    device: str = "cpu",
    rounds: int = 3,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    layers: int = LAYERS,
    methods: tuple[Method, ...] = THIN,
) -> dict[str, Any]:
    """Every size, both sides in turns; every thin method on the largest; then a whole model."""
    place = torch.device(device)
    clock, _ = one_core_clock() if place.type == "cpu" else ("CUDA events", None)
    return {
        "part": "spectra",
        "rank": RANK,
        "rounds": rounds,
        "clock": clock,
        **conditions(device),
        "rows": [_one_update(shape, place, rounds) for shape in sizes],
        "methods": [_one_method(method, sizes[-1], place) for method in methods],
        "model": _whole_model(layers, place, rounds),
    }


def _one_update(shape: tuple[int, int], device: torch.device, rounds: int) -> dict[str, Any]:
    adapter = adapted(mv.LoRA(RANK), random_linear(*shape, torch.float32).to(device))
    left, right = (factor.detach().double() for factor in _factors(adapter))
    dense = left @ right
    sides = {
        "missviz": lambda: [mv.spectrum(adapter) for _ in range(REPEATS)],
        "svdvals": lambda: torch.linalg.svdvals(dense),
    }
    found, wanted = mv.spectrum(adapter), torch.linalg.svdvals(dense)  # also the warm-up
    difference = (found - wanted).abs()
    not_small = wanted >= NEGLIGIBLE * wanted[0]
    times = in_turns(sides, device, rounds, warm_ups=0, clock=one_core_clock()[1])
    ours = [seconds / REPEATS for seconds in times["missviz"]]
    return {
        "out_features": shape[0],
        "in_features": shape[1],
        "missviz_ms": 1000 * statistics.median(ours),
        "svdvals_ms": 1000 * statistics.median(times["svdvals"]),
        **ratio("times_faster", times["svdvals"], ours),
        "peak_bytes": {side: peak_bytes(work, device) for side, work in sides.items()}
        if device.type == "cuda"
        else None,
        "largest_difference": float(difference.max() / wanted[0]),
        "largest_own_difference": float((difference / wanted)[not_small].max()),
    }


def _factors(adapter: Adapter) -> tuple[torch.Tensor, torch.Tensor]:
    thin = adapter.factors()
    assert thin is not None, f"{adapter.method} has no factors"
    return thin


def _one_method(method: Method, shape: tuple[int, int], device: torch.device) -> dict[str, Any]:
    adapter = adapted(method, random_linear(*shape, torch.float32).to(device))
    left, right = (factor.detach().contiguous() for factor in _factors(adapter))
    sides = {
        "missviz": lambda: mv.spectrum(adapter),
        "bare product": lambda: product_spectrum(left, right),
    }
    times = in_turns(sides, device, TURNS, clock=one_core_clock()[1])
    found, wanted = (work() for work in sides.values())
    return {
        "method": method.name,
        "out_features": shape[0],
        "in_features": shape[1],
        "rank_of_factors": left.shape[1],
        "factor_bytes": 4 * (left.numel() + right.numel()),
        "missviz_ms": 1000 * statistics.median(times["missviz"]),
        "bare_ms": 1000 * statistics.median(times["bare product"]),
        **ratio("to_bare", times["missviz"], times["bare product"]),
        "peak_bytes": {side: peak_bytes(work, device) for side, work in sides.items()},
        "largest_difference": float((found - wanted).abs().max() / wanted[0]),
    }


def model_with_adapters(layers: int, device: torch.device) -> nn.Module:
    """LoRA on every linear layer of each block; layers of one shape stand on one W₀, which a
    machine of this size could not hold for each of them."""
    shapes = dict.fromkeys(LLAMA_7B.values())
    bases = {shape: random_linear(*shape, torch.float32, False).to(device) for shape in shapes}
    blocks = nn.ModuleList()
    for layer in range(layers):
        block = nn.Module()
        for name, shape in LLAMA_7B.items():
            adapter = adapted(mv.LoRA(RANK), bases[shape], (layer, name))
            block.add_module(name.replace(".", "_"), adapter)
        blocks.append(block)
    return blocks


def _whole_model(layers: int, device: torch.device, rounds: int) -> dict[str, Any]:
    model = model_with_adapters(layers, device)
    adapters = {name: part for name, part in model.named_modules() if isinstance(part, Adapter)}
    together = mv.spectra(model)  # also the warm-up
    differences = [
        (together[name].values - mv.spectrum(adapter)).abs().max() / together[name].values[0]
        for name, adapter in adapters.items()
    ]
    sides = {
        "spectra": lambda: mv.spectra(model),
        "inspect_adapter": lambda: mv.inspect_adapter(model),
    }
    times = in_turns(sides, device, rounds, warm_ups=0, clock=one_core_clock()[1])
    measured: dict[str, Any] = {}
    for side, seconds in times.items():
        measured[side] = {
            "seconds": statistics.median(seconds),
            "seconds_lowest": min(seconds),
            "seconds_highest": max(seconds),
            "peak_bytes": peak_bytes(sides[side], device),
        }
    return {
        "modules": len(adapters),
        "factor_bytes": sum(
            4 * factor.numel() for adapter in adapters.values() for factor in _factors(adapter)
        ),
        **measured,
        "largest_difference_to_one_by_one": float(torch.stack(differences).max()),
    }


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print the tables and write the JSON; returns its path."""
    print(
        f"rank {result['rank']}, all singular values in float64, {result['rounds']} rounds in "
        f"turns ({REPEATS} of ours in each), medians; {result['machine']}, "
        f"{result['threads']} threads, clock: {result['clock']}, "
        f"torch {result['versions']['torch']}"
    )
    print(
        f"{'out × in':>13}{'ours ms':>10}{'svdvals ms':>13}{'times faster (quartiles)':>29}"
        f"{'difference / σ₁':>18}{'/ own σ':>10}"
    )
    for row in result["rows"]:
        shape = f"{row['out_features']} × {row['in_features']}"
        spread = "{times_faster:.0f} ({times_faster_low:.0f}-{times_faster_high:.0f})"
        print(
            f"{shape:>13}{row['missviz_ms']:10.2f}{row['svdvals_ms']:13.1f}"
            f"{spread.format(**row):>29}{row['largest_difference']:18.0e}"
            f"{row['largest_own_difference']:10.0e}"
        )
    print(
        f"{'mv.spectrum(adapter)':24}{'out × in':>13}{'ours ms':>10}{'bare product ms':>17}"
        f"{'ours/bare (quartiles)':>25}"
    )
    for row in result["methods"]:
        shape = f"{row['out_features']} × {row['in_features']}"
        spread = "{to_bare:.2f} ({to_bare_low:.2f}-{to_bare_high:.2f})".format(**row)
        print(
            f"{row['method']:24}{shape:>13}{row['missviz_ms']:10.2f}{row['bare_ms']:17.2f}"
            f"{spread:>25}"
        )
    model = result["model"]
    print(
        f"{model['modules']} modules of a 7B model, {model['factor_bytes'] / 1e6:.0f} MB of factors"
    )
    for side in ("spectra", "inspect_adapter"):
        row = model[side]
        print(
            f"  mv.{side}(model): {row['seconds']:.2f} s "
            f"({row['seconds_lowest']:.2f}-{row['seconds_highest']:.2f})"
        )
    return write_result(result, folder)
