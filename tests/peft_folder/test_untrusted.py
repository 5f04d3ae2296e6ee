"""Folders made wrong on purpose: one clear error each, nothing executed, memory bounded."""

import collections
import json
import os
import pickle
import re
import struct
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import safetensors
import torch
from hypothesis import given
from safetensors.torch import save_file
from torch import Tensor, nn

import missviz as mv
from missviz.peft_folder import config as config_module
from missviz.peft_folder.config import Patterns
from missviz.peft_folder.untrusted import TensorFile

PREFIX = "base_model.model.fc."
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
MISS: dict[str, Any] = {"peft_type": "MISS", "r": 2, "init_weights": True}
BAT: dict[str, Any] = {"peft_type": "MISS", "r": 2, "init_weights": "bat"}
VERA: dict[str, Any] = {"peft_type": "VERA", "r": 2}
LOHA: dict[str, Any] = {"peft_type": "LOHA", "r": 2, "alpha": 2}
ADA: dict[str, Any] = {"peft_type": "ADALORA", "init_r": 2, "lora_alpha": 2}

Change = Callable[[Path], object]


def lora(**changes: Tensor | None) -> dict[str, Tensor]:
    tensors = {"lora_A.weight": torch.ones(2, 6), "lora_B.weight": torch.ones(4, 2)}
    renamed = {name.replace("_weight", ".weight"): tensor for name, tensor in changes.items()}
    return {PREFIX + name: t for name, t in (tensors | renamed).items() if t is not None}


def write(folder: Path, config: Any, tensors: dict[str, Tensor] | bytes) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    if isinstance(tensors, bytes):
        (folder / "adapter_model.safetensors").write_bytes(tensors)
    else:
        save_file(tensors, folder / "adapter_model.safetensors")


