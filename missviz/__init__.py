"""missviz: see a weight update, take it apart, train it many times at once, check the claims.

    import missviz as mv
    adapter = mv.MiSS(4).on(linear)      a method on one layer: adapter(x), adapter.delta()
    mv.explore.update()                  a panel; mv.gallery() shows them all

Methods, small dataclasses with their settings:
    LoRA, BigLoRA, LoRAPlus, PiSSA, OLoRA, LoRAGA, DoRA, AdaLoRA, VeRA, MoS, LoHa, MoRA, ProLoRA,
    FixedFactor, S2FT, MiSS, Bone, DiSHA, Bat, FullFineTuning, FrozenFineTuning
To write your own, and to hold it to the contract that those keep:
    Method, Adapter, Update; testing.check_method(MyMethod(4))
On a whole model, and in a training loop:
    attach, merge, detach; stack; param_groups, penalty, after_step
What ΔW looks like:
    spectrum, spectra, reach, compare, inspect_adapter, initial_gradient_norms; analysis
Folders of Hugging Face PEFT:
    read_peft, write_peft
Panels, figures, training, exercises:
    explore, gallery, predict, lecture; displays; experiments; check
A pretrained network and its tasks, where their packages are installed:
    networks

`help(mv.MiSS)` and the like explain one name. What follows here goes through every class, and is
thousands of lines long. Names load when they are first used, so `import missviz` costs only torch
and numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

import numpy  # noqa: F401
import torch  # noqa: F401

__version__ = "0.1.0"

if TYPE_CHECKING:
    from missviz import analysis, check, displays, experiments, explore, networks, testing
    from missviz.adapters.adalora import AdaLoRA
    from missviz.adapters.attach import attach, detach, merge
    from missviz.adapters.base import Adapter, Method
    from missviz.adapters.bat import Bat
    from missviz.adapters.disha import DiSHA
    from missviz.adapters.dora import DoRA
    from missviz.adapters.fixed_factor import FixedFactor
    from missviz.adapters.full import FrozenFineTuning, FullFineTuning
    from missviz.adapters.loha import LoHa
    from missviz.adapters.lora import BigLoRA, LoRA, LoRAPlus
    from missviz.adapters.loraga import LoRAGA
    from missviz.adapters.miss import Bone, MiSS
    from missviz.adapters.mora import MoRA
    from missviz.adapters.mos import MoS
    from missviz.adapters.olora import OLoRA
    from missviz.adapters.pissa import PiSSA
    from missviz.adapters.prolora import ProLoRA
    from missviz.adapters.s2ft import S2FT
    from missviz.adapters.stacking import stack
    from missviz.adapters.training import after_step, param_groups, penalty
    from missviz.adapters.update import Update
    from missviz.adapters.vera import VeRA
    from missviz.analysis.comparison import compare
    from missviz.analysis.gradients import initial_gradient_norms
    from missviz.analysis.inspection import inspect_adapter
    from missviz.analysis.reach import reach
    from missviz.analysis.spectra import spectra, spectrum
    from missviz.explore.gallery import gallery
    from missviz.explore.predict import predict
    from missviz.peft_folder import read_peft, write_peft
    from missviz.style import lecture

_HOME = {
    "Method": "adapters.base",
    "Adapter": "adapters.base",
    "Update": "adapters.update",
    "FullFineTuning": "adapters.full",
    "FrozenFineTuning": "adapters.full",
    "LoRA": "adapters.lora",
    "BigLoRA": "adapters.lora",
    "LoRAPlus": "adapters.lora",
    "PiSSA": "adapters.pissa",
    "OLoRA": "adapters.olora",
    "LoRAGA": "adapters.loraga",
    "DoRA": "adapters.dora",
    "AdaLoRA": "adapters.adalora",
    "FixedFactor": "adapters.fixed_factor",
    "MiSS": "adapters.miss",
    "Bone": "adapters.miss",
    "Bat": "adapters.bat",
    "VeRA": "adapters.vera",
    "MoS": "adapters.mos",
    "DiSHA": "adapters.disha",
    "LoHa": "adapters.loha",
    "MoRA": "adapters.mora",
    "ProLoRA": "adapters.prolora",
    "S2FT": "adapters.s2ft",
    "attach": "adapters.attach",
    "merge": "adapters.attach",
    "detach": "adapters.attach",
    "stack": "adapters.stacking",
    "param_groups": "adapters.training",
    "penalty": "adapters.training",
    "after_step": "adapters.training",
    "spectra": "analysis.spectra",
    "spectrum": "analysis.spectra",
    "reach": "analysis.reach",
    "initial_gradient_norms": "analysis.gradients",
    "inspect_adapter": "analysis.inspection",
    "compare": "analysis.comparison",
    "gallery": "explore.gallery",
    "predict": "explore.predict",
    "read_peft": "peft_folder",
    "write_peft": "peft_folder",
    "lecture": "style",
}
_MODULES = (
    "analysis",
    "check",
    "claims",
    "displays",
    "experiments",
    "explore",
    "networks",
    "testing",
)

__all__ = [
    "S2FT",
    "AdaLoRA",
    "Adapter",
    "Bat",
    "BigLoRA",
    "Bone",
    "DiSHA",
    "DoRA",
    "FixedFactor",
    "FrozenFineTuning",
    "FullFineTuning",
    "LoHa",
    "LoRA",
    "LoRAGA",
    "LoRAPlus",
    "Method",
    "MiSS",
    "MoRA",
    "MoS",
    "OLoRA",
    "PiSSA",
    "ProLoRA",
    "Update",
    "VeRA",
    "after_step",
    "analysis",
    "attach",
    "check",
    "claims",
    "compare",
    "detach",
    "displays",
    "experiments",
    "explore",
    "gallery",
    "initial_gradient_norms",
    "inspect_adapter",
    "lecture",
    "merge",
    "networks",
    "param_groups",
    "penalty",
    "predict",
    "reach",
    "read_peft",
    "spectra",
    "spectrum",
    "stack",
    "testing",
    "write_peft",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"missviz.{_HOME[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"missviz.{name}")
    else:
        raise AttributeError(f"module 'missviz' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
