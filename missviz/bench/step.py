"""One training step of one layer, as benchmarks and claims time it."""

import torch
from torch import Tensor, nn


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
