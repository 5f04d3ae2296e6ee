"""A panel on the reader's own weights: from memory, .npy or safetensors, and never too large."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.adapters import validation

LARGEST_SHOWN = 512
"""Rows and columns: what a slider can decompose between two frames."""
SMALLEST = 1e-100


@dataclass(frozen=True)
class OwnWeight:
    """A weight as a panel shows it."""

    matrix: Float[Tensor, "out in_"]
    """In float64; the leading 512 × 512 of a larger one."""
    notice: str
    """What was left out, for the summary; empty if nothing was."""
    source: str
    """What `Panel.state` writes: the path, or a name for a tensor."""


class Name(str):
    """A variable's name, written without quotes in `Panel.state`."""

    def __repr__(self) -> str:
        return str(self)


def load_weight(weight: Any) -> OwnWeight:
    """The weight of a layer (out, in), as a tensor, an array, or a file.

    Args:
        weight: a tensor, an array, the path of a .npy file, or of a .safetensors file with
            "path.safetensors:tensor name" where it holds several. Only the part that is shown is
            read from a file, and nothing in it is executed.

    Raises:
        TypeError: none of these, or not of real numbers.
        ValueError: not 2-D, empty, NaN or infinite; a file of another kind, or a name that is not
            in it.
        FileNotFoundError: there is no such file.
    """
    if isinstance(weight, str | Path):
        part, shape = _from_file(str(weight))
        source = str(weight)
    elif isinstance(weight, Tensor | np.ndarray):
        if isinstance(weight, Tensor) and (
            weight.layout is not torch.strided or weight.is_quantized or weight.is_meta
        ):
            raise TypeError("weight is sparse, quantised or without data; give a plain tensor")
        part, shape, source = _part(weight), tuple(weight.shape), Name("weight")
    else:
        raise TypeError(
            f"weight of type {type(weight).__name__}; give a tensor, an array, or the path of a "
            ".npy or .safetensors file"
        )
    if isinstance(part, Tensor):
        if part.dtype == torch.bool or part.is_complex():
            raise TypeError(f"weight of dtype {part.dtype} does not hold real numbers")
        matrix = part.detach().cpu().double()
    else:
        if part.dtype.kind not in "iuf":
            raise TypeError(f"weight of dtype {part.dtype} does not hold real numbers")
        matrix = torch.from_numpy(np.array(part, dtype=np.float64))
    validation.finite("weight", matrix)
    largest = float(matrix.abs().max())
    if largest and not SMALLEST < largest < 1 / SMALLEST:
        raise ValueError(f"weight has entries up to {largest:.0e}, whose squares leave float64")
    notice = ""
    if tuple(matrix.shape) != shape:
        notice = (
            f"the first {matrix.shape[0]} × {matrix.shape[1]} of {shape[0]} × {shape[1]} weights"
        )
    return OwnWeight(matrix, notice, source)


def _part(weight: Any) -> Any:
    """The leading part that is shown; ValueError where the shape is none of a weight."""
    shape = tuple(weight.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"weight of shape {shape}; a layer's weight is (out, in), none of them 0")
    return weight[:LARGEST_SHOWN, :LARGEST_SHOWN]


def _from_file(path: str) -> tuple[Any, tuple[int, ...]]:
    file, _, name = path.partition(".safetensors:")
    if name:
        file += ".safetensors"
    if not Path(file).is_file():
        raise FileNotFoundError(f"weight: there is no file {file}")
    if file.endswith(".npy"):
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"weight: {file} is not an array of numbers ({error})") from error
        return _part(array), array.shape
    if file.endswith(".safetensors"):
        return _from_safetensors(file, name)
    raise ValueError(f"weight: {file} is neither .npy nor .safetensors")


def _from_safetensors(file: str, name: str) -> tuple[Tensor, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            if not name and len(names) == 1:
                (name,) = names
            if name not in names:
                some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                raise ValueError(
                    f"weight: {file} has no tensor {name!r}; write {file}:NAME with one of {some}"
                )
            stored = tensors.get_slice(name)
            shape = tuple(stored.get_shape())
            if len(shape) != 2 or 0 in shape:
                raise ValueError(
                    f"weight of shape {shape}; a layer's weight is (out, in), none of them 0"
                )
            return stored[:LARGEST_SHOWN, :LARGEST_SHOWN], shape
    except SafetensorError as error:
        raise ValueError(f"weight: {file} is not a safetensors file ({error})") from error