def raw(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def block(*shape: int, name: str = "miss_block") -> dict[str, Tensor]:
    return {PREFIX + name: torch.ones(shape)}


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


BYTES = b"\0" * 8
TRUNCATED = raw({PREFIX + "lora_A.weight": entry([2, 6], 0, 48)}, b"\0" * 40)
HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def loha(*shapes: tuple[int, int]) -> dict[str, Tensor]:
    return {PREFIX + n: torch.ones(shape) for n, shape in zip(HADA, shapes, strict=True)}


def vera(
    b: int, d: int, A: tuple[int, int] = (2, 6), B: tuple[int, int] = (4, 2)
) -> dict[str, Tensor]:
    return {
        PREFIX + "vera_lambda_b": torch.ones(b),
        PREFIX + "vera_lambda_d": torch.ones(d),
        "base_model.vera_A": torch.ones(A),
        "base_model.vera_B": torch.ones(B),
    }


def ada(rank: int, *e: int, out: int = 4) -> dict[str, Tensor]:
    return {
        PREFIX + "lora_A": torch.ones(rank, 6),
        PREFIX + "lora_B": torch.ones(out, rank),
        PREFIX + "lora_E": torch.ones(e),
    }


FOLDERS: list[tuple[str, Any, Any]] = [
    # the configuration
    ("adapter_config.json has no peft_type", {}, lora()),
    ("adapter_config.json is not JSON", "", lora()),
    ("adapter_config.json is not JSON", "{", lora()),
    ("adapter_config.json is []; it must be a JSON object", "[]", lora()),
    ("adapter_config.json is nested too deeply", "[" * 100_000, lora()),
    ("NaN is not a JSON number", '{"peft_type": "LORA", "lora_alpha": NaN}', lora()),
    ("more than 16777216 bytes", " " * (2**24 + 1), lora()),
    ("peft_type='IA3' is not read; known are LORA", {"peft_type": "IA3"}, lora()),
    ("peft_type=['LORA'] is not read", {"peft_type": ["LORA"]}, lora()),
    ("r='2' is not a whole number", LORA | {"r": "2"}, lora()),
    ("r=True is not a whole number", LORA | {"r": True}, lora()),
    ("r=0 is not a whole number", LORA | {"r": 0}, lora()),
    ("r=2.0 is not a whole number", LORA | {"r": 2.0}, lora()),
    ("lora_alpha='8' is not a finite number", LORA | {"lora_alpha": "8"}, lora()),
    ("is not a finite number", LORA | {"lora_alpha": 10**400}, lora()),
    ("lora_alpha=inf is not a finite number", '{"peft_type": "LORA", "r": 2, "lora_alpha": 1e999}', lora()),
    ("adapter_config.json is not JSON", '{"peft_type": "LORA", "r": ' + "9" * 5000 + "}", lora()),
    ("use_rslora=1 is not true or false", LORA | {"use_rslora": 1}, lora()),
    ("use_dora='yes' is not true or false", LORA | {"use_dora": "yes"}, lora()),
    ("use_qalora is set; that is another formula", LORA | {"use_qalora": True}, lora()),
    ("use_dora with init_lora_weights='pissa' is not read", LORA | {"use_dora": True, "init_lora_weights": "pissa"}, lora()),
    ("rank_pattern=[1] is no object", LORA | {"rank_pattern": [1]}, lora()),
    ("rank_pattern='x' is not a whole number", LORA | {"rank_pattern": {"fc": "x"}}, lora()),
    ("alpha_pattern=None is not a finite number", LORA | {"alpha_pattern": {"fc": None}}, lora()),
    ("alpha_pattern has '(a+)+'; in a folder of unknown origin", LORA | {"alpha_pattern": {"(a+)+": 1}}, lora()),
    ("alpha_pattern has '.*.*.*c'", LORA | {"alpha_pattern": {".*.*.*c": 1}}, lora()),
    ("alpha_pattern has '[z-a]'", LORA | {"alpha_pattern": {"[z-a]": 1}}, lora()),
    ("alpha_pattern has more than 4096 patterns", LORA | {"alpha_pattern": {f"a{i}+": 1 for i in range(5000)}}, lora()),
    ("alpha_pattern has more than 4096 patterns", LORA | {"alpha_pattern": {f"{'.' * (i % 90)}a{'b' * (i // 90)}": 1 for i in range(5000)}}, lora()),
    ("init_weights='batt' is unknown", MISS | {"init_weights": "batt"}, block(2, 4)),
    ("init_weights=[] is unknown", MISS | {"init_weights": []}, block(2, 4)),
    ("fan_in_fan_out=3 is not true or false", LORA | {"fan_in_fan_out": 3}, lora()),
    # the file
    ("is not a safetensors file", LORA, b""),
    ("is not a safetensors file", LORA, b"\x80\x04\x95" + bytes(100)),
    ("header too large", LORA, raw({}, length=2**63)),
    ("header too large", LORA, raw({}, length=200_000_000)),
    ("is not a safetensors file", LORA, raw({}, length=1000)),
    ("invalid JSON in header", LORA, raw(b"{{")),
    ("invalid JSON in header", LORA, raw(b"[" * 100_000)),
    ("is not a safetensors file", LORA, TRUNCATED),
    ("is not a safetensors file", LORA, raw({"a": entry([1], 0, 4)}, BYTES)),
    ("is not a safetensors file", LORA, raw({"a": entry([2**40, 2**40], 0, 8)}, BYTES)),
    ("is not a safetensors file", LORA, raw({"a": entry([-1], 0, 8)}, BYTES)),
    ("is not a safetensors file", LORA, raw({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, BYTES)),
    ("is not a safetensors file", LORA, raw({"a": entry([2], 0, 8, "PICKLE")}, BYTES)),
    ("no layer is that large", LORA, raw({PREFIX + "lora_A.weight": entry([0, 2**50], 0, 0), PREFIX + "lora_B.weight": entry([4, 0], 0, 0)})),
    # its tensors
    ("has no tensor base_model.model.….lora_A.weight", LORA, {}),
    ("has no tensor base_model.model.….miss_block", MISS, lora()),
    ("has no tensor", LORA, {"fc.lora_A.weight": torch.ones(2, 6), "fc.lora_B.weight": torch.ones(4, 2)}),
    ("'fc' has no lora_B.weight", LORA, lora(lora_B_weight=None)),
    ("'fc' has no lora_A.weight", LORA, lora(lora_A_weight=None)),
    ("'fc' has no lora_magnitude_vector", LORA | {"use_dora": True}, lora()),
    ("lora_magnitude_vector' does not belong to the method", LORA, lora(lora_magnitude_vector=torch.ones(4))),
    ("'base_model.model.fc.lora_E' does not belong", LORA, lora(lora_E=torch.ones(2, 1))),
    ("the magnitudes' shape and (out,): (6,) and (4,)", LORA | {"use_dora": True}, lora(lora_magnitude_vector=torch.ones(6))),
    ("lora_A.weight has shape (2, 6, 1, 1)", LORA, lora(lora_A_weight=torch.ones(2, 6, 1, 1))),
    ("lora_A.weight has shape (0, 6)", LORA, lora(lora_A_weight=torch.ones(0, 6), lora_B_weight=torch.ones(4, 0))),
    ("lora_B.weight has shape ()", LORA, lora(lora_B_weight=torch.tensor(1.0))),
    ("the ranks of lora_A.weight and lora_B.weight: 2 and 3", LORA, lora(lora_B_weight=torch.ones(4, 3))),
    ("the rank of the tensors and in adapter_config.json: 2 and 4", LORA | {"r": 4}, lora()),
    ("the rank of the tensors and in adapter_config.json: 2 and 3", LORA | {"rank_pattern": {"fc": 3}}, lora()),
    ("has dtype I64; an update has one of F64, F32, F16, BF16", LORA, lora(lora_A_weight=torch.ones(2, 6, dtype=torch.int64))),
    ("has dtype F8_E4M3", LORA, lora(lora_A_weight=torch.ones(2, 6).to(torch.float8_e4m3fn))),
    ("does not name a layer", LORA, {"base_model.model.../../x.lora_A.weight": torch.ones(2, 6)}),
    ("does not name a layer", LORA, {"base_model.model.a/b.lora_A.weight": torch.ones(2, 6)}),
    ("does not name a layer", LORA, {"base_model.model.a\nb.lora_A.weight": torch.ones(2, 6)}),
    ("does not name a layer", LORA, {f"base_model.model.{'a' * 300}.lora_A.weight": torch.ones(2, 6)}),
    ("has lora_magnitude_vector twice", LORA | {"use_dora": True}, lora(lora_magnitude_vector=torch.ones(4), lora_magnitude_vector_weight=torch.ones(4))),
    ("the rank of miss_block and in adapter_config.json: 3 and 2", MISS, block(3, 4)),
    ("miss_block has shape (2, 2, 2)", MISS, block(2, 2, 2)),
    ("the rows of miss_block and mini_r", MISS | {"init_weights": "mini", "mini_r": 3}, block(2, 4)),
    ("miss_block has shape (2, 3, 3); Bat with r=2 has (out/2, 2, 2)", BAT, block(2, 3, 3)),
    ("miss_block has shape (2, 4); Bat with r=2", BAT, block(2, 4)),
    ("bone_block has shape (2, 3, 3)", BAT | {"peft_type": "BONE"}, block(2, 3, 3, name="bone_block")),
    ("vera_lambda_d's shape and (r,) in adapter_config.json: (3,) and (2,)", VERA, vera(4, 3)),
    ("vera_B has 4 rows, vera_lambda_b 5", VERA, vera(5, 2)),
    ("the ranks of vera_A and vera_lambda_d: 3 and 2", VERA, vera(4, 2, A=(3, 6))),
    ("projection_prng_key=-1 is not a seed", VERA | {"projection_prng_key": -1}, {k: v for k, v in vera(4, 2).items() if "lambda" in k}),
    ("the ranks of hada_w1_a and hada_w1_b: 3 and 2", LOHA, loha((4, 3), (2, 6), (4, 3), (2, 6))),
    ("the shapes of hada_w1_b and hada_w2_b", LOHA, loha((4, 2), (2, 6), (4, 2), (2, 5))),
    ("'base_model.model.fc.hada_t1' does not belong", LOHA, loha((4, 2), (2, 6), (4, 2), (2, 6)) | {PREFIX + "hada_t1": torch.ones(2, 2, 1, 1)}),
    ("lora_E's shape and (r, 1): (2,) and (2, 1)", ADA, ada(2, 2)),
    ("lora_A has rank 3, above init_r=2", ADA, ada(3, 3, 1)),
    ("lora_A and lora_B are for a layer of (0, 6)", ADA, ada(2, 2, 1, out=0)),
]  # fmt: skip


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert 10 < len(text) < 320
    return text


@pytest.mark.parametrize(("message", "config", "tensors"), FOLDERS, ids=range(len(FOLDERS)))
def test_wrong_folders(message: str, config: Any, tensors: Any, tmp_path: Path) -> None:
    write(tmp_path, config, tensors)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        mv.read_peft(tmp_path)
    assert message in one_sentence(caught.value)


def test_the_right_ones_are_read(tmp_path: Path) -> None:
    """What the cases above are made from is fine as it is."""
    good = [
        (LORA, lora()),
        (LORA | {"use_dora": True}, lora(lora_magnitude_vector=torch.ones(4))),
        (MISS, block(2, 4)),
        (BAT, block(2, 2, 2)),
        (VERA, vera(4, 2)),
        (LOHA, loha((4, 2), (2, 6), (4, 2), (2, 6))),
        (ADA, ada(2, 2, 1)),
        (ADA, ada(0, 0, 1)),
    ]
    for config, tensors in good:
        write(tmp_path, config, tensors)
        assert list(mv.read_peft(tmp_path, base=nn.ModuleDict({"fc": nn.Linear(6, 4)}))) == ["fc"]


def test_missing_things(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        mv.read_peft(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*adapter_config\.json"):
        mv.read_peft(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*adapter_model\.safetensors"):
        mv.read_peft(tmp_path)
    (tmp_path / "adapter_model.safetensors").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        mv.read_peft(tmp_path)
    with pytest.raises(TypeError, match="folder=3 is not a path"):
        mv.read_peft(3)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        mv.read_peft("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_config.json")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        mv.read_peft(tmp_path)


def test_pickles_are_refused_and_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, LORA, lora())
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle: opening it may run any"):
        mv.read_peft(tmp_path)
    write(tmp_path, LORA, pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="is not a safetensors file"):
        mv.read_peft(tmp_path)
    write(tmp_path, LORA, lora())
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle"):
        mv.read_peft(tmp_path, base=tmp_path / "adapter_model.bin")
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "executed").exists(), "the bomb is one"


def test_a_pattern_made_to_match_for_ever(tmp_path: Path) -> None:
    name = "a." * 120 + "a"
    tensors = {f"base_model.model.{name}.{k[len(PREFIX) :]}": v for k, v in lora().items()}
    for pattern in (".*a*b", "[a]*[a]*b"):
        write(tmp_path, LORA | {"alpha_pattern": {pattern: 9.0}}, tensors)
        assert mv.read_peft(tmp_path)[name].scaling == 2.0


LETTERS = st.sampled_from("ab.-_0")
WORDS = st.lists(st.text("ab-_0", min_size=1, max_size=2), min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "^"]),
        st.lists(st.one_of(LETTERS, st.sampled_from([r"\.", r"\-", r"\$"])), min_size=1).map(
            "".join
        ),
        st.sampled_from(["", "", "$", ".*", "[ab]", "b?"]),
    ),
)


