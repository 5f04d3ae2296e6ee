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


def test_import_is_cheap() -> None:
    slow = {"matplotlib", "matplotlib.pyplot", "pandas", "ipywidgets", "scipy", "IPython", "peft"}
    code = f"import sys, missviz; print(sorted({slow} & set(sys.modules)))"
    assert in_fresh_interpreter(code).strip() == "[]"


def test_methods_need_no_plotting() -> None:
    code = (
        "import sys, torch, missviz as mv; m = mv.attach(torch.nn.Linear(8, 8), mv.MiSS(2));"
        "mv.spectrum(m); print(sorted({'matplotlib', 'pandas', 'ipywidgets', 'scipy'} & set(sys.modules)))"
    )
    assert in_fresh_interpreter(code).strip() == "[]"


@pytest.mark.slow
def test_no_display_touches_pyplot() -> None:
    code = (
        "import sys, missviz as mv; r = mv.experiments.no_free_lunch([mv.MiSS(4)], seeds=2, steps=2);"
        "r.plot(); print('matplotlib.pyplot' in sys.modules)"
    )
    assert in_fresh_interpreter(code).strip() == "False"


@pytest.mark.parametrize("panel", ["rank", "colinearity"])
def test_training_does_not_load_sympy(panel: str) -> None:
    """As `torch.autograd.grad` does where it is given a direction, at the cost of half a second."""
    code = f"import sys, missviz as mv; mv.explore.{panel}(); print('sympy' in sys.modules)"
    assert in_fresh_interpreter(code).strip() == "False"


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
