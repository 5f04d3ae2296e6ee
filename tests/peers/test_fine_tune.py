"""`fine_tune` against a loop over Hugging Face PEFT models, written by hand: the same weights and
batches, 50 steps of AdamW; losses at every step, validation, and test where validation stopped,
and there what scikit-learn's probe finds of what the network could do before."""

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, MissConfig, get_peft_model
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from word_task import encoder, first_word_task, word_task

import missviz as mv
from missviz.adapters.base import Adapter
from missviz.experiments import fine_tune
from missviz.experiments.fine_tuning import training
from missviz.experiments.fine_tuning.batches import Examples, Schedule
from missviz.experiments.fine_tuning.classifier import new_head
from missviz.experiments.fine_tuning.probe import RIDGES

pytestmark = pytest.mark.slow
NAMES = ("query", "value", "up")
LAYERS = [f"blocks.{block}.{name}" for block in (1, 2) for name in NAMES]
SEEDS, STEPS, EVERY, BATCH, DECAY = (43, 44), 50, 10, 16, 0.1
RATES = {torch.float64: 2e-2, torch.float32: 5e-3}
LIMITS = {torch.float64: 1e-8, torch.float32: 1e-4}

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=LAYERS)
FACTORS = {"A": ("lora_A.default.weight", False), "B": ("lora_B.default.weight", False)}
PEERS: dict[mv.Method, tuple[Any, dict[str, tuple[str, bool]]]] = {
    # method: PEFT's configuration, our parameters → PEFT's, and whether that is transposed
    mv.LoRA(2, alpha=4): (LORA, FACTORS),
    mv.PiSSA(2, alpha=4): (LORA, FACTORS),
    mv.MiSS(4): (
        MissConfig(r=4, target_modules=LAYERS),
        {"D": ("miss_block.default", True)},
    ),
    mv.Bat(4): (
        MissConfig(r=4, init_weights="bat", target_modules=LAYERS),
        {"D": ("miss_block.default", False)},
    ),
}


def in_peft(method: mv.Method, network: nn.Module, seed: int) -> nn.Module:
    """The network with PEFT's layers, from where ours start."""
    config, pairs = PEERS[method]
    ours = mv.attach(network, method, LAYERS, seed=seed)
    theirs = get_peft_model(network, config, autocast_adapter_dtype=False)
    layers = dict(theirs.base_model.model.named_modules())
    with torch.no_grad():
        for name, part in ours.named_modules():
            if not isinstance(part, Adapter):
                continue
            for own, (path, transposed) in pairs.items():
                values = getattr(part, own)
                layers[name].get_parameter(path).copy_(values.mT if transposed else values)
            if isinstance(method, mv.PiSSA):
                # PEFT's own start knows float32 only: what it keeps of W₀ is W₀ − s B₀ A₀.
                start = method.alpha / method.rank * part.B @ part.A
                layers[name].base_layer.weight.copy_(part.base.weight - start)
    return theirs


