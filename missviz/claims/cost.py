"""Claims on what methods cost: numbers, arithmetic, bytes kept for the backward pass, time.

Numbers and bytes are counted. Times are taken in turns, on one core of a CPU or on a GPU: each seed
is a layer of its own with a median of some rounds, so an interval is that of such medians.
"""

import statistics
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters.adalora import AdaLoRA
from missviz.adapters.attach import attach
from missviz.adapters.base import Method
from missviz.adapters.bat import Bat
from missviz.adapters.full import FullFineTuning
from missviz.adapters.linear import linear_with
from missviz.adapters.loha import LoHa
from missviz.adapters.lora import LoRA
from missviz.adapters.miss import MiSS
from missviz.adapters.pissa import PiSSA
from missviz.adapters.vera import VeRA
from missviz.analysis.cost import cost, kept_bytes
from missviz.bench.clock import in_turns, one_core_clock, own_garbage
from missviz.bench.step import Step
from missviz.claims.claim import Claim, Evidence, Exact, Larger
from missviz.claims.published_figures import BAT, LORA, MISS, published_difference
from missviz.machine import one_thread
from missviz.randomness import generator_for, normal

RANK = 64
HALF = RANK // 2
"""LoRA's rank with as many numbers on a square layer."""
ROUNDS = 3
SIZES = {"cpu": (2048, 1024, torch.float32), "cuda": (4096, 8192, torch.bfloat16)}
"""Features, tokens and dtype of a timed step. PEFT's benchmark has some 1000 tokens in a batch."""
START = 1024
"""Features of the layer on which starts are timed."""


# --- Counted ----------------------------------------------------------------------------------


