"""A small residual network, and folders that PEFT itself has written for it."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from missviz.randomness import generator_for, normal


class Block(nn.Module):
    """Widths 10 and 14: neither 3 nor 4 divides them."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(10, 10, bias=False)
        self.up = nn.Linear(10, 14)
        self.down = nn.Linear(14, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.q(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def net(dtype: torch.dtype = torch.float64) -> Net:
    """The same network every time."""
    model = Net().to(dtype)
    fill(model, 0.4, "net")
    return model


def fill(model: nn.Module, std: float, *key: object, add: bool = False) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # AdaLoRA's rank in its scaling is trainable in PEFT (0.21.2), but is never saved.
            if parameter.requires_grad and "ranknum" not in name:
                drawn = normal(tuple(parameter.shape), std, generator_for(name, *key))
                parameter.copy_(drawn + (parameter if add else 0))


def saved(config: Any, folder: Path, dtype: torch.dtype = torch.float64) -> Net:
    """Let PEFT save an adapter with random values; the network it stands on."""
    base = net(dtype)
    adapted = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=False)
    fill(adapted, 0.3, "adapter", add=True)
    adapted.save_pretrained(folder)
    return base


def loaded(base: nn.Module, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(copy.deepcopy(base), folder, autocast_adapter_dtype=False)


def peft_updates(base: nn.Module, folder: Path) -> dict[str, Tensor]:
    """PEFT's own merge minus the base, for every layer."""
    before = base.state_dict()
    merged = loaded(base, folder).merge_and_unload().state_dict()
    return {
        name.removesuffix(".weight"): merged[name] - before[name]
        for name in before
        if name.endswith(".weight")
    }


def inputs(dtype: torch.dtype = torch.float64) -> Tensor:
    return normal((5, 10), 1.0, generator_for("inputs")).to(dtype)


def close(got: Tensor, wanted: Tensor, limit: float) -> bool:
    error = (got.double() - wanted.double()).abs().max()
    return got.shape == wanted.shape and bool(error <= limit * wanted.abs().max().clamp(min=1e-3))
