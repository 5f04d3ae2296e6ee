"""Members of `fine_tune` as one, with frozen layers computed once, against a loop over PEFT models.

A random encoder of MiniLM's size (six layers, 384 wide) with LoRA on query and value of the last
two. Both sides have the same weights, batches, lengths and steps, and use the machine's cores; each
time they take turns, and their losses must agree. Evaluation is left out on both sides: it would
favour ours, which runs no more of the network there either.
"""

import copy
import statistics
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel

from missviz.adapters.base import Adapter
from missviz.adapters.lora import LoRA
from missviz.bench.clock import one_core_clock, own_garbage, timed
from missviz.bench.results import write_result
from missviz.experiments.fine_tuning.batches import Schedule
from missviz.experiments.fine_tuning.classifier import Classifier
from missviz.experiments.fine_tuning.memory import members_that_fit
from missviz.experiments.fine_tuning.subject import Ready, Subject, forget, ready
from missviz.experiments.fine_tuning.training import Chunk, Members, Settings, classifier
from missviz.experiments.tasks_on_networks import Split, Task
from missviz.machine import conditions, one_thread
from missviz.randomness import generator_for, normal

LAYERS, FEATURES, WORDS, TOKENS = 6, 384, 1000, 32
ADAPTED = ["4.attention.self.query", "4.attention.self.value"]
ADAPTED += ["5.attention.self.query", "5.attention.self.value"]
RANK, RATE, BATCH = 8, 2e-3, 32


def encoder() -> nn.Module:
    """A BERT of MiniLM-L6's shape with random weights, N(0, 0.02²)."""
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=FEATURES,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        intermediate_size=4 * FEATURES,
        max_position_embeddings=64,
    )
    network = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(normal(tuple(parameter.shape), 0.02, generator_for("bench", name)))
    return network.eval()


def task(examples: int) -> Task:
    """Random sentences of 8 to 32 words, with random classes."""

    def split(name: str, size: int) -> Split:
        generator = generator_for("bench", name)
        words = torch.randint(1, WORDS, (size, TOKENS), generator=generator)
        lengths = torch.randint(8, TOKENS + 1, (size, 1), generator=generator)
        mask = (torch.arange(TOKENS) < lengths).long()
        targets = torch.randint(0, 2, (size,), generator=generator)
        return Split({"input_ids": words * mask, "attention_mask": mask}, targets)

    sizes = {"train": examples, "valid": BATCH, "test": BATCH}
    return Task("random", {name: split(name, size) for name, size in sizes.items()}, 2)


@own_garbage()
def compare(
    seeds: int = 32, rounds: int = 3, device: str = "cpu", steps: int = 4, examples: int = 512
) -> dict[str, Any]:
    """Time both sides in turns. Returns medians, ratios and the largest difference in loss."""
    place, cores = torch.device(device), torch.get_num_threads() if device == "cpu" else 1
    settings = Settings(steps, BATCH, steps, 0.0, torch.float32)
    subject = Subject(encoder(), task(examples))
    chunk = Chunk(subject, LoRA(RANK), ADAPTED, (), settings, device, ())
    there = ready(subject, device, settings.dtype)
    chosen = range(43, 43 + seeds)
    ours = [classifier(chunk, there, seed) for seed in chosen]
    theirs = [in_peft(model, there) for model in ours]
    # As `fine_tune` shares members out: to chunks, and these to threads on one core each.
    pair = Members(chunk, there, ours[:1] * 2, [(chosen[0], RATE)] * 2)
    most = members_that_fit(pair.tried()[0], 0, cores, device)
    chunks = [range(start, min(start + most, seeds)) for start in range(0, seeds, most)]

    def known() -> None:
        found = there.constants(ours[0], "LoRA", "inside", BATCH)
        assert found is not None
        found.of(ours[0].features, there.examples("train"), BATCH)

    def train(places: range) -> np.ndarray:
        members = [(chosen[place], RATE) for place in places]
        return Members(chunk, there, [ours[place] for place in places], members).train_losses()

    def together() -> np.ndarray:
        with (
            one_thread() if device == "cpu" else nullcontext(),
            ThreadPoolExecutor(cores) as workers,
        ):
            return np.concatenate(list(workers.map(train, chunks)))

    def one_by_one() -> np.ndarray:
        each = zip(theirs, chosen, strict=True)
        return np.array([train_alone(fresh(model), there, seed, steps) for model, seed in each])

    sides = {"missviz": together, "peft": one_by_one}
    losses: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    clock_name, clock = one_core_clock()
    once = timed(known, place, clock=clock)[1]
    for turn in range(rounds + 1):
        for side, work in sides.items():
            losses[side], taken = timed(work, place, clock=clock)
            if turn:  # the first is a warm-up
                seconds[side].append(taken / seeds / steps)
    forget()
    ratios = [their / our for our, their in zip(*seconds.values(), strict=True)]
    return {
        "part": "fine-tune",
        "members": seeds,
        "rounds": rounds,
        "steps": steps,
        "members_in_a_chunk": most,
        "clock": clock_name,
        "examples": examples,
        **conditions(device, ("peft", "transformers")),
        "ms_per_step_and_member": {
            side: 1000 * statistics.median(taken) for side, taken in seconds.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "seconds_to_compute_frozen_layers_once": once,
        "largest_loss_difference": float(np.abs(losses["missviz"] - losses["peft"]).max()),
    }


def in_peft(model: Classifier, there: Ready) -> nn.Module:
    """The same classifier through PEFT, with the same numbers."""
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=ADAPTED)
    peft: Any = get_peft_model(copy.deepcopy(there.network), config)
    network = peft.base_model.model
    with torch.no_grad():
        for name, part in model.features.network.named_modules():
            if isinstance(part, Adapter):
                layer = network.get_submodule(name)
                layer.lora_A.default.weight.copy_(part.A)
                layer.lora_B.default.weight.copy_(part.B)
    return Classifier(peft, copy.deepcopy(model.head))


def fresh(model: nn.Module) -> nn.Module:
    """A copy that shares what is frozen: each turn begins anew, and copies little."""
    shared = {id(tensor): tensor for tensor in model.parameters() if not tensor.requires_grad}
    return copy.deepcopy(model, shared)


def train_alone(model: nn.Module, there: Ready, seed: int, steps: int) -> list[float]:
    """Losses before each step of one model, as one would write it."""
    examples = there.examples("train")
    schedule = Schedule(examples, BATCH)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    history: list[Tensor] = []
    for step in range(steps):
        (index,) = schedule.batch(step, [seed])
        loss = cross_entropy(
            model(**examples.batch(index)), examples.targets[index.to(there.device)]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.detach())
    return torch.stack(history).tolist()


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print what was measured and write the JSON; returns its path."""
    ms = result["ms_per_step_and_member"]
    print(
        f"{result['members']} members, {result['steps']} steps, {result['rounds']} rounds in "
        f"turns, medians; {result['machine']}, {result['threads']} threads, "
        f"{result['clock']} seconds\n"
        f"missviz {ms['missviz']:.1f} ms per step and member, PEFT {ms['peft']:.1f} ms: ratio "
        f"{result['ratio']:.2f} ({result['ratio_lowest']:.2f}-{result['ratio_highest']:.2f}); "
        f"largest difference in loss {result['largest_loss_difference']:.1e}\n"
        f"frozen layers of {result['examples']} examples, once: "
        f"{result['seconds_to_compute_frozen_layers_once']:.1f} s"
    )
    return write_result(result, folder)
