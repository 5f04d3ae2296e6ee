"""Files of others, read without trusting them: JSON objects and safetensors, W₀ among them.

Nothing here runs what a file says. safetensors compares its header (100 MB at most) with the size
of the file before anything is allocated; a tensor is read when it is asked for, from the place that
the header names, so that a file of many tensors has its header read once. Whatever is wrong with a
file is a ValueError in one sentence, or a FileNotFoundError where it is missing.
"""

import functools
import json
import math
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_JSON = 16 * 2**20
LARGEST_DIMENSION = 2**24
"""No layer is as wide; an empty tensor can claim any size in a file of a few bytes."""
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

Shape = tuple[int, ...]


def shown(value: object, most: int = 60) -> str:
    """`value` as it may stand in an error: no line breaks, and not too long."""
    try:
        text = repr(value)
    except ValueError:
        text = "a very long number"
    return text if len(text) <= most else text[: most - 2] + " …"


def existing_file(path: Path) -> Path:
    """`path` if it is a file; a FileNotFoundError if not, a ValueError if it is a pickle."""
    if not _safely(path.is_file):
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path.name} is a pickle: opening it may run any code that its author put there. "
            "Only safetensors are read; ask for the adapter in that form"
        )
    return path


def _safely(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError):  # too long a name, or one with a NUL
        return False


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, NaN and infinity refused."""
    existing_file(path)
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path.name} has more than {LARGEST_JSON} bytes; it is no configuration")
    try:
        found = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is not JSON ({_first_line(error)})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is {shown(found)}; it must be a JSON object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__


class TensorFile:
    """The floating-point tensors of a safetensors file, by name: shapes now, values on demand."""

    def __init__(self, path: Path) -> None:
        self.path = existing_file(path)
        self.shapes: dict[str, Shape] = {}
        self.dtypes: dict[str, str] = {}
        self._read_header()

    def _read_header(self) -> None:
        from safetensors import safe_open

        with self._one_sentence():
            self._seen = self._stamp()
            with safe_open(self.path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    part = file.get_slice(name)
                    self.shapes[name] = tuple(part.get_shape())
                    self.dtypes[name] = str(part.get_dtype())
            # safetensors has found the header sound; it does not say where a tensor begins.
            with self.path.open("rb") as raw:
                length = int.from_bytes(raw.read(8), "little")
                header = json.loads(raw.read(length))
        self._places = {name: (8 + length, *header[name]["data_offsets"]) for name in self.shapes}

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path.name} is not a safetensors file ({_first_line(error)})"
            ) from None

    def _stamp(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def check(self, name: str) -> Shape:
        """The shape of a tensor; ValueError unless its dtype and size are usable."""
        if name not in self.shapes:
            raise ValueError(f"{self.path.name} has no tensor {shown(name)}")
        dtype, shape = self.dtypes[name], self.shapes[name]
        if dtype not in DTYPES:
            raise ValueError(
                f"{shown(name)} has dtype {dtype}; an update has one of {', '.join(DTYPES)}"
            )
        if any(size > LARGEST_DIMENSION for size in shape):
            raise ValueError(f"{shown(name)} has shape {shown(shape)}; no layer is that large")
        return shape

    def read(self, name: str) -> Tensor:
        """One tensor, as stored; ValueError where the file has changed since it was opened."""
        shape, dtype = self.check(name), DTYPES[self.dtypes[name]]
        data = bytearray(math.prod(shape) * dtype.itemsize)
        with self._one_sentence():
            if self._stamp() != self._seen:
                self._check_unchanged(name)
            data_start, start, stop = self._places[name]
            with self.path.open("rb") as raw:
                raw.seek(data_start + start)
                found = raw.readinto(data)
        if not stop - start == len(data) == found:
            raise self._changed()
        # An empty buffer is none to torch.
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return flat.reshape(shape)

    def _check_unchanged(self, name: str) -> None:
        """Go by the header of a file that was written anew, if it keeps this tensor alike."""
        new = TensorFile(self.path)
        if (new.shapes.get(name), new.dtypes.get(name)) != (self.shapes[name], self.dtypes[name]):
            raise self._changed()
        self._seen, self._places = new._seen, new._places

    def _changed(self) -> ValueError:
        return ValueError(f"{self.path.name} has changed since it was opened")


class Weights:
    """W₀ of linear layers by name: from a model, or from safetensors, one tensor at a time.

    Args:
        base: a model; a safetensors file; or a folder with `model.safetensors` or
            `model.safetensors.index.json`, whose shards must lie in it.
        transposed: whether files keep W₀ as (in, out), as `transformers.Conv1D` does.

    Raises:
        TypeError: `base` is neither a model nor a path.
        FileNotFoundError, ValueError: there are no such files, or something is wrong with them.
    """

    def __init__(self, base: nn.Module | str | Path, transposed: bool = False) -> None:
        self.model = base if isinstance(base, nn.Module) else None
        self.transposed = transposed
        self.files: dict[Path, TensorFile] = {}
        self.places: dict[str, Path] = {}
        if isinstance(base, str | os.PathLike):
            self._find(Path(base))
        elif self.model is None:
            raise TypeError(
                f"base of type {type(base).__name__}; give a model or the path of safetensors"
            )

    def _find(self, path: Path) -> None:
        index = path / "model.safetensors.index.json"
        if not path.is_dir() or not index.is_file():
            file = path / "model.safetensors" if path.is_dir() else path
            self.places = dict.fromkeys(self._file(file).shapes, file)
            return
        places = json_object(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ValueError(f"{index.name} has no weight_map")
        for name, file_name in places.items():
            if not isinstance(file_name, str) or not is_plain(file_name):
                raise ValueError(
                    f"{index.name} puts {shown(name)} in {shown(file_name)}, "
                    "which is no file name inside its own folder"
                )
            self.places[name] = path / file_name

    def _file(self, path: Path) -> TensorFile:
        if path not in self.files:
            self.files[path] = TensorFile(path)
        return self.files[path]

    def shape(self, module: str) -> tuple[int, int]:
        """(out, in) of a layer; ValueError where the base has no such layer."""
        shape = self._stored(module)
        if len(shape) != 2:
            raise ValueError(f"base: {shown(module)} has a weight of shape {shape}, no matrix")
        return (shape[1], shape[0]) if self._is_transposed(module) else (shape[0], shape[1])

    def weight(self, module: str) -> Tensor:
        """W₀ (out, in) of a layer."""
        if self.model is not None:
            weight = self._layer(module).weight.detach()
            if weight.is_meta:
                raise ValueError(f"base: {shown(module)} is on the meta device, without values")
        else:
            name = self._name(module)
            weight = self._file(self.places[name]).read(name)
        return weight.mT if self._is_transposed(module) else weight

    def _stored(self, module: str) -> Shape:
        if self.model is not None:
            return tuple(self._layer(module).weight.shape)
        name = self._name(module)
        file = self._file(self.places[name])
        return file.check(name)

    def _is_transposed(self, module: str) -> bool:
        if self.model is None:
            return self.transposed
        return type(self._layer(module)).__name__ == "Conv1D"

    def _layer(self, module: str) -> Any:
        assert self.model is not None
        try:
            layer = self.model.get_submodule(module)
        except AttributeError:
            layer = None
        # An adapter, ours or PEFT's, keeps the layer that it stands on.
        layer = getattr(layer, "base", getattr(layer, "base_layer", layer))
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise ValueError(f"base: the model has no layer {shown(module)} with a weight")
        return layer

    def _name(self, module: str) -> str:
        # Checkpoints leave out, or have, the name of the body ("model.", "transformer.").
        own = f"{module}.weight"
        found = own if own in self.places else own.partition(".")[2]
        if found not in self.places:
            longer = self._without_body.get(own, [])
            found = longer[0] if len(longer) == 1 else ""
        if not found:
            raise ValueError(f"base: there is no tensor {shown(own)}")
        return found

    @functools.cached_property
    def _without_body(self) -> dict[str, list[str]]:
        """The names that a name without its first word may stand for."""
        longer: dict[str, list[str]] = {}
        for name in self.places:
            longer.setdefault(name.partition(".")[2], []).append(name)
        return longer


def is_plain(name: str) -> bool:
    """Whether `name` is one visible word that cannot lead out of a folder."""
    visible = all(unicodedata.category(character)[0] != "C" for character in name)
    return (
        visible and 0 < len(name) <= 256 and not set(name) & set("/\\") and name not in (".", "..")
    )


def promoted(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one dtype that holds them all, and at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]
