"""A step recorded and replayed. On a GPU by CUDA itself; here by a stand-in with the same demands:
what is replayed reads and writes the tensors of the recording, and no number reaches Python."""

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import missviz as mv
from missviz.adapters.base import Method
from missviz.adapters.lora import LoRAAdapter
from missviz.experiments.arguments import default_methods
from missviz.experiments.ensemble import Ensemble, Trained, train
from missviz.experiments.tasks import TwoLayerNet
from missviz.randomness import generator_for, normal

STEPS = 9
RATES = [1e-2, 1e-2, 3e-3]
REPLAYABLE = [m for m in default_methods("published") if not m.name.startswith("AdaLoRA")]


class CPUGraph(TorchDispatchMode):
    """Operations as they reach the device, to be done again on the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, ...]] = []
        self.replays = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation is not torch.ops.aten._local_scalar_dense.default, "a number for Python"
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        if self.replays == 1:
            return  # unlike CUDA's, this recording has computed
        for operation, args, kwargs, result in self.operations:
            for old, new in zip(
                tree_leaves(result), tree_leaves(operation(*args, **kwargs)), strict=True
            ):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[CPUGraph]:
    graphs: list[CPUGraph] = []

    def new_graph() -> CPUGraph:
        graphs.append(CPUGraph())
        return graphs[-1]

    monkeypatch.setattr("torch.cuda.CUDAGraph", new_graph)
    monkeypatch.setattr("torch.cuda.graph", lambda graph: graph)
    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.current_stream", Stream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(Ensemble, "replayable", property(lambda self: not self._asked_more))
    return graphs


def trained(method: Method, device: str = "cpu", replay: bool = False) -> Trained:
    nets = [TwoLayerNet(generator_for(seed, "replay")).to(device) for seed in range(len(RATES))]
    models = [mv.attach(net, method, "fc1", seed=i) for i, net in enumerate(nets)]
    splits = {}
    for split, n in (("valid", 7), ("train", 12)):
        x, y = (normal((len(RATES), n, 64), 1.0, generator_for(split, i)) for i in range(2))
        splits[split] = x.float().to(device), y.float().to(device)
    return train(Ensemble(models), splits, RATES, STEPS, replay)


@pytest.mark.parametrize("method", REPLAYABLE, ids=str)
def test_replayed_equals_eager_bit_for_bit(method: Method, stand_in: list[CPUGraph]) -> None:
    eager, replayed = trained(method), trained(method, replay=True)
    assert [graph.replays for graph in stand_in] == [STEPS - 3]
    for split, losses in eager.losses.items():
        assert np.array_equal(losses, replayed.losses[split])
        # Nearly every step shows: VeRA's may be too small for a loss in float32.
        assert (np.diff(losses) != 0).mean() > 0.95


def test_the_stand_in_can_fail(stand_in: list[CPUGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1, 1000))

    def counted(self: LoRAAdapter, x: Tensor) -> Tensor:
        return x @ self.delta().mT * next(calls)

    monkeypatch.setattr(LoRAAdapter, "correction", counted)
    eager = trained(mv.LoRA(2))
    calls = iter(range(1, 1000))
    assert not np.array_equal(
        eager.losses["train"], trained(mv.LoRA(2), replay=True).losses["train"]
    )

    monkeypatch.setattr(
        LoRAAdapter,
        "correction",
        lambda self, x: x @ self.delta().mT * float(self.B.detach().sum() + 1),
    )
    with pytest.raises(AssertionError, match="a number for Python"):
        trained(mv.LoRA(2), replay=True)


def test_refused_where_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="replay=True needs a GPU"):
        trained(mv.LoRA(2), replay=True)


@pytest.mark.cuda
@pytest.mark.parametrize("method", REPLAYABLE, ids=str)
def test_cuda_graph_equals_eager(method: Method) -> None:
    eager, replayed = trained(method, "cuda"), trained(method, "cuda", replay=True)
    for split, losses in eager.losses.items():
        np.testing.assert_allclose(losses, replayed.losses[split], rtol=1e-5)


@pytest.mark.cuda
def test_refused_for_a_method_with_a_budget() -> None:
    with pytest.raises(ValueError, match="without penalty and after_step"):
        trained(mv.AdaLoRA(2), "cuda", replay=True)
