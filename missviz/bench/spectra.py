"""Exact singular values from factors, against LAPACK's (on a GPU: cuSOLVER's) of the dense ΔW.

And all modules of an adapter of a 7-billion-weight model's size, whose factors are in memory.
"""

import statistics
from pathlib import Path
from typing import Any

import torch

from missviz.analysis.products import NEGLIGIBLE, Product
from missviz.analysis.spectra import spectra, spectrum
from missviz.bench.clock import in_turns, own_garbage, peak_bytes, ratio
from missviz.bench.results import write_result
from missviz.machine import conditions
from missviz.randomness import generator_for, normal

RANK = 64
SIZES = ((512, 512), (1024, 1024), (2048, 2048), (4096, 4096))
"""(out, in). The dense one takes most of a minute at 4096 × 4096 on two cores."""
REPEATS = 10
"""Spectra of ours in one turn, as they are short."""

LLAMA_7B = {
    **dict.fromkeys([f"self_attn.{name}_proj" for name in "qkvo"], (4096, 4096)),
    "mlp.gate_proj": (11008, 4096),
    "mlp.up_proj": (11008, 4096),
    "mlp.down_proj": (4096, 11008),
}
"""(out, in) of the linear layers in each of Llama-2-7B's 32 layers."""
LAYERS = 32


def drawn(shape: tuple[int, int], name: object, device: torch.device) -> Product:
    """ΔW of rank 64 with float32 factors, as an adapter has them."""
    out_features, in_features = shape
    left, right = (
        normal(size, 0.01, generator_for("spectra", name, side)).to(device, torch.float32)
        for side, size in (("left", (out_features, RANK)), ("right", (RANK, in_features)))
    )
    return Product(left, right)


@own_garbage()
def compare(
    device: str = "cpu",
    rounds: int = 3,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    layers: int = LAYERS,
) -> dict[str, Any]:
    """Every size, both sides in turns; then a whole model."""
    place = torch.device(device)
    return {
        "part": "spectra",
        "rank": RANK,
        "rounds": rounds,
        **conditions(device),
        "rows": [_one_update(shape, place, rounds) for shape in sizes],
        "model": _whole_model(layers, place, rounds),
    }


def _one_update(shape: tuple[int, int], device: torch.device, rounds: int) -> dict[str, Any]:
    update = drawn(shape, shape, device)
    dense = update.left.double() @ update.right.double()
    sides = {
        "missviz": lambda: [spectrum(update) for _ in range(REPEATS)],
        "svdvals": lambda: torch.linalg.svdvals(dense),
    }
    found, wanted = spectrum(update), torch.linalg.svdvals(dense)  # also the warm-up
    difference = (found - wanted).abs()
    not_small = wanted >= NEGLIGIBLE * wanted[0]
    times = in_turns(sides, device, rounds, warm_ups=0)
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


def _whole_model(layers: int, device: torch.device, rounds: int) -> dict[str, Any]:
    updates = {
        f"layers.{layer}.{name}": drawn(shape, (layer, name), device)
        for layer in range(layers)
        for name, shape in LLAMA_7B.items()
    }
    together = spectra(updates)  # also the warm-up
    differences = [
        (together[name].values - spectrum(update)).abs().max() / together[name].values[0]
        for name, update in updates.items()
    ]
    work = {"missviz": lambda: spectra(updates)}
    seconds = in_turns(work, device, rounds, warm_ups=0)["missviz"]
    return {
        "modules": len(updates),
        "factor_bytes": sum(4 * update.num_parameters for update in updates.values()),
        "seconds": statistics.median(seconds),
        "seconds_lowest": min(seconds),
        "seconds_highest": max(seconds),
        "peak_bytes": peak_bytes(work["missviz"], device),
        "largest_difference_to_one_by_one": float(torch.stack(differences).max()),
    }


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print the tables and write the JSON; returns its path."""
    print(
        f"rank {result['rank']}, all singular values in float64, {result['rounds']} rounds in "
        f"turns ({REPEATS} of ours in each), medians; {result['machine']}, "
        f"{result['threads']} threads, torch {result['versions']['torch']}"
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
    model = result["model"]
    print(
        f"{model['modules']} modules of a 7B model, {model['factor_bytes'] / 1e6:.0f} MB of "
        f"factors: {model['seconds']:.2f} s "
        f"({model['seconds_lowest']:.2f}-{model['seconds_highest']:.2f})"
    )
    return write_result(result, folder)
