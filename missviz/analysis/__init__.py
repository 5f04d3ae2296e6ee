"""WHAT IT LOOKS LIKE: tensors in, numbers and tidy tables out.

For any model, loss and method:
    curvature            the largest eigenvalue of the loss's Hessian
    layer_gradients      first gradients of each layer and method, beside the laws
    gradient_variance    how far minibatch gradients are from their mean
    bat_cosines          mean shard cosine of Bat in each layer, beside 1/(1 + ω²b)
    directions           where ΔW lies beside W₀'s singular directions
    weight_spectra       singular values of W₀, ΔW and W₀ + ΔW

Everything else is in the modules: `missviz.analysis.shards` and so on.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from missviz.analysis.gradients import gradient_variance
    from missviz.analysis.hessian import curvature
    from missviz.analysis.network_laws import bat_cosines, layer_gradients
    from missviz.analysis.singular_directions import directions, weight_spectra

_HOME = {
    "curvature": "hessian",
    "gradient_variance": "gradients",
    "bat_cosines": "network_laws",
    "layer_gradients": "network_laws",
    "directions": "singular_directions",
    "weight_spectra": "singular_directions",
}

__all__ = [
    "bat_cosines",
    "curvature",
    "directions",
    "gradient_variance",
    "layer_gradients",
    "weight_spectra",
]


def __getattr__(name: str) -> Any:
    # When first used: some load pandas, and `missviz.spectrum` comes through here too.
    if name not in _HOME:
        raise AttributeError(f"module 'missviz.analysis' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"missviz.analysis.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
