"""`import missviz` is cheap, and its public names are there."""

import subprocess
import sys

import pytest

import missviz as mv


def in_fresh_interpreter(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """Plotting and tables not by methods; pyplot by no figure; SymPy, at the cost of half a second,
    not by training (`torch.autograd.grad` loads it where it is given a direction)."""
    code = """
import sys, torch, missviz as mv
def loaded(*names):
    print(sorted({*names} & {*sys.modules}))
mv.spectrum(mv.attach(torch.nn.Linear(8, 8), mv.MiSS(2)))
loaded("matplotlib", "pandas", "ipywidgets", "scipy", "IPython", "peft")
mv.experiments.no_free_lunch([mv.MiSS(4)], seeds=2, steps=2).plot()
loaded("matplotlib.pyplot", "peft")
mv.explore.rank(), mv.explore.colinearity()
loaded("matplotlib.pyplot", "peft", "sympy")
"""
    assert in_fresh_interpreter(code).split("\n")[:3] == ["[]"] * 3


@pytest.mark.parametrize("name", mv.__all__)
def test_public_names_load_and_are_documented(name: str) -> None:
    assert getattr(mv, name).__doc__
    assert name in dir(mv)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'missviz' has no attribute 'LoHa2'"):
        mv.LoHa2  # noqa: B018


def test_version() -> None:
    from importlib.metadata import version

    assert mv.__version__ == version("missviz")