@given(st.lists(PATTERNS, max_size=8), WORDS)
def test_a_name_is_looked_up_as_its_regular_expression_matches(
    patterns: list[str], module: str
) -> None:
    numbers = {pattern: float(place) for place, pattern in enumerate(patterns)}
    matching = (n for p, n in numbers.items() if re.match(rf"(.*\.)?({p})$", module))
    assert Patterns("alpha_pattern", numbers).find(module) == next(matching, None)


def many(modules: int) -> tuple[dict[str, int], dict[str, Tensor]]:
    """A pattern for each module of a mixture of experts, by its full name, and their tensors."""
    names = [f"layers.{i // 8}.experts.{i % 8}.up" for i in range(modules)]
    tensors = {
        f"base_model.model.{name}.{key[len(PREFIX) :]}": value.clone()
        for name in names
        for key, value in lora().items()
    }
    return dict.fromkeys(names, 2), tensors


def test_the_work_grows_as_the_number_of_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted, not timed: headers read, and tensors read, by `read_peft` and `inspect_adapter`; and
    names compared, of which there are as many as modules."""
    counted = collections.Counter()

    def count(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return plain(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    count(safetensors, "safe_open")
    count(TensorFile, "read")
    count(config_module, "_with_holes")
    found = []
    for modules in (24, 48):
        patterns, tensors = many(modules)
        write(tmp_path, LORA | {"r": 4, "rank_pattern": patterns, "lora_alpha": 4}, tensors)
        counted.clear()
        assert len(mv.inspect_adapter(mv.read_peft(tmp_path))) == modules
        found.append(dict(counted))
        assert counted["safe_open"] == 1
        assert counted["read"] == 4 * modules
        assert counted["_with_holes"] <= 2 * modules
    assert found[1]["_with_holes"] <= 2 * found[0]["_with_holes"]


def test_names_by_the_thousand_are_no_pattern_too_many(tmp_path: Path) -> None:
    patterns, tensors = many(4)
    more = {f"elsewhere.{i}": 3 for i in range(6000)}
    write(tmp_path, LORA | {"r": 4, "rank_pattern": more | patterns}, tensors)
    assert {update.rank for update in mv.read_peft(tmp_path).values()} == {2}


BASES: list[tuple[str, type[Exception], Callable[[Path], Any]]] = [
    ("base of type int", TypeError, lambda path: 3),
    ("there is no file", FileNotFoundError, lambda path: path / "nowhere"),
    ("there is no file", FileNotFoundError, lambda path: path),
    ("base: the model has no layer 'fc'", ValueError, lambda path: nn.Linear(6, 4)),
    ("base: the model has no layer 'fc'", ValueError, lambda path: nn.ModuleDict({"fc": nn.ReLU()})),
    ("'fc': base: the layer is (4, 7), the adapter's tensors are for (4, 6)", ValueError, lambda path: nn.ModuleDict({"fc": nn.Linear(7, 4)})),
    ("base: there is no tensor 'fc.weight'", ValueError, lambda path: file(path, {"gc.weight": torch.ones(4, 6)})),
    ("base: 'fc' has a weight of shape (4,), no matrix", ValueError, lambda path: file(path, {"fc.weight": torch.ones(4)})),
    ("'fc.weight' has dtype U8", ValueError, lambda path: file(path, {"fc.weight": torch.ones(4, 6, dtype=torch.uint8)})),
    ("puts 'fc.weight' in '../base.safetensors', which is no file name", ValueError, lambda path: index(path, {"fc.weight": "../base.safetensors"})),
    ("which is no file name inside its own folder", ValueError, lambda path: index(path, {"fc.weight": "/etc/passwd"})),
    ("which is no file name inside its own folder", ValueError, lambda path: index(path, {"fc.weight": "a\\b"})),
    ("which is no file name inside its own folder", ValueError, lambda path: index(path, {"fc.weight": "\ud800"})),
    ("which is no file name inside its own folder", ValueError, lambda path: index(path, {"fc.weight": ".."})),
    ("which is no file name inside its own folder", ValueError, lambda path: index(path, {"fc.weight": 3})),
    ("model.safetensors.index.json has no weight_map", ValueError, lambda path: index(path, [])),
    ("there is no file", FileNotFoundError, lambda path: index(path, {"fc.weight": "gone.safetensors"})),
    ("shard.bin is a pickle", ValueError, lambda path: index(path, {"fc.weight": "shard.bin"}, "shard.bin")),
    ("shard.safetensors has no tensor 'fc.weight'", ValueError, lambda path: index(path, {"fc.weight": "shard.safetensors"}, "shard.safetensors")),
]  # fmt: skip


def file(folder: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, folder / "base.safetensors")
    return folder / "base.safetensors"


def index(folder: Path, places: Any, shard: str | None = None) -> Path:
    (folder / "base").mkdir()
    text = json.dumps({"weight_map": places})
    (folder / "base" / "model.safetensors.index.json").write_text(text)
    if shard:
        save_file({"other.weight": torch.ones(4, 6)}, folder / "base" / shard)
    return folder / "base"


@pytest.mark.parametrize(("message", "kind", "make"), BASES, ids=range(len(BASES)))
def test_wrong_bases(
    message: str, kind: type[Exception], make: Callable[[Path], Any], tmp_path: Path
) -> None:
    write(tmp_path, LORA, lora())
    with pytest.raises(kind) as caught:
        mv.read_peft(tmp_path, base=make(tmp_path))
    assert type(caught.value) is kind
    assert message in one_sentence(caught.value)


def test_bases_that_do_not_suit_the_method(tmp_path: Path) -> None:
    write(tmp_path, MISS, block(2, 4))
    with pytest.raises(ValueError, match=r"base of \(4, 1\): rank=2 exceeds in_features=1"):
        mv.read_peft(tmp_path, base=nn.ModuleDict({"fc": nn.Linear(1, 4)}))
    write(tmp_path, BAT, block(2, 2, 2))
    with pytest.raises(ValueError, match="block_size=2 does not divide in_features=5"):
        mv.read_peft(tmp_path, base=nn.ModuleDict({"fc": nn.Linear(5, 4)}))
    write(tmp_path, VERA, vera(4, 2))
    with pytest.raises(ValueError, match="vera_A has 6 columns"):
        mv.read_peft(tmp_path, base=nn.ModuleDict({"fc": nn.Linear(7, 4)}))
    lonely = {k: v for k, v in vera(4, 2).items() if k != "base_model.vera_B"}
    write(tmp_path, VERA, lonely)
    with pytest.raises(ValueError, match="vera_B"):
        mv.read_peft(tmp_path)
    write(tmp_path, BAT, block(2, 2, 2))
    meta = nn.ModuleDict({"fc": nn.Linear(4, 4, device="meta")})
    with pytest.raises(ValueError, match="on the meta device"):
        mv.read_peft(tmp_path, base=meta)["fc"].delta()


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, LORA, lora())
    adapter = mv.read_peft(tmp_path)
    save_file(lora(lora_A_weight=torch.ones(2, 7)), tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="has changed since it was opened"):
        adapter["fc"].delta()
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="is not a safetensors file"):
        adapter["fc"].delta()


def test_memory_stays_that_of_one_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {
        f"base_model.model.layers.{layer}.q.{name}": tensor
        for layer in range(20)
        for name, tensor in (
            ("lora_A.weight", torch.ones(2, 6)),
            ("lora_B.weight", torch.ones(4, 2)),
        )
    }
    write(tmp_path, LORA, tensors)
    living: weakref.WeakSet[Tensor] = weakref.WeakSet()
    others: list[int] = []
    plain = TensorFile.read

    def read(self: TensorFile, name: str) -> Tensor:
        others.append(len(living))
        living.add(tensor := plain(self, name))
        return tensor

    monkeypatch.setattr(TensorFile, "read", read)
    assert len(mv.read_peft(tmp_path)) == 20
    assert len(others) == 40
    assert max(others) <= 1
    assert not living


def test_a_huge_header_costs_nothing(tmp_path: Path) -> None:
    """It says 8 EiB; the file has some bytes."""
    write(tmp_path, LORA, raw({PREFIX + "lora_A.weight": entry([2**60, 2], 0, 2**63)}, BYTES))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is not a safetensors file"):
            mv.read_peft(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