def table_2_3_count(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    methods = [
        FullFineTuning(),
        LoRA(RANK),
        LoRA(RANK, freeze_a=True),
        AdaLoRA(RANK),
        LoHa(RANK),
        VeRA(RANK),
        MiSS(RANK),
    ]
    table = cost(methods).dropna(subset="published_parameters").set_index("method")
    columns = {
        "trained numbers": ("num_parameters", "published_parameters"),
        "arithmetic": ("extra_forward_flops", "published_flops"),
    }
    found = {}
    for name, (counted, published) in columns.items():
        ours, theirs = (table[column].to_numpy(dtype=float) for column in (counted, published))
        apart = np.abs(ours / theirs - 1)
        worst = {
            str(method): {"counted": int(ours[n]), "published": int(theirs[n])}
            for n, method in enumerate(table.index)
            if apart[n] > LEFT_OUT
        }
        found[name] = Evidence.exact(float(apart.max()), len(table), deviate=worst)
    return found


LEFT_OUT = 1 / RANK


def kept(layer: nn.Module, size: int = 1024, tokens: int = 256) -> int:
    return kept_bytes(layer, normal((tokens, size), 1.0, generator_for("claims", "x")).float())


def a_layer(size: int, seed: int = 0) -> nn.Linear:
    """N(0, 1/size) weights, in float32."""
    return linear_with(normal((size, size), size**-0.5, generator_for("claims", seed)).float())


# --- Timed ------------------------------------------------------------------------------------


@own_garbage()
@one_thread()
def step_seconds(
    layers: Mapping[str, Any], seeds: Sequence[int], device: str
) -> dict[str, Float[np.ndarray, " seed"]]:
    """Seconds of a training step by side, in turns: for each seed the median of ROUNDS.

    `layers` has for each side what makes a layer of a frozen one: a `Method`, or a function.
    """
    place = torch.device(device)
    size, tokens, dtype = SIZES[place.type]
    _, clock = one_core_clock()
    found: dict[str, list[float]] = {side: [] for side in layers}
    for seed in seeds:
        base = a_layer(size, seed).to(place, dtype)
        x = normal((tokens, size), 1.0, generator_for("claims", seed, "x")).to(place, dtype)
        steps = {
            side: Step(one.on(base) if isinstance(one, Method) else one(base), x)
            for side, one in layers.items()
        }
        times = in_turns(steps, place, ROUNDS, warm_ups=1, clock=clock)
        for side, seconds in times.items():
            found[side].append(statistics.median(seconds))
    return {side: np.array(seconds) for side, seconds in found.items()}


def milliseconds(times: Mapping[str, Float[np.ndarray, " seed"]]) -> dict[str, float]:
    return {side: round(1000 * float(np.median(each)), 3) for side, each in times.items()}


def where(device: str) -> dict[str, Any]:
    """What a timing holds for."""
    size, tokens, dtype = SIZES[torch.device(device).type]
    seen = {"layer": f"{size} × {size}", "tokens": tokens, "dtype": str(dtype)[6:]}
    return seen if device.startswith("cuda") else {**seen, "GPU": "not measured"}


def cheaper_than_lora(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """MiSS r=64 against LoRA r=32, as in Table 8; on a square layer both train as many numbers."""
    bytes_kept = {name: kept(one.on(a_layer(1024))) for name, one in EQUAL.items()}
    times = step_seconds(EQUAL, seeds, device)
    found = {
        "bytes kept by a layer": Evidence.exact(
            1 - bytes_kept["MiSS"] / bytes_kept["LoRA"], 1, **bytes_kept
        ),
        "time of a step": Evidence.of(
            1 - times["MiSS"] / times["LoRA"], milliseconds=milliseconds(times), **where(device)
        ),
    }
    for name, column in (("memory", "memory_bytes"), ("time", "train_seconds")):
        ratio = published_difference(MISS, LORA, column, share=True)
        saved, most, least = (
            1 - float(np.exp(part)) for part in (ratio.effect, ratio.low, ratio.high)
        )
        found[f"published {name}"] = Evidence(saved, least, most, ratio.n)
    return found


EQUAL: dict[str, Method] = {"LoRA": LoRA(HALF), "MiSS": MiSS(RANK)}


def bone_ten_percent(seeds: Sequence[int], device: str) -> Evidence:
    """Bone is MiSS."""
    times = step_seconds(EQUAL, seeds, device)
    saved = 1 - times["MiSS"] / times["LoRA"]
    return Evidence.of(saved, milliseconds=milliseconds(times), **where(device))


def bat_twice_as_slow(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """Seconds of Bat over MiSS at equal numbers: PEFT's own layers, and ours."""
    times = step_seconds(BATS, seeds, device)
    found = {
        name: Evidence.of(times[name] / times[PEER if name == "PEFT's Bat" else "MiSS"])
        for name in times
        if "Bat" in name
    }
    published = published_difference(BAT, MISS, "train_seconds", share=True)
    found["published"] = times_as_much(published, milliseconds=milliseconds(times), **where(device))
    return found


def bat_more_memory(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """Bytes that Bat's layers keep over those that MiSS's keep."""
    bytes_kept = {
        side: kept(one.on(a_layer(1024)) if isinstance(one, Method) else one(a_layer(1024)))
        for side, one in BATS.items()
    }
    found = {
        name: Evidence.exact(
            bytes_kept[name] / bytes_kept[PEER if name == "PEFT's Bat" else "MiSS"], 1
        )
        for name in bytes_kept
        if "Bat" in name
    }
    published = published_difference(BAT, MISS, "memory_bytes", share=True)
    found["published"] = times_as_much(published, kept_bytes=bytes_kept)
    return found


def times_as_much(logarithm: Evidence, **seen: Any) -> Evidence:
    effect, low, high = np.exp([logarithm.effect, logarithm.low, logarithm.high]).tolist()
    return Evidence(effect, low, high, logarithm.n, seen)


def peft_layer(base: nn.Linear, init_weights: bool | str) -> nn.Module:
    """PEFT's own MiSS on a copy of a layer."""
    peft = required_peft()
    config = peft.MissConfig(r=RANK, init_weights=init_weights, target_modules=["fc"])
    model: Any = peft.get_peft_model(
        nn.ModuleDict({"fc": linear_with(base.weight.detach().clone())}),
        config,
        autocast_adapter_dtype=False,
    )
    layer: nn.Module = model.base_model.model.fc
    return layer


PEER = "PEFT's MiSS"
BATS: dict[str, Any] = {
    PEER: lambda base: peft_layer(base, True),
    "PEFT's Bat": lambda base: peft_layer(base, "bat"),
    "MiSS": MiSS(RANK),
    "our Bat, as PEFT's": Bat(RANK),
    "our Bat input": Bat(RANK, index="input"),
    "our Bat left": Bat(RANK, side="left"),
}
"""By side what makes a layer of a frozen one."""


def required_peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'this claim is about PEFT itself, which is not installed; pip install "missviz[peft]"'
        ) from error
    return peft


@own_garbage()
@one_thread()
def fast_start(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """`attach` to one layer; how many times as long as MiSS each of the others takes."""
    place = torch.device(device)
    others: dict[str, Method] = {
        "LoRA": LoRA(RANK),
        "PiSSA": PiSSA(RANK),
        "PiSSA by a fast SVD": PiSSA(RANK, niter=4),
    }
    _, clock = one_core_clock()
    times: dict[str, list[float]] = {"MiSS": [], **{name: [] for name in others}}
    for seed in seeds:
        model = nn.ModuleDict({"fc": a_layer(START, seed).to(place)})
        starts = {
            name: lambda method=method, model=model, seed=seed: attach(
                model, method, "fc", seed=seed
            )
            for name, method in {"MiSS": MiSS(RANK), **others}.items()
        }
        quick = {name: start for name, start in starts.items() if name != "PiSSA"}
        turns = in_turns(quick, place, ROUNDS, warm_ups=1, clock=clock)
        turns |= in_turns({"PiSSA": starts["PiSSA"]}, place, 1, warm_ups=0, clock=clock)
        for name, seconds in turns.items():
            times[name].append(statistics.median(seconds))
    taken = {name: np.array(seconds) for name, seconds in times.items()}
    found = {name: taken[name] / taken["MiSS"] for name in others}
    seen = {"layer": f"{START} × {START}", "milliseconds": milliseconds(taken)}
    return {name: Evidence.of(ratio, **seen) for name, ratio in found.items()}


# --- LoRA-FA ----------------------------------------------------------------------------------


class FromEmbeddings(nn.Module):
    """A language model whose input is its embeddings: `kept_bytes` gives a layer numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=x, use_cache=False).logits
        return logits


def lora_fa_memory(seeds: Sequence[int], device: str) -> dict[str, Evidence]:
    """Bytes kept by a small Llama with PEFT's LoRA, and with its LoRA-FA before and after one
    `with model.disable_adapter()`, which is how the benchmark measures the base model's loss."""
    peft = required_peft()
    from peft.optimizers import create_lorafa_optimizer

    size, rank = 64, 8
    x = normal((2, 32, size), 1.0, generator_for("claims", "embeddings")).float()

    def bytes_of(model: nn.Module) -> int:
        return kept_bytes(FromEmbeddings(model), x)

    def adapted() -> Any:
        config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
        with warnings.catch_warnings():
            # PEFT asks transformers for something under its old name.
            warnings.simplefilter("ignore", FutureWarning)
            return peft.get_peft_model(small_llama(size), config)

    whole = bytes_of(adapted())
    model = adapted()
    optimiser = create_lorafa_optimizer(model, r=rank, lora_alpha=rank, lr=1e-3)
    matrices = [part for name, part in model.named_parameters() if "lora_A" in name]
    found = {}
    for name in ("as made", "after disable_adapter()"):
        if name != "as made":
            with model.disable_adapter():
                pass
        now = bytes_of(model)
        asked = sum(part.requires_grad for part in matrices)
        before = [part.detach().clone() for part in matrices]
        model(inputs_embeds=x).logits.square().mean().backward()
        optimiser.step()
        moved = sum(not torch.equal(part, old) for part, old in zip(matrices, before, strict=True))
        found[name] = Evidence.exact(
            1 - now / whole,
            1,
            bytes={"LoRA": whole, "LoRA-FA": now},
            matrices_A={
                "all": len(matrices),
                "ask for a gradient": asked,
                "moved by a step": moved,
            },
        )
    return found


def small_llama(size: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model


CLAIMS = (
    Claim(
        id="table-2-3-count",
        claim="Tables 2 and 3 count what the methods train and compute.",
        said="MiSS v12 Tables 2 and 3",
        test="each formula beside what a layer of 1024 × 1024 has and computes beyond W₀x, r = 64",
        unit="largest relative deviation",
        rule=Exact(LEFT_OUT),
        because="MiSS's sums are one part in r of its products, and only products are counted",
        seconds=5,
        measure=table_2_3_count,
        seeds=1,
    ),
    Claim(
        id="cheaper-than-lora",
        claim="MiSS needs less memory and less time than LoRA.",
        said="MiSS v12 Tables 3 and 8; DiSHA v6 Table 6",
        test="bytes kept and a training step, MiSS r=64 and LoRA r=32; all published runs of both",
        unit="share of LoRA's that is saved",
        rule=Larger(0.05),
        because="published times of one configuration repeat to about 3 %",
        seconds=20,
        measure=cheaper_than_lora,
    ),
    Claim(
        id="bone-ten-percent",
        claim="Bone, today's MiSS, trains nearly 10 % faster than LoRA.",
        said="DiSHA v6 §5",
        test="a training step of one layer, equal numbers, in turns",
        unit="share of LoRA's time that is saved",
        rule=Larger(0.05),
        because="half of what was said",
        seconds=20,
        measure=bone_ten_percent,
    ),
    Claim(
        id="bat-twice-as-slow",
        claim="Bat is twice as slow as MiSS.",
        said="README of PEFT's MiSS",
        test="a training step at b = r, PEFT's own layers and ours in turns; all published runs",
        unit="times MiSS's",
        rule=Larger(1.5),
        because="half-way from equal to twice",
        seconds=75,
        measure=bat_twice_as_slow,
    ),
    Claim(
        id="bat-more-memory",
        claim="Bat needs more memory than MiSS.",
        said="README of PEFT's MiSS",
        test="bytes kept by a layer of 1024 × 1024 at b = r; all published runs",
        unit="times MiSS's",
        rule=Larger(1.1),
        because="a tenth; published memory repeats to less than one part in a hundred",
        seconds=2,
        measure=bat_more_memory,
        seeds=1,
    ),
    Claim(
        id="fast-start",
        claim="MiSS starts faster than LoRA and PiSSA.",
        said="MiSS v10, abstract",
        test="attaching to one layer, in turns",
        unit="times MiSS's",
        rule=Larger(1.25),
        because="a quarter more",
        seconds=20,
        measure=fast_start,
    ),
    Claim(
        id="lora-fa-memory",
        claim="LoRA-FA needs less memory than LoRA.",
        said="lesson 08 and PEFT's benchmark: 20.2 against 22.3 GB, and 22.2 since July 2026",
        test="bytes kept by a small Llama with PEFT's own, before and after disable_adapter()",
        unit="share of LoRA's that is saved",
        rule=Larger(0.05),
        because="half of what was published",
        seconds=15,
        measure=lora_fa_memory,
        seeds=1,
    ),
)
