"""Seconds and bytes of a piece of work, on a CPU and on a CUDA device; two sides in turns."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")
WARM_UPS = 3
"""Turns that are not counted."""


@contextmanager
def own_garbage() -> Iterator[None]:
    """Python collects garbage among what is made from here on; also a decorator.

    Else it now and then goes through the objects of every import too, a quarter of a second with
    PEFT's, at the expense of whoever makes the next object.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def one_core_clock() -> tuple[str, Callable[[], float]]:
    """(name, clock) for work on a CPU: where torch has one thread the processor's own seconds,
    which on a quiet core are those that pass, and in which others on the machine hardly count."""
    if torch.get_num_threads() == 1:
        return "processor", time.process_time
    return "wall", time.perf_counter


def timed(
    work: Callable[..., Result],
    device: torch.device,
    *arguments: Any,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Result, float]:
    """The result of `work` and its seconds: by CUDA events on a GPU, whose queue is empty before;
    elsewhere by `clock`.

    An event is recorded by the GPU itself, so the host's way to notice the end is not in it; what
    the GPU waits for the host in between is.
    """
    if device.type != "cuda":
        started = clock()
        result = work(*arguments)
        return result, clock() - started
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        result = work(*arguments)
        end.record()
        torch.cuda.synchronize()
    return result, start.elapsed_time(end) / 1000


def in_turns(
    sides: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    warm_ups: int = WARM_UPS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every side in each round; `clock` as in `timed`."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + warm_ups):
        order = list(sides)
        if turn % 2:
            # The order turns too: who comes second finds a warmer cache.
            order.reverse()
        for side in order:
            _, seconds = timed(sides[side], device, clock=clock)
            if turn >= warm_ups:
                times[side].append(seconds)
    return times


def ratio(name: str, ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median of ours / theirs over the rounds, with the quartiles."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        ratios *= 2
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Most bytes allocated during `work`, beyond those before it; None but on CUDA."""
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
