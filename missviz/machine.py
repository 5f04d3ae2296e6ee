"""The machine: what a measurement depends on, and how many of its cores small work gets."""

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).parent


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this checkout, short; "unknown" outside one."""
    try:
        said = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"


def conditions(device: str = "cpu", packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """All that, with threads, date, and the versions of torch, missviz and `packages`."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()
    named = ("missviz", "torch", *packages)
    return {
        "device": device,
        "machine": name,
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in named},
        },
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one core, for work on small matrices; also a decorator: `@one_thread()`.

    On all cores every small operation waits for the slowest; where others use the machine too (a
    class on one server) that takes ten times as long.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(cores)


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, up to some tens of megabytes, and use it again.

    glibc otherwise gives arrays of 100 kB and more back to the system at once, and a loop that
    makes the same ones in each step waits for the system in each step. It learns from the largest
    block that it ever gave back: so this asks for one, never touches it, and frees it.
    """
    torch.empty(24 << 20, dtype=torch.uint8)
