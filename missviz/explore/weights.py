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
WHAT = {"weight": "weights", "target": "numbers of the target"}
"""What the numbers of an argument are called."""


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


def load_weight(weight: Any, argument: str = "weight", largest: int = LARGEST_SHOWN) -> OwnWeight:
    """The weight of a layer (out, in), as a tensor, an array, or a file.

    Args:
        weight: a tensor, an array, the path of a .npy file, or of a .safetensors file with
            "path.safetensors:tensor name" where it holds several. Only the part that is shown is
            read from a file, and nothing in it is executed.
        argument: what messages call it: "weight", or "target" for a wanted update.
        largest: rows and columns that are taken, at most 512.

    Raises:
        TypeError: none of these, or not of real numbers.
        ValueError: not 2-D, empty, NaN or infinite; a file of another kind, or a name that is not
            in it.
        FileNotFoundError: there is no such file.
    """
    if isinstance(weight, str | Path):
        part, shape = _from_file(str(weight), argument)
        source = str(weight)
    elif isinstance(weight, Tensor | np.ndarray):
        if isinstance(weight, Tensor) and (
            weight.layout is not torch.strided or weight.is_quantized or weight.is_meta
        ):
            raise TypeError(f"{argument} is sparse, quantised or without data; give a plain tensor")
        part, shape, source = _part(weight, argument), tuple(weight.shape), Name(argument)
    else:
        raise TypeError(
            f"{argument} of type {type(weight).__name__}; give a tensor, an array, or the path of "
            "a .npy or .safetensors file"
        )
    if isinstance(part, Tensor):
        if part.dtype == torch.bool or part.is_complex():
            raise TypeError(f"{argument} of dtype {part.dtype} does not hold real numbers")
        matrix = part[:largest, :largest].detach().cpu().double()
    else:
        if part.dtype.kind not in "iuf":
            raise TypeError(f"{argument} of dtype {part.dtype} does not hold real numbers")
        matrix = torch.from_numpy(np.array(part[:largest, :largest], dtype=np.float64))
    validation.finite(argument, matrix)
    _squares(argument, float(matrix.abs().max()))
    notice = ""
    if tuple(matrix.shape) != shape:
        rows, columns = matrix.shape
        notice = f"the first {rows} × {columns} of {shape[0]} × {shape[1]} {WHAT[argument]}"
    return OwnWeight(matrix, notice, source)


def size_of_entries(weight: Tensor) -> float:
    """Their root mean square; 1 where all are zero."""
    return float(weight.detach().square().mean().sqrt()) or 1.0


def with_digits(
    matrix: Float[Tensor, "out in_"],
) -> tuple[Float[Tensor, "out in_"], str]:
    """The matrix such that one decimal shows it: in units of its largest entry where that is below
    0.5 or beyond 99, and the words that say so."""
    largest = float(matrix.abs().max())
    if largest == 0 or 0.5 <= largest < 99.5:
        return matrix, ""
    return matrix / largest, f"in units of the largest entry, {largest:.3g}"


def own_input(
    x: Any, shape: tuple[int, int], most: int
) -> tuple[Float[np.ndarray, " in_"], dict[str, Any]]:
    """The reader's x for a layer of this (out, in), in float64, and how `Panel.state` writes it.

    Raises:
        TypeError: not numbers.
        ValueError: not one number per input; NaN or infinite; the layer is too large for it to be
            seen (`most` rows and columns).
    """
    if max(shape) > most:
        raise ValueError(
            f"x is drawn on layers up to {most} × {most}, where it can be seen; this one is "
            f"{shape[0]} × {shape[1]}: give a part of it as weight"
        )
    values = _numbers(x)
    if values.shape != (shape[1],):
        raise ValueError(f"x has shape {values.shape}; the layer takes {shape[1]} numbers")
    return values, _as_code(x, values)


def own_inputs(x: Any, in_features: int) -> tuple[Float[Tensor, "n in_"], dict[str, Any]]:
    """The reader's inputs X for a layer, in float64, and how `Panel.state` writes them.

    Raises:
        TypeError: not numbers.
        ValueError: not (n, in_features); NaN or infinite.
    """
    values = _numbers(x)
    if values.ndim != 2 or len(values) == 0 or values.shape[1] != in_features:
        raise ValueError(
            f"x has shape {values.shape}; n inputs of the layer that is shown are (n, "
            f"{in_features}), one of them (1, {in_features})"
        )
    return torch.from_numpy(values), _as_code(x, values)


def _numbers(x: Any) -> Float[np.ndarray, "*shape"]:
    plain = x.detach().cpu().double().numpy() if isinstance(x, Tensor) else x
    wrong = f"x={x!r} is not a list of numbers, an array or a tensor"
    if isinstance(x, str):
        raise TypeError(wrong)
    try:
        values = np.array(plain, dtype=np.float64)
    except OverflowError as error:
        raise ValueError("x has a number that float64 cannot hold") from error
    except (TypeError, ValueError) as error:
        raise TypeError(wrong) from error
    validation.finite("x", torch.from_numpy(values))
    _squares("x", float(np.abs(values).max(initial=0.0)))
    return values


def _squares(argument: str, entry: float) -> None:
    """ValueError where the square of the largest entry leaves float64."""
    if entry and not SMALLEST < entry < 1 / SMALLEST:
        raise ValueError(f"{argument} has entries up to {entry:.0e}, whose squares leave float64")


def _as_code(x: Any, values: Float[np.ndarray, "*shape"]) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(one) for one in value]
        return int(value) if value.is_integer() else value

    return {"x": short(values.tolist()) if isinstance(x, list | tuple) else Name("x")}


def _part(weight: Any, argument: str) -> Any:
    """The leading part that is shown; ValueError where the shape is none of a weight."""
    shape = tuple(weight.shape)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(_not_a_matrix(argument, shape))
    return weight[:LARGEST_SHOWN, :LARGEST_SHOWN]


def _not_a_matrix(argument: str, shape: tuple[int, ...]) -> str:
    return f"{argument} of shape {shape}; a layer's {argument} is (out, in), none of them 0"


def _from_file(path: str, argument: str) -> tuple[Any, tuple[int, ...]]:
    file, _, name = path.partition(".safetensors:")
    if name:
        file += ".safetensors"
    if not Path(file).is_file():
        raise FileNotFoundError(f"{argument}: there is no file {file}")
    if file.endswith(".npy"):
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{argument}: {file} is not an array of numbers ({error})") from error
        return _part(array, argument), array.shape
    if file.endswith(".safetensors"):
        return _from_safetensors(file, name, argument)
    raise ValueError(f"{argument}: {file} is neither .npy nor .safetensors")


def _from_safetensors(file: str, name: str, argument: str) -> tuple[Tensor, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            if not name and len(names) == 1:
                (name,) = names
            if name not in names:
                some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
                raise ValueError(
                    f"{argument}: {file} has no tensor {name!r}; write {file}:NAME with one of "
                    f"{some}"
                )
            stored = tensors.get_slice(name)
            shape = tuple(stored.get_shape())
            if len(shape) != 2 or 0 in shape:
                raise ValueError(_not_a_matrix(argument, shape))
            return stored[:LARGEST_SHOWN, :LARGEST_SHOWN], shape
    except SafetensorError as error:
        raise ValueError(f"{argument}: {file} is not a safetensors file ({error})") from error
