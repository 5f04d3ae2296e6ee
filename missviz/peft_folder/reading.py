"""`read_peft`: which method a folder is of, and which tensors belong to which layer."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from missviz.adapters.validation import not_finite
from missviz.machine import one_thread
from missviz.peft_folder import updates as kinds
from missviz.peft_folder.config import BASE, CONFIG, PREFIX, TENSORS, Config
from missviz.peft_folder.untrusted import (
    TensorFile,
    Weights,
    existing_file,
    is_plain,
    json_object,
    shown,
)
from missviz.peft_folder.updates import PeftUpdate

PICKLED = "adapter_model.bin"


class PeftAdapter(Mapping[str, PeftUpdate]):
    """A PEFT folder: updates by module name, in the order of the file.

    Attributes:
        method: as in `PeftUpdate`.
        config: adapter_config.json as it is.
        warnings: sentences on what is odd or left out.
    """

    def __init__(
        self,
        updates: dict[str, PeftUpdate],
        method: str,
        config: dict[str, Any],
        warnings: list[str],
    ) -> None:
        self._updates = updates
        self.method, self.config, self.warnings = method, config, warnings

    def __getitem__(self, module: str) -> PeftUpdate:
        return self._updates[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates)

    def __len__(self) -> int:
        return len(self._updates)

    def __repr__(self) -> str:
        return f"PeftAdapter({self.method}, {len(self)} layers)"


def read_peft(folder: str | Path, base: nn.Module | str | Path | None = None) -> PeftAdapter:
    """What Hugging Face PEFT has saved in a folder, as updates by module name.

    The folder is not trusted: only safetensors are opened, nothing in them runs, sizes are checked
    against the file before anything is allocated, and no path in the folder is followed. Tensors
    are read one at a time, once here to look for NaN, and again when a ΔW is asked for. NaN and
    infinity are read and stand in `.warnings`.

    Known: LoRA, rsLoRA, DoRA, PiSSA and OLoRA (converted, or as trained), AdaLoRA, LoHa, VeRA,
    MiSS (with mini and Bat) and both meanings of Bone. `delta()` and `factors()` are in the dtype
    of the file, and at least float32.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        base: W₀. A model, a safetensors file, or a folder with model.safetensors or its sharded
            index. Without it `delta()` raises ValueError for DoRA, Bat, PiSSA and OLoRA as
            trained, whose ΔW contains W₀, and for MiSS and VeRA, whose folders do not say
            in_features; their `shape` has None there.

    Raises:
        FileNotFoundError: there is no such folder, or a file in it (or of the base) is missing.
        ValueError: pickles; an unknown method or setting; tensors or a base that do not fit.
        TypeError: `folder` or `base` is of another type.

    Source: `peft/utils/save_and_load.py` and `peft/tuners/*/layer.py`; both meanings of Bone:
    PEFT #2172 and #2233.
    """
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder={folder!r} is not a path")
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {path}")
    config = Config(json_object(path / CONFIG))
    if not (path / TENSORS).exists() and (path / PICKLED).exists():
        existing_file(path / PICKLED)
    file = TensorFile(path / TENSORS)
    transposed = config.flag("fan_in_fan_out")
    weights = None if base is None else Weights(base, transposed)
    kind, method = _kind(config, file)
    layers, rest = _layers(file, kind.suffixes)
    stored = kinds.Folder(config, file, weights, list(layers))
    updates = {}
    for module, names in layers.items():
        try:
            updates[module] = kind(stored, module, method, names)
        except ValueError as error:
            raise ValueError(f"{shown(module)}: {error}") from None
    warnings = [*_config_warnings(config, updates), *_tensor_warnings(file, rest)]
    return PeftAdapter(updates, method, config.values, warnings)


def _kind(config: Config, file: TensorFile) -> tuple[type[PeftUpdate], str]:
    """The class of a folder's updates, and their method's name."""
    kind = config.get("peft_type")
    if kind is None:
        raise ValueError(f"{CONFIG} has no peft_type, so it does not say which method this is")
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(_KINDS)
        raise ValueError(f"{CONFIG}: peft_type={shown(kind)} is not read; known are {known}")
    return _KINDS[kind](config, file)


def _lora_kind(config: Config, file: TensorFile) -> tuple[type[PeftUpdate], str]:
    for key in ("use_qalora", "use_bdlora", "arrow_config", "kasa_config", "monteclora_config"):
        if config.get(key):
            raise ValueError(f"{CONFIG}: {key} is set; that is another formula than s B A")
    start = config.get("init_lora_weights")
    start = start.lower() if isinstance(start, str) else ""
    names = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA"}
    names["loftq"] = "LoftQ"
    started = names.get(start.partition("_niter_")[0])
    dora = config.flag("use_dora")
    if started and dora:
        raise ValueError(f"{CONFIG}: use_dora with init_lora_weights={shown(start)} is not read")
    if started:
        return kinds.StartedUpdate, started
    if dora:
        return kinds.DoRAUpdate, "DoRA"
    return kinds.LoRAUpdate, "rsLoRA" if config.flag("use_rslora") else "LoRA"


def _miss_kind(config: Config, file: TensorFile) -> tuple[type[PeftUpdate], str]:
    start = config.get("init_weights")
    if start in ("bat", "mini"):
        return (kinds.BatUpdate, "Bat") if start == "bat" else (kinds.MiSSUpdate, "MiSS mini")
    if start is not None and not isinstance(start, bool):
        raise ValueError(
            f"{CONFIG}: init_weights={shown(start)} is unknown; MiSS has true, false, bat, mini"
        )
    return kinds.MiSSUpdate, "MiSS"


def _bone_kind(config: Config, file: TensorFile) -> tuple[type[PeftUpdate], str]:
    block = next((s for name, s in file.shapes.items() if name.endswith("bone_block")), ())
    return (kinds.BoneBatUpdate if len(block) == 3 else kinds.BoneMiSSUpdate), "Bone"


_KINDS: dict[str, Callable[[Config, TensorFile], tuple[type[PeftUpdate], str]]] = {
    "LORA": _lora_kind,
    "MISS": _miss_kind,
    "BONE": _bone_kind,
    "ADALORA": lambda config, file: (kinds.AdaLoRAUpdate, "AdaLoRA"),
    "LOHA": lambda config, file: (kinds.LoHaUpdate, "LoHa"),
    "VERA": lambda config, file: (kinds.VeRAUpdate, "VeRA"),
}
"""By peft_type."""


def _layers(
    file: TensorFile, suffixes: tuple[str, ...]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """For each module the names of its tensors by suffix, and the names that are none of them."""
    layers: dict[str, dict[str, str]] = {}
    rest = []
    for name in file.shapes:
        # Before PEFT 0.9 DoRA's magnitudes were a parameter of a module.
        own = name.removesuffix(".weight") if name.endswith("_vector.weight") else name
        suffix = next((suffix for suffix in suffixes if own.endswith(f".{suffix}")), None)
        if suffix is None or not name.startswith(PREFIX):
            rest.append(name)
            continue
        module = own[len(PREFIX) : -len(suffix) - 1]
        if not is_plain(module) or "" in module.split("."):
            raise ValueError(f"{TENSORS}: {shown(name)} does not name a layer")
        if suffix in layers.setdefault(module, {}):
            raise ValueError(f"{TENSORS}: {shown(module)} has {suffix} twice")
        layers[module][suffix] = name
    if not layers:
        raise ValueError(
            f"{TENSORS} has no tensor {PREFIX}….{suffixes[0]}; the method of {CONFIG} wants it"
        )
    for module, names in layers.items():
        for suffix in suffixes:
            if suffix not in names:
                raise ValueError(f"{TENSORS}: {shown(module)} has no {suffix}")
    _refuse_contradictions(layers, rest)
    return layers, rest


_OWN = re.compile(
    r"\.(lora_[ABE]|lora_magnitude_vector|hada_\w+|vera_lambda_\w|miss_block|bone_block)(\.weight)?$"
)


def _refuse_contradictions(layers: Mapping[str, Any], rest: list[str]) -> None:
    for name in rest:
        found = _OWN.search(name)
        if found and name[len(PREFIX) : found.start()] in layers:
            raise ValueError(f"{TENSORS}: {shown(name)} does not belong to the method of {CONFIG}")


def _config_warnings(config: Config, updates: Mapping[str, PeftUpdate]) -> Iterator[str]:
    first = next(iter(updates.values()))
    alpha = first.alpha_key
    if alpha and config.get(alpha) is None:
        yield f"{CONFIG} has no {alpha}; PEFT then takes 8"
    elif alpha and config.get(alpha) == 8 and first.scaling <= 0.25:
        yield (
            f"{alpha} is PEFT's default 8 beside r={first.rank}, so s={first.scaling:.3g}: "
            "was it forgotten?"
        )
    odd = [update for update in updates.values() if update.scaling <= 0]
    if odd:
        yield f"{shown(odd[0].module)}: the scaling is {odd[0].scaling:g}, not positive"
    if type(first) is kinds.StartedUpdate:
        start = str(config.get("init_lora_weights"))
        yield (
            f"init_lora_weights={shown(start)} and not converted: B A starts at a part of W₀, so "
            "B A alone is not the update; ΔW needs base="
        )
        if "niter" in start:
            yield (
                "the start was an approximate, random SVD and is replaced by the exact one, so ΔW "
                "is off by their difference"
            )
    if config.get("alora_invocation_tokens"):
        yield "alora_invocation_tokens: ΔW acts only after these tokens"


def _tensor_warnings(file: TensorFile, rest: list[str]) -> Iterator[str]:
    extra = [name for name in rest if name not in (f"{BASE}vera_A", f"{BASE}vera_B")]
    skipped = set(extra)
    if extra:
        yield (
            f"{len(extra)} tensors are no update of a linear layer and are left out "
            f"(biases, embeddings, modules_to_save), such as {shown(extra[0])}"
        )
    for name in [name for name in file.shapes if name not in skipped]:
        with one_thread():
            bad = not_finite(file.read(name))
        if bad:
            yield f"{shown(name)} has {bad} values that are NaN or infinite"
