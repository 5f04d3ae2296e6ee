"""`write_peft`: the adapters of a model as PEFT keeps them."""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from missviz.adapters import validation
from missviz.adapters.adalora import AdaLoRAAdapter
from missviz.adapters.base import Adapter
from missviz.adapters.bat import OutputBatAdapter
from missviz.adapters.dora import DoRAAdapter
from missviz.adapters.loha import LoHaAdapter
from missviz.adapters.lora import FrozenALoRAAdapter, LoRAAdapter, LoRAPlusAdapter
from missviz.adapters.miss import MiSSAdapter
from missviz.adapters.training import adapters_in
from missviz.adapters.update import Update
from missviz.adapters.vera import VeRAAdapter
from missviz.peft_folder.config import BASE, CONFIG, PREFIX, TENSORS
from missviz.peft_folder.untrusted import is_plain


@dataclass
class _Form:
    """One layer as PEFT keeps it."""

    settings: dict[str, Any]
    """What adapter_config.json says; the same for all layers of a folder."""
    tensors: Mapping[str, Tensor]
    rank: int | None = None
    alpha: float | None = None
    error: float = 0.0
    """‖ΔW − what is written‖_F / ‖ΔW‖_F."""


_ALPHA = {"LORA": "lora_alpha", "LOHA": "alpha"}
"""What α is called where rank and α may differ between layers."""


def write_peft(
    model: nn.Module | Mapping[str, Update],
    folder: str | Path,
    *,
    as_lora: bool = False,
    rank: int | None = None,
    base_model_name: str | None = None,
) -> dict[str, float]:
    """Write the adapters of a model such that `peft.PeftModel.from_pretrained` loads them.

    What PEFT knows is written as it is: LoRA (LoRA+, LoRA-FA and BigLoRA are LoRAs by then), DoRA
    by rows, AdaLoRA, LoHa, VeRA, MiSS with tiled columns, MiSS mini, PEFT's Bat. Any other ΔW that
    has factors L R is written as the LoRA B = L, A = R, α = r, exactly: PiSSA, OLoRA and LoRA-GA
    (rank 2r), MiSS by rows or blocks, fixed factors. Dropout is no part of it.

    Args:
        model: with adapters (`missviz.attach`), or updates by name such as from `read_peft`,
            which are written as LoRA.
        folder: is made; one that exists must be empty or hold nothing but an earlier result, which
            is replaced once the new one is complete.
        as_lora: write everything as LoRA, exactly where ΔW has factors.
        rank: with `as_lora`, the most rank that a layer gets: the largest singular values are
            kept. Needed where ΔW has no factors (Bat).
        base_model_name: what the config says of the model; a name or path for others to load.

    Returns, for each layer, ‖ΔW − what is written‖_F / ‖ΔW‖_F: 0.0 unless it was cut.

    Raises:
        TypeError: `model` is neither, or `rank` is not a whole number.
        ValueError: no adapters; layers that do not fit into one PEFT config; a ΔW that PEFT does
            not know; something else in the model was trained, which a folder would lose.
        FileExistsError: there is something else in `folder`.
    """
    if rank is not None:
        rank = validation.positive_int("rank", rank)
        if not as_lora:
            raise ValueError(f"rank={rank} is for as_lora=True; adapters keep their own rank")
    path = _free_folder(folder)
    updates = _updates_to_write(model)
    forms: dict[str, _Form] = {}
    with torch.no_grad():
        for name, update in updates.items():
            try:
                forms[name] = (None if as_lora else _native(update)) or _lora_form(update, rank)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    config = _common_settings(forms) | _patterns(forms)
    config["target_modules"] = _targets(list(forms), model)
    config["base_model_name_or_path"] = base_model_name
    config |= {"task_type": None, "bias": "none", "inference_mode": True}
    tensors = {
        f"{PREFIX}{name}.{suffix}": tensor
        for name, form in forms.items()
        for suffix, tensor in form.tensors.items()
    }
    if config["peft_type"] == "VERA":
        tensors |= _shared_pool(updates)
    _write(path, config, tensors)
    return {name: form.error for name, form in forms.items()}


def _updates_to_write(model: nn.Module | Mapping[str, Update]) -> dict[str, Update]:
    if isinstance(model, Mapping):
        updates = dict(model)
        if not updates or not all(isinstance(update, Update) for update in updates.values()):
            raise TypeError("model is a mapping without updates, or of something else")
    else:
        updates = dict(adapters_in(model))
        _refuse_what_is_lost(model, updates)
    for name in updates:
        if not isinstance(name, str) or not is_plain(name):
            raise ValueError(f"PEFT wants a layer inside a model, by name; this one is {name!r}")
    return updates


