"""Seconds, turns and ratios of a benchmark."""

import time

import pytest
import torch

from missviz.bench.clock import in_turns, peak_bytes, ratio, timed

CPU = torch.device("cpu")


def test_the_result_and_its_seconds() -> None:
    def work(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    result, seconds = timed(work, CPU, 0.05)
    assert result == "done"
    assert 0.05 <= seconds < 5


def test_sides_take_turns_and_so_does_the_order() -> None:
    ran = []
    sides = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    times = in_turns(sides, CPU, rounds=3, warm_ups=1)
    assert "".join(ran) == "abbaabba"
    assert {side: len(seconds) for side, seconds in times.items()} == {"a": 3, "b": 3}


def test_ratio_is_a_median_over_rounds_with_quartiles() -> None:
    found = ratio("r", [2.0, 9.0, 4.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert found == {"r": 3, "r_low": 2, "r_high": 4}
    assert ratio("r", [3.0], [2.0]) == {"r": 1.5, "r_low": 1.5, "r_high": 1.5}


def test_peak_memory_is_not_measured_on_a_cpu() -> None:
    assert peak_bytes(lambda: torch.ones(10), CPU) is None


@pytest.mark.cuda
def test_cuda_events_wait_for_the_work() -> None:
    x, device = torch.ones(4096, 4096, device="cuda"), torch.device("cuda")
    timed(lambda: x @ x, device)  # starts cuBLAS
    _, short = timed(lambda: x @ x, device)
    _, long = timed(lambda: [x @ x for _ in range(50)], device)
    assert long > 10 * short


@pytest.mark.cuda
def test_peak_memory_counts_what_is_freed_again() -> None:
    peak = peak_bytes(lambda: torch.ones(2**20, device="cuda").sum(), torch.device("cuda"))
    assert peak is not None
    assert peak >= 4 * 2**20
