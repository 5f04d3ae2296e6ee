"""Gather what `make gpu` needs on a machine without a network: a folder of wheels.

    python tools/wheels.py [--out wheels] [--have FILE] [--python 3.12] [--most 64]

Walks the requirements of this environment from ROOTS down, leaves out what the other machine has,
and downloads the rest, in the versions that are installed here, for Linux on x86-64. `--have` is
that machine's `python3 -m pip list` or `pip freeze`; by default what comes with a Python for
deep learning (HAVE). `--most` is the largest size of the folder, in MiB.
"""

import argparse
import importlib.metadata
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = [
    *("ipykernel", "nbconvert", "ipywidgets", "jupytext", "nbmake"),
    *("jaxtyping", "typer", "safetensors", "joblib", "cloudpickle", "tqdm", "pillow"),
    *("peft", "transformers", "distributed", "pytest", "pytest-xdist", "hypothesis"),
    *("hatchling", "trove-classifiers"),  # which build missviz itself there
]
"""What lessons, benchmarks and tests import. Not JupyterLab: nothing there opens a browser."""
HAVE = frozenset(
    canonicalize_name(name)
    for line in (
        "torch numpy scipy pandas matplotlib pillow scikit-learn transformers accelerate",
        "huggingface-hub tokenizers safetensors jaxtyping wadler-lindig typer click rich",
        "shellingham joblib cloudpickle tqdm pytest pytest-xdist execnet iniconfig pluggy",
        "hypothesis sortedcontainers attrs packaging pathspec pyyaml regex requests certifi idna",
        "urllib3 charset-normalizer python-dateutil six jinja2 markupsafe pygments psutil",
        "typing-extensions filelock fsspec networkx sympy mpmath setuptools httpx httpcore h11",
        "anyio hf-xet markdown-it-py mdurl annotated-doc toolz msgpack",
    )
    for name in line.split()
)
"""With a CUDA build of torch, where a machine for deep learning was set up."""


def needed(have: frozenset[str]) -> dict[str, str]:
    """{distribution: version installed here} of what the other machine lacks."""
    found: dict[str, str] = {}
    waiting = [name for name in ROOTS if name not in have]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            here = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""  # such as hatchling: not of this environment, so its newest
            continue
        found[name] = here.version
        for line in here.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                child = canonicalize_name(requirement.name)
                waiting += [child] if child not in have else []
    return found


def names_in(file: Path) -> frozenset[str]:
    """The names in a `pip list` or `pip freeze`."""
    lines = file.read_text(encoding="utf-8").replace("==", " ").splitlines()
    return frozenset(canonicalize_name(line.split()[0]) for line in lines if line.split())


def platforms() -> list[str]:
    """pip matches each exactly, so all that glibc of the last years can load."""
    tags = [f"manylinux_2_{minor}_x86_64" for minor in range(35, 16, -1)]
    return [*tags, "manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("wheels"))
    parser.add_argument("--have", type=Path, help="the other machine's `pip list`")
    parser.add_argument("--python", default="3.12", help="the other machine's")
    parser.add_argument("--most", type=float, default=64.0, help="MiB")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("*.whl"):
        old.unlink()  # two versions of one package would stop pip
    wanted = needed(names_in(options.have) if options.have else HAVE)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", options.python, "--implementation", "cp"]
    command += [f"--platform={tag}" for tag in platforms()]
    command += ["--dest", str(options.out)]
    command += [f"{name}=={version}" if version else name for name, version in wanted.items()]
    if code := subprocess.call(command):
        return code
    size = sum(wheel.stat().st_size for wheel in options.out.glob("*.whl")) / 2**20
    print(f"{options.out}: {len(wanted)} wheels, {size:.1f} MiB")
    if size > options.most:
        print(f"more than {options.most:.0f} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
