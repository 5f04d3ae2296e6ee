"""What many tests need."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from missviz.displays.base import Display


def close(left: Tensor, right: Tensor, tolerance: float = 1e-12) -> bool:
    """Equal shapes, and equal entries relative to the largest."""
    if left.shape != right.shape or not right.numel():
        return left.shape == right.shape
    scale = max(1.0, float(right.detach().abs().max()))
    return float((left - right).detach().abs().max()) <= tolerance * scale


def random(*shape: int, seed: int = 0) -> Tensor:
    """N(0, 1) in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def raises_one_sentence(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """`call` raises `error` with `message` in one line that a person can read."""
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert len(text) < 250


def by_hand(panel: Any, **values: Any) -> None:
    """Move a panel's controls as its front end does."""
    places = list(panel.view.places({**panel.values, **values}))
    message = {"kind": "move", "turn": panel._turn + 1, "places": places, "want": True}
    panel._heard(panel, message, [])


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def drawn(display: Display) -> np.ndarray:
    """The pixels of a display through matplotlib's own draw."""
    canvas = FigureCanvasAgg(display.figure_)
    canvas.draw()
    return np.asarray(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
