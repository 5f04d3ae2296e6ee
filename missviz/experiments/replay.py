"""A step of training recorded as a CUDA graph: one launch instead of some hundred."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 3
"""Calls before the recording, which libraries need to set themselves up."""


class Replay:
    """`work`, recorded at its fourth call and replayed from then on.

    Every call must do the same to the same tensors: nothing of it may depend on numbers that Python
    reads or counts. Nothing but CUDA has such graphs; elsewhere call `work` itself.

    Source: "Whole-network capture" in PyTorch's notes on CUDA semantics.
    """

    def __init__(self, work: Callable[[], Tensor]) -> None:
        self._work = work
        self._calls = 0
        self._graph = torch.cuda.CUDAGraph()
        self._result: Tensor | None = None

    def __call__(self) -> Tensor:
        self._calls += 1
        if self._calls <= WARM_UPS:
            return self._beside()
        if self._result is None:
            # Records, and computes nothing yet.
            with torch.cuda.graph(self._graph):
                self._result = self._work()
        self._graph.replay()
        return self._result.clone()  # the next replay writes over it

    def _beside(self) -> Tensor:
        """`work` on a stream of its own, as long as it is not recorded."""
        present, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(present)
        with torch.cuda.stream(beside):
            result = self._work()
        present.wait_stream(beside)
        return result
