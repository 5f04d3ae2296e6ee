"""`missviz inspect` on an adapter of a 7-billion-weight model's size: seconds and peak memory.

    python benchmarks/inspect_7b.py [--dtype float32] [--check]

Writes a LoRA adapter of random numbers in PEFT's format into a temporary folder (32 layers, 224
modules, rank 64), and runs the command on it in a process of its own. --check compares one module
with an SVD of its ΔW itself (minutes).
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from missviz.bench.spectra import LAYERS, LLAMA_7B, RANK
from missviz.randomness import generator_for, normal

CHECKED = "model.layers.31.self_attn.q_proj"


def write_adapter(folder: Path, dtype: torch.dtype) -> None:
    tensors = {}
    for layer in range(LAYERS):
        for name, (out_features, in_features) in LLAMA_7B.items():
            module = f"model.layers.{layer}.{name}"
            for letter, shape in (("A", (RANK, in_features)), ("B", (out_features, RANK))):
                drawn = normal(shape, 0.01, generator_for(module, letter)).to(dtype)
                tensors[f"base_model.model.{module}.lora_{letter}.weight"] = drawn
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({name.split(".")[-1] for name in LLAMA_7B})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def largest_error(folder: Path, found: list[float]) -> float:
    """Of the singular values, relative to the largest."""
    tensors = load_file(folder / "adapter_model.safetensors")
    A, B = (tensors[f"base_model.model.{CHECKED}.lora_{n}.weight"].double() for n in "AB")
    wanted = torch.linalg.svdvals(B @ A)[: len(found)]
    return float((torch.tensor(found, dtype=torch.float64) - wanted).abs().max() / wanted[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: what starts a program counts into that program's peak.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_adapter, args=(folder, getattr(torch, options.dtype))
        )
        writer.start()
        writer.join()
        command = [sys.executable, "-m", "missviz", "inspect", name, "--json"]
        started = time.perf_counter()
        with (folder / "out.json").open("w") as out:
            process = subprocess.Popen(command, stdout=out)
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit("missviz inspect failed")
        # ru_maxrss is in KiB, on macOS in bytes.
        peak = used.ru_maxrss / 2 ** (30 if sys.platform == "darwin" else 20)
        told = json.loads((folder / "out.json").read_text())
        modules = {row["module"]: row for row in told["modules"]}
        print(
            f"{len(modules)} modules, rank {RANK}, {options.dtype}: {seconds:.1f} s "
            f"({used.ru_utime + used.ru_stime:.1f} s of processor time), peak {peak:.2f} GiB"
        )
        if options.check:
            error = largest_error(folder, modules[CHECKED]["singular_values"])
            print(f"{CHECKED}: singular values within {error:.0e} of an SVD of ΔW")


if __name__ == "__main__":
    main()
