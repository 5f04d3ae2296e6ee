"""missviz: see a weight update, take it apart, train it many times at once, check the claims.

Names load when they are first used, so `import missviz` costs only torch and numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

import numpy  # noqa: F401
import torch  # noqa: F401

__version__ = "0.1.0"

if TYPE_CHECKING:
    from missviz import check, displays, experiments, explore, testing
    from missviz.adapters.attach import attach, detach, merge
    from missviz.adapters.base import Adapter, Method, Update
    from missviz.adapters.bat import Bat
    from missviz.adapters.fixed_factor import FixedFactor
    from missviz.adapters.full import FrozenFineTuning, FullFineTuning
    from missviz.adapters.lora import BigLoRA, LoRA
    from missviz.adapters.miss import Bone, MiSS
    from missviz.adapters.pissa import PiSSA
    from missviz.adapters.training import after_step, param_groups, penalty
    from missviz.analysis.gradients import initial_gradient_norms
    from missviz.analysis.reach import reach
    from missviz.analysis.spectra import spectrum
    from missviz.explore.gallery import gallery
    from missviz.explore.predict import predict
    from missviz.style import lecture

_HOME = {
    "Method": "adapters.base",
    "Adapter": "adapters.base",
    "Update": "adapters.base",
    "FullFineTuning": "adapters.full",
    "FrozenFineTuning": "adapters.full",
    "LoRA": "adapters.lora",
    "BigLoRA": "adapters.lora",
    "PiSSA": "adapters.pissa",
    "FixedFactor": "adapters.fixed_factor",
    "MiSS": "adapters.miss",
    "Bone": "adapters.miss",
    "Bat": "adapters.bat",
    "attach": "adapters.attach",
    "merge": "adapters.attach",
    "detach": "adapters.attach",
    "param_groups": "adapters.training",
    "penalty": "adapters.training",
    "after_step": "adapters.training",
    "spectrum": "analysis.spectra",
    "reach": "analysis.reach",
    "initial_gradient_norms": "analysis.gradients",
    "gallery": "explore.gallery",
    "predict": "explore.predict",
    "lecture": "style",
}
_MODULES = ("check", "displays", "experiments", "explore", "testing")

__all__ = [
    "Adapter",
    "Bat",
    "BigLoRA",
    "Bone",
    "FixedFactor",
    "FrozenFineTuning",
    "FullFineTuning",
    "LoRA",
    "Method",
    "MiSS",
    "PiSSA",
    "Update",
    "after_step",
    "attach",
    "check",
    "detach",
    "displays",
    "experiments",
    "explore",
    "gallery",
    "initial_gradient_norms",
    "lecture",
    "merge",
    "param_groups",
    "penalty",
    "predict",
    "reach",
    "spectrum",
    "testing",
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
