"""Data of the reader's own in "no free lunch": checked, split, and in plain form."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from missviz.randomness import generator_for

Pair = tuple[Float[Tensor, "n in_"], Float[Tensor, "n out"]]
SPLITS = ("train", "valid", "test")
LARGEST = 1e15
"""Of magnitudes: the mean of their squares, which a loss is, stays within float32."""
FEWEST = 4
"""Points that can be split: a half to train on, a quarter each for validation and test."""


@dataclass(frozen=True, eq=False)
class OwnData:
    """Points (x, y) by split, the same for every seed; or `whole`, which each seed splits anew.

    Arrays, not tensors: they are part of the key under which finished work is kept.
    """

    splits: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def in_features(self) -> int:
        return int(self._some[0].shape[1])

    @property
    def out_features(self) -> int:
        return int(self._some[1].shape[1])

    @property
    def base(self) -> Pair | None:
        """What the network learns before it is adapted; None where nothing was given."""
        return _tensors(self.splits["base"]) if "base" in self.splits else None

    def task(self, seed: int, names: Iterable[str]) -> dict[str, Pair]:
        """The named splits of one seed, in float64."""
        if "whole" not in self.splits:
            return {name: _tensors(self.splits[name]) for name in names}
        x, y = _tensors(self.splits["whole"])
        half, quarter = len(x) // 2, len(x) // 4
        order = torch.randperm(len(x), generator=generator_for(seed, "own data"))
        parts = order.split([half, quarter, len(x) - half - quarter])
        rows = dict(zip(SPLITS, parts, strict=True))
        return {name: (x[rows[name]], y[rows[name]]) for name in names}

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Points per split."""
        return {name: len(x) for name, (x, _) in self.task(0, names).items()}

    @property
    def _some(self) -> tuple[np.ndarray, np.ndarray]:
        return next(iter(self.splits.values()))

    def __str__(self) -> str:
        digest = hashlib.blake2b(digest_size=6)
        for name, arrays in self.splits.items():
            digest.update(name.encode())
            for array in arrays:
                digest.update(np.ascontiguousarray(array).tobytes())
        counts = ", ".join(f"{name} {len(x)}" for name, (x, _) in self.splits.items())
        return (
            f"{self.in_features} inputs, {self.out_features} outputs, points: {counts}; "
            f"{digest.hexdigest()}"
        )


def _tensors(arrays: tuple[np.ndarray, np.ndarray]) -> Pair:
    x, y = (torch.from_numpy(array) for array in arrays)
    return x, y


def checked_data(data: Any) -> OwnData:
    """`data` as `OwnData`: (x, y), or {"train": (x, y), "valid": (x, y), …}.

    Raises TypeError or ValueError that names the part and what would be valid.
    """
    if not isinstance(data, Mapping):
        pair = _checked_pair("data", data)
        if len(pair[0]) < FEWEST:
            raise ValueError(
                f"data has {len(pair[0])} points; at least {FEWEST} can be split into train, valid "
                "and test"
            )
        return OwnData({"whole": pair})
    known = ("base", *SPLITS)
    if unknown := [name for name in data if name not in known]:
        raise ValueError(f"data has {unknown[0]!r}; its splits are {', '.join(known)}")
    if missing := [name for name in ("train", "valid") if name not in data]:
        raise ValueError(
            f"data has no {missing[0]!r}; give {{'train': (x, y), 'valid': (x, y)}}, or (x, y) to "
            "have it split"
        )
    pairs = {name: _checked_pair(f"data[{name!r}]", pair) for name, pair in data.items()}
    in_features, out_features = (part.shape[1] for part in pairs["train"])
    for name, (x, y) in pairs.items():
        if (x.shape[1], y.shape[1]) != (in_features, out_features):
            raise ValueError(
                f"data[{name!r}] has {x.shape[1]} inputs and {y.shape[1]} outputs, data['train'] "
                f"{in_features} and {out_features}; all splits need the same"
            )
    return OwnData(pairs)


def _checked_pair(name: str, pair: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} is a {type(pair).__name__}; give (x, y), two arrays or tensors")
    x = _checked_array(f"x of {name}", pair[0], "(n, inputs)")
    y = _checked_array(f"y of {name}", pair[1], "(n, outputs)")
    if len(x) != len(y):
        raise ValueError(f"{name} has {len(x)} points x and {len(y)} points y; give one y for each")
    return x, y


def _checked_array(name: str, values: Any, shape: str) -> np.ndarray:
    """`values` as a float64 array of two dimensions that nobody else can change."""
    if isinstance(values, Tensor):
        if values.is_complex():
            raise TypeError(f"{name} has dtype {values.dtype}; give real numbers")
        # bfloat16 has no array of its own.
        values = values.detach().cpu().double()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {array.dtype}; give real numbers")
    if array.ndim != 2:
        hint = "; for one column give values[:, None]" if array.ndim == 1 else ""
        raise ValueError(f"{name} has shape {array.shape}; it must be {shape}{hint}")
    if 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}, which is empty")
    array = np.array(array, dtype=np.float64)
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name} has {bad} values that are NaN or infinite of {array.size}")
    if (largest := np.abs(array).max()) > LARGEST:
        raise ValueError(
            f"{name} has values up to {largest:.0e}, and losses are their squares; scale them to "
            f"at most {LARGEST:.0e}, best to about 1"
        )
    return array
