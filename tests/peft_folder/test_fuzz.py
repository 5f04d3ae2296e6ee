"""Random damage to a folder: it is read, or ValueError says why not; nothing else happens."""

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from peft_folder.test_untrusted import (
    ADA,
    BAT,
    LOHA,
    LORA,
    MISS,
    VERA,
    ada,
    block,
    loha,
    lora,
    raw,
    vera,
    write,
)
from torch import nn

import missviz as mv

GOOD: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = [
    (LORA | {"rank_pattern": {"gc": 3}, "alpha_pattern": {"fc": 3}, "init_lora_weights": True}, lora()),
    (LORA | {"use_dora": True}, lora(lora_magnitude_vector=torch.ones(4))),
    (LORA | {"init_lora_weights": "pissa"}, lora()),
    (MISS, block(2, 4)),
    (MISS | {"init_weights": "mini", "mini_r": 2}, block(2, 2)),
    (BAT, block(2, 2, 2)),
    (MISS | {"peft_type": "BONE"}, block(2, 4, name="bone_block")),
    (VERA, vera(4, 2)),
    (VERA | {"save_projection": False}, {k: v for k, v in vera(4, 2).items() if "lambda" in k}),
    (LOHA, loha((4, 2), (2, 6), (4, 2), (2, 6))),
    (ADA, ada(2, 2, 1)),
]  # fmt: skip
BASE = nn.ModuleDict({"fc": nn.Linear(6, 4)})
KEYS = sorted({key for config, _ in GOOD for key in config})

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([*KEYS, "fc", "bat", "mini", "LORA", "MISS", "pissa", "loftq", ".*", "(", "["]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
many = settings(max_examples=150, deadline=None)


def read_all(folder: Path) -> None:
    """Read a folder and all that it says; ValueError is the only way out."""
    refused = None
    try:
        adapter = mv.read_peft(folder, base=BASE)
        for update in adapter.values():
            assert update.delta().shape == update.shape == (4, 6)
            update.spectrum()
        assert not any("\n" in text for text in [*adapter.warnings, *map(repr, adapter.values())])
    except ValueError as error:
        refused = error
    if refused is not None:
        assert type(refused) is ValueError
        assert "\n" not in str(refused)


def in_folder(config: Any, tensors: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), config, tensors)
        read_all(Path(name))


def file_of(tensors: dict[str, torch.Tensor]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), {}, tensors)
        return (Path(name) / "adapter_model.safetensors").read_bytes()


def test_the_seeds_are_good() -> None:
    for config, tensors in GOOD:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), config, tensors)
            for update in mv.read_peft(name, base=BASE).values():
                update.delta()


@pytest.mark.slow
@many
@given(
    good=st.sampled_from(GOOD), changes=st.dictionaries(st.sampled_from(KEYS), values, max_size=3)
)
def test_values_of_the_configuration(good: Any, changes: dict[str, Any]) -> None:
    in_folder(json.dumps(good[0] | changes), good[1])


@many
@given(good=st.sampled_from(GOOD), data=st.data())
def test_bytes_of_the_configuration(good: Any, data: st.DataObject) -> None:
    in_folder(damaged(json.dumps(good[0]).encode(), data).decode("latin-1"), good[1])


@pytest.mark.slow
@many
@given(good=st.sampled_from(GOOD), data=st.data())
def test_bytes_of_the_tensors(good: Any, data: st.DataObject) -> None:
    in_folder(good[0], damaged(file_of(good[1]), data))


@pytest.mark.slow
@many
@given(good=st.sampled_from(GOOD), data=st.data())
def test_the_header(good: Any, data: st.DataObject) -> None:
    """A header that is JSON, with other shapes, dtypes, places and names."""
    content = file_of(good[1])
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    name = data.draw(st.sampled_from(names))
    entry = header.pop(name)
    numbers = st.lists(st.integers(0, 8) | st.integers(-1, 2**64), max_size=4)
    change = data.draw(st.sampled_from(["shape", "dtype", "data_offsets", "name", "reshape"]))
    if change == "dtype":
        entry["dtype"] = data.draw(
            st.sampled_from(["F16", "BF16", "F64", "I32", "F8_E5M2", "BOOL", "C64"])
        )
    elif change == "name":
        name = data.draw(st.text(max_size=10) | st.sampled_from(names))
    elif change == "reshape":
        entry["shape"] = data.draw(st.permutations([1, *entry["shape"]]))
    else:
        entry[change] = data.draw(numbers)
    header[name] = entry
    in_folder(good[0], raw(header, content[8 + length :]))


def damaged(content: bytes, data: st.DataObject) -> bytes:
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if kind == "set":
            changed[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[place : place + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            changed[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del changed[place:]
        if not changed:
            break
    return bytes(changed)