def features(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    hidden = model(**inputs)
    mask = inputs["attention_mask"].to(hidden).unsqueeze(-1)
    return (hidden * mask).sum(dim=1) / mask.sum(dim=1)


def probe_by_hand(model: nn.Module) -> float:
    """Loss on the remembered task's test split of the probe that scikit-learn fits."""
    splits = first_word_task().splits
    with torch.no_grad():
        x = {name: features(model, split.inputs).double() for name, split in splits.items()}
    y = {name: split.targets.numpy() for name, split in splits.items()}
    mean, spread = x["train"].mean(0), x["train"].std(0)
    x = {name: (part - mean) / spread for name, part in x.items()}
    probes = [
        LogisticRegression(C=1 / (ridge * len(y["train"])), tol=1e-7, max_iter=5000).fit(
            x["train"], y["train"]
        )
        for ridge in RIDGES
    ]
    losses = [
        {name: log_loss(y[name], probe.predict_proba(x[name])) for name in ("valid", "test")}
        for probe in probes
    ]
    return min(losses, key=lambda found: found["valid"])["test"]


def by_hand(method: mv.Method, seed: int, dtype: torch.dtype) -> dict[str, dict[int, float]]:
    """Losses by split and step of one run, all examples at their full width."""
    task = word_task()
    model = in_peft(method, encoder().to(dtype), seed)
    head = new_head(8, task.outputs, seed, torch.empty(0, dtype=dtype))
    trained = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATES[dtype], weight_decay=DECAY)
    train = Examples.of(task.splits["train"], torch.device("cpu"), dtype)
    schedule = Schedule(train, BATCH)

    def loss_on(split: str, index: Tensor | None = None) -> Tensor:
        examples = task.splits[split]
        index = torch.arange(len(examples)) if index is None else index
        inputs = {name: tensor[index] for name, tensor in examples.inputs.items()}
        return cross_entropy(head(features(model, inputs)), examples.targets[index])

    losses: dict[str, dict[int, float]] = {"train": {}, "valid": {}, "test": {}, "first word": {}}
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                for split in ("valid", "test"):
                    losses[split][step] = float(loss_on(split))
            if losses["valid"][step] == min(losses["valid"].values()):
                losses["first word"][step] = probe_by_hand(model)
        (index,) = schedule.batch(step, [seed])
        loss = loss_on("train", index)
        losses["train"][step] = loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses


def agree(method: mv.Method, dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs = fine_tune(
            encoder(),
            word_task(),
            [method],
            SEEDS,
            [RATES[dtype]],
            targets=LAYERS,
            steps=STEPS,
            evaluate_every=EVERY,
            batch_size=BATCH,
            weight_decay=DECAY,
            remembered=[first_word_task()],
            dtype=dtype,
            device="cpu",
        )
    frame = runs.to_frame().set_index(["seed", "split"])
    for seed in SEEDS:
        theirs = by_hand(method, seed, dtype)
        for split in ("train", "valid"):
            ours = frame.loc[(seed, split)].set_index("step")["loss"]
            assert list(ours.index) == list(theirs[split])
            wanted = np.array(list(theirs[split].values()))
            assert np.allclose(ours, wanted, rtol=LIMITS[dtype], atol=LIMITS[dtype])
        stop = min(theirs["valid"], key=theirs["valid"].__getitem__)
        tested = frame.loc[[(seed, "test")]]
        assert list(tested["step"]) == [stop]
        wanted = theirs["test"][stop]
        assert abs(float(tested["loss"].iloc[0]) - wanted) <= LIMITS[dtype] * max(1, wanted)
        # Both fits end where a gradient is small, so no nearer than that.
        kept = float(frame.loc[[(seed, "first word")], "loss"].iloc[0])
        assert kept == pytest.approx(theirs["first word"][stop], abs=1e-4)


@pytest.mark.parametrize("method", PEERS, ids=str)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_as_a_loop_over_peft_models(method: mv.Method, dtype: torch.dtype) -> None:
    agree(method, dtype)


@pytest.mark.parametrize("name", ["gradient", "decay", "batch", "head"])
def test_the_comparison_can_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "STEPS", 10)
    if name == "gradient":
        right = training.Adam.step
        monkeypatch.setattr(
            training.Adam,
            "step",
            lambda self, found: right(self, [2 * one + 1e-6 for one in found]),
        )
    elif name == "decay":
        adam = training.Adam.__init__
        monkeypatch.setattr(
            training.Adam, "__init__", lambda self, *given: adam(self, *given[:3], 0.0)
        )
    elif name == "batch":
        batch = training.Schedule.batch
        monkeypatch.setattr(
            training.Schedule,
            "batch",
            lambda self, step, seeds: batch(self, step, seeds[::-1] if len(seeds) > 1 else seeds),
        )
    else:
        head = training.new_head
        monkeypatch.setattr(
            training, "new_head", lambda width, outputs, seed, like: head(width, outputs, 43, like)
        )
    with pytest.raises(AssertionError):
        agree(mv.LoRA(2, alpha=4), torch.float64)
