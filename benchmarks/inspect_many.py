"""`read_peft` and `inspect_adapter` on an adapter of very many modules: seconds of both.

    python benchmarks/inspect_many.py [--modules 20000] [--features 64] [--rank 4] [--patterns]

Writes a LoRA adapter on the experts of a mixture of experts into a temporary folder, and reads it
in this process. --patterns gives every module a name of its own in rank_pattern and alpha_pattern,
as tools that extract adapters from checkpoints do. Half as many modules are measured first: the
time must be half as long.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import missviz as mv
from missviz.randomness import generator_for, normal

EXPERTS = 128


def write_adapter(
    folder: Path, modules: int, features: int = 64, rank: int = 4, patterns: bool = False
) -> None:
    """A folder as PEFT writes it, with the same random factors in every module."""
    A, B = (
        normal(shape, 0.01, generator_for("inspect many", shape)).float()
        for shape in ((rank, features), (features, rank))
    )
    names = [
        f"model.layers.{index // EXPERTS}.mlp.experts.{index % EXPERTS}.up_proj"
        for index in range(modules)
    ]
    tensors = {
        f"base_model.model.{name}.lora_{letter}.weight": tensor.clone()
        for name in names
        for letter, tensor in (("A", A), ("B", B))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["up_proj"]}
    if patterns:
        config |= {"r": 2 * rank, "rank_pattern": dict.fromkeys(names, rank)}
        config |= {"alpha_pattern": dict.fromkeys(names, rank)}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def measured(
    modules: int, features: int, rank: int, patterns: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds of `read_peft` and of `inspect_adapter`: that passed, and the processor's."""

    def now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as name:
        write_adapter(Path(name), modules, features, rank, patterns)
        started = now()
        adapter = mv.read_peft(name)
        read = now()
        table = mv.inspect_adapter(adapter)
        done = now()
    assert len(table) == modules
    return _between(started, read), _between(read, done)


def _between(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    return end[0] - start[0], end[1] - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--patterns", action="store_true")
    options = parser.parse_args()
    measured(10, options.features, options.rank, False)  # what loads at first use
    for modules in (options.modules // 2, options.modules):
        read, inspected = measured(modules, options.features, options.rank, options.patterns)
        print(
            f"{modules} modules of {options.features} × {options.features}, rank {options.rank}, "
            f"{torch.get_num_threads()} threads: read in {read[0]:.1f} s, inspected in "
            f"{inspected[0]:.1f} s ({read[1]:.1f} and {inspected[1]:.1f} of the processor)"
        )


if __name__ == "__main__":
    main()
