"""The no-free-lunch run as a plain loop: one run at a time, explicit matrices, Adam by hand.

Shares with the library only the random draws (which arrays a seed stands for) and no formula.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

import missviz as mv
from missviz.randomness import generator_for, normal, uniform

Parameters = dict[str, Tensor]
Delta = Callable[[Parameters, Tensor], Tensor]


def data(seed: int, size: int, noise: float, split: str, target: Callable[[Tensor], Tensor]):
    generator = (
        generator_for(seed, split, "data") if split != "base" else generator_for(seed, "base data")
    )
    x = uniform((size, 64), 1.0, generator)
    y = target(x)
    return x, y + normal((size, 64), noise, generator)


def adam(parameters: Parameters, loss: Callable[[Parameters], Tensor], rate: float, steps: int):
    """Yields the parameters after 0, 1, … steps. Kingma and Ba, Algorithm 1."""
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for step in range(1, steps + 2):
        yield {name: p.detach() for name, p in parameters.items()}
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        found = torch.autograd.grad(loss(leaves), list(leaves.values()))
        for (name, p), g in zip(list(parameters.items()), found, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            parameters[name] = p.detach() - rate * m / (v.sqrt() + 1e-8)


def network(W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, x: Tensor) -> Tensor:
    return torch.clamp(x @ W1.T + b1, min=0) @ W2.T + b2


def mse(prediction: Tensor, y: Tensor) -> Tensor:
    return ((prediction - y) ** 2).sum() / y.numel()


def base_network(seed: int, dtype: torch.dtype) -> Parameters:
    generator = generator_for(seed, "base model")
    start = {}
    for name, shape in (("W1", (64, 64)), ("b1", (64,)), ("W2", (64, 64)), ("b2", (64,))):
        start[name] = uniform(shape, 1 / 8, generator).to(dtype)
    x, y = (
        part.to(dtype)
        for part in data(seed, 50, 0.05, "base", lambda x: torch.sin(2 * math.pi * x))
    )
    *_, last = adam(
        start, lambda p: mse(network(p["W1"], p["b1"], p["W2"], p["b2"], x), y), 1e-3, 250
    )
    return last


def repeat_columns(D: Tensor, owner: list[int]) -> Tensor:
    return torch.stack([D[:, e] for e in owner], dim=1)


def tiled(size: int, count: int) -> list[int]:
    return [j % count for j in range(size)]


def block(size: int, count: int) -> list[int]:
    return [e for e, part in enumerate(torch.arange(size).tensor_split(count)) for _ in part]


def bat(D: Tensor, W: Tensor, b: int, variant: str) -> Tensor:
    rows = []
    for o in range(64 // b):
        row = []
        for i in range(64 // b):
            W_oi = W[o * b : (o + 1) * b, i * b : (i + 1) * b]
            own = D[i] if variant == "input" else D[o]
            row.append((own @ W_oi if variant == "left" else W_oi @ own) + own)
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows)


def describe(method: mv.Method, adapter: mv.Adapter) -> tuple[Parameters, Delta]:
    """Start values (as drawn by the adapter) and ΔW of each method, written out anew."""
    start = {name: p.detach().clone() for name, p in adapter.named_parameters() if p.requires_grad}
    fixed = {name: p.detach().clone() for name, p in adapter.named_buffers()}
    if isinstance(method, mv.FullFineTuning):
        return start, lambda p, W: p["W"] - W
    if isinstance(method, mv.FrozenFineTuning):
        return start, lambda p, W: p["M"]
    if isinstance(method, mv.LoRA):
        s = (method.alpha or method.rank) / (method.rank**0.5 if method.rslora else method.rank)
        A = adapter.A.detach().clone()
        return start, lambda p, W: s * p["B"] @ p.get("A", A)
    if isinstance(method, mv.PiSSA):
        residual = start["B"] @ start["A"]
        return start, lambda p, W: p["B"] @ p["A"] - residual
    if isinstance(method, mv.FixedFactor):
        return start, lambda p, W: p["D"] @ fixed["F"]
    if isinstance(method, mv.Bat):
        variant = "left" if method.side == "left" else method.index
        return start, lambda p, W: bat(p["D"], W, method.block_size, variant)
    if method.mini:
        return start, lambda p, W: repeat_columns(p["D"], tiled(64, method.rank))[
            tiled(64, method.mini)
        ]
    owner = (tiled if method.layout == "tiled" else block)(64, method.rank)
    if method.share == "columns":
        return start, lambda p, W: repeat_columns(p["D"], owner)
    return start, lambda p, W: p["D"][owner]


def trajectory(
    method: mv.Method,
    seed: int,
    rate: float = 1e-3,
    *,
    steps: int = 100,
    train_fc2: bool = True,
    dtype: torch.dtype = torch.float64,
    base: Parameters | None = None,
) -> dict[str, list[float]]:
    """Losses after 0 … steps steps on train and valid."""
    W0, b1, W2, b2 = (base or base_network(seed, dtype)).values()

    def target(x: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * x) + 0.3 * torch.cos(3 * math.pi * x)

    splits = {
        split: tuple(part.to(dtype) for part in data(seed, size, noise, split, target))
        for split, size, noise in (("train", 50, 0.05), ("valid", 100, 0.0))
    }
    linear = torch.nn.Linear(64, 64).to(dtype)
    linear.weight.data, linear.bias.data = W0.clone(), b1.clone()
    adapter = method.on(linear, generator=generator_for(seed, "fc1"))
    start, delta = describe(method, adapter)
    if train_fc2:
        start |= {"W2": W2.clone(), "b2": b2.clone()}

    def loss(p: Parameters, split: str) -> Tensor:
        x, y = splits[split]
        return mse(
            network(W0 + delta(p, W0), p.get("b", b1), p.get("W2", W2), p.get("b2", b2), x), y
        )

    losses: dict[str, list[float]] = {"train": [], "valid": []}
    for parameters in adam(start, lambda p: loss(p, "train"), rate, steps):
        for split, values in losses.items():
            values.append(float(loss(parameters, split)))
    return losses