def _refuse_what_is_lost(model: nn.Module, updates: Mapping[str, Update]) -> None:
    """ValueError where the model's function is not W₀ and these updates alone."""
    adapters = {adapter for adapter in updates.values() if isinstance(adapter, Adapter)}
    for name, part in model.named_modules(remove_duplicate=False):
        if part in adapters and name not in updates:
            raise ValueError(f"{name} is a layer that stands in two places; PEFT adapts one")
    for name, adapter in updates.items():
        assert isinstance(adapter, Adapter)
        if adapter.bias is not adapter.base.bias:
            raise ValueError(f"{name}: its bias is trained, and a PEFT folder would lose it")
    own = {parameter for adapter in adapters for parameter in adapter.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in own:
            raise ValueError(f"{name} is trained beside the adapters; the folder would lose it")


_LORA: dict[str, Any] = {"peft_type": "LORA", "init_lora_weights": True}


def _lora(own: LoRAAdapter) -> _Form:
    method, tensors = own.method, {"lora_A.weight": own.A, "lora_B.weight": own.B}
    settings = _LORA | {"use_rslora": method.rslora}
    return _Form(settings, tensors, method.rank, method.alpha or method.rank)


def _dora(own: DoRAAdapter) -> _Form | None:
    method, lengths = own.method, own.m.squeeze(-1)
    if method.norm == "columns":
        return None
    tensors = {"lora_A.weight": own.A, "lora_B.weight": own.B, "lora_magnitude_vector": lengths}
    return _Form(_LORA | {"use_dora": True}, tensors, method.rank, method.alpha or method.rank)


def _adalora(own: AdaLoRAAdapter) -> _Form:
    method = own.method
    # PEFT refuses a config without a schedule, though none is followed after training.
    settings = {"peft_type": "ADALORA", "init_r": method.rank, "target_r": method.rank}
    settings |= {"lora_alpha": method.alpha or method.rank, "total_step": 1}
    return _Form(settings, {"lora_A": own.A, "lora_B": own.B, "lora_E": own.E})


def _loha(own: LoHaAdapter) -> _Form:
    method = own.method
    names = ("w1_a", "w1_b", "w2_a", "w2_b")
    tensors = {f"hada_{name}": own.get_parameter(name) for name in names}
    return _Form({"peft_type": "LOHA"}, tensors, method.rank, method.alpha or method.rank)


def _vera(own: VeRAAdapter) -> _Form:
    settings = {"peft_type": "VERA", "r": own.method.rank, "save_projection": True}
    return _Form(settings, {"vera_lambda_b": own.b, "vera_lambda_d": own.v})


def _miss(own: MiSSAdapter) -> _Form | None:
    method = own.method
    if (method.share, method.layout) != ("columns", "tiled"):
        return None
    settings = {"peft_type": "MISS", "r": method.rank, "init_weights": True}
    if method.mini is not None:
        settings |= {"init_weights": "mini", "mini_r": method.mini}
    return _Form(settings, {"miss_block": own.D.mT})


def _bat(own: OutputBatAdapter) -> _Form:
    settings = {"peft_type": "MISS", "r": own.method.block_size, "init_weights": "bat"}
    return _Form(settings, {"miss_block": own.D})


_NATIVE: dict[type[Update], Callable[[Any], _Form | None]] = {
    LoRAAdapter: _lora,
    FrozenALoRAAdapter: _lora,
    LoRAPlusAdapter: _lora,
    DoRAAdapter: _dora,
    AdaLoRAAdapter: _adalora,
    LoHaAdapter: _loha,
    VeRAAdapter: _vera,
    MiSSAdapter: _miss,
    OutputBatAdapter: _bat,
}
"""By the very class: a subclass may have a formula of its own. None: PEFT has no such variant."""


def _native(update: Update) -> _Form | None:
    """The form that PEFT has for this very method; None without one."""
    form = _NATIVE.get(type(update))
    return form and form(update)


def _lora_form(update: Update, rank: int | None) -> _Form:
    """ΔW as B A: its factors, or the best product of this rank."""
    thin = update.factors()
    error = 0.0
    if thin is None and rank is None:
        raise ValueError(
            f"{getattr(update, 'method', update)} has no PEFT form and no thin factors; "
            "as_lora=True, rank=r writes the closest LoRA of rank r"
        )
    if thin is None or (rank is not None and rank < thin[0].shape[-1]):
        assert rank is not None
        thin, error = _truncated(update.delta(), rank)
    B, A = thin
    if B.dim() != 2:
        raise ValueError(f"ΔW of shape {tuple(update.delta().shape)}; PEFT has no member dimension")
    if not A.shape[0]:  # pruned by AdaLoRA; PEFT's LoRA has no rank 0
        B, A = B.new_zeros(B.shape[0], 1), A.new_zeros(1, A.shape[1])
    settings = _LORA | {"use_rslora": False}
    tensors = {"lora_A.weight": A, "lora_B.weight": B}
    return _Form(settings, tensors, A.shape[0], A.shape[0], error)


def _truncated(
    delta: Float[Tensor, "out in_"], rank: int
) -> tuple[tuple[Float[Tensor, "out r"], Float[Tensor, "r in_"]], float]:
    """The closest product of this rank (Eckart and Young), and how far it is off, relatively."""
    exact = delta.double()
    validation.finite("ΔW", exact)
    U, S, Vh = torch.linalg.svd(exact, full_matrices=False)
    root = S[:rank].sqrt()
    B, A = (U[:, :rank] * root).to(delta), (root.unsqueeze(1) * Vh[:rank]).to(delta)
    norm = float(torch.linalg.matrix_norm(exact))
    off = float(torch.linalg.matrix_norm(exact - B.double() @ A.double()))
    return (B, A), off / norm if norm else 0.0


def _common_settings(forms: Mapping[str, _Form]) -> dict[str, Any]:
    first_name, first = next(iter(forms.items()))
    for name, form in forms.items():
        if form.settings != first.settings:
            raise ValueError(
                f"{first_name} is {first.settings} and {name} {form.settings}; a PEFT folder has "
                "one for all layers. as_lora=True writes them all as LoRA"
            )
    return dict(first.settings)


def _patterns(forms: Mapping[str, _Form]) -> dict[str, Any]:
    """r and α of most layers, and those of the others by name."""
    kind = next(iter(forms.values())).settings["peft_type"]
    if kind not in _ALPHA:
        return {}
    config: dict[str, Any] = {}
    for key, pattern, values in (
        ("r", "rank_pattern", {name: form.rank for name, form in forms.items()}),
        (_ALPHA[kind], "alpha_pattern", {name: form.alpha for name, form in forms.items()}),
    ):
        config[key] = Counter(values.values()).most_common(1)[0][0]
        config[pattern] = {
            f"^{re.escape(name)}": value for name, value in values.items() if value != config[key]
        }
    return config


def _targets(names: list[str], model: nn.Module | Mapping[str, Update]) -> list[str] | str:
    """What PEFT finds these layers by, and no other: it takes names that merely end so."""
    others = dict(model.named_modules()) if isinstance(model, nn.Module) else dict.fromkeys(names)
    ends = tuple(f".{name}" for name in names)
    if not any(other.endswith(ends) and other not in names for other in others):
        return names
    return "|".join(re.escape(name) for name in names)


def _shared_pool(updates: Mapping[str, Update]) -> dict[str, Tensor]:
    """VeRA's A and B, as wide and tall as PEFT makes them for these layers."""
    adapters = [update for update in updates.values() if isinstance(update, VeRAAdapter)]
    widest = max(adapter.in_features for adapter in adapters)
    tallest = max(adapter.out_features for adapter in adapters)
    pool = next((a for a in adapters if a.A.shape[1] >= widest and a.B.shape[0] >= tallest), None)
    if pool is not None:
        A, B = pool.A[:, :widest], pool.B[:tallest]
        if all(
            torch.equal(adapter.A[:, : adapter.in_features], A[:, : adapter.in_features])
            and torch.equal(adapter.B[: adapter.out_features], B[: adapter.out_features])
            for adapter in adapters
        ):
            return {f"{BASE}vera_A": A, f"{BASE}vera_B": B}
    raise ValueError(
        "the layers have no A and B in common, which PEFT's VeRA wants; attach it to all of them "
        "at once, or write as_lora=True"
    )


def _free_folder(folder: str | Path) -> Path:
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder={folder!r} is not a path")
    path = Path(folder).resolve()
    if path.is_dir():
        others = sorted({part.name for part in path.iterdir()} - {CONFIG, TENSORS})
        if others:
            raise FileExistsError(f"folder={path} holds {others[0]}; give a new or empty one")
    elif path.exists():
        raise FileExistsError(f"folder={path} is a file")
    return path


def _write(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Both files in a new folder, which then takes the place of the old one."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.part")
    old = path.with_name(f"{path.name}.{os.getpid()}.old")
    new.mkdir()
    try:
        # Copies: tensors that share memory, such as a pool's slices, are refused.
        plain = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        save_file(plain, new / TENSORS, metadata={"format": "pt"})
        (new / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        _replace(path, new, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _replace(path: Path, new: Path, old: Path) -> None:
    if not path.is_dir():
        new.rename(path)
        return
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
