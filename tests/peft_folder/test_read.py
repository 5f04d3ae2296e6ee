"""Folders that PEFT has written: the same ΔW here as PEFT's own merge minus the base."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    LoHaConfig,
    LoraConfig,
    MissConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
)
from peft_folder.models import close, fill, inputs, loaded, net, peft_updates, saved
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import missviz as mv
from missviz.adapters.update import Update

ALL = ["q", "up", "down"]
PATTERNS: dict[str, Any] = dict(
    rank_pattern={"up": 2, "layers.1.q": 5, r"^layers\.0\.do.n": 1},
    alpha_pattern={"q": 7, r"layers\.\d\.up": 1.5},
)

EXACT: dict[str, tuple[Callable[[], Any], bool]] = {
    "LoRA": (lambda: LoraConfig(r=3, lora_alpha=12, target_modules=ALL), False),
    "LoRA with patterns": (lambda: LoraConfig(r=3, target_modules=ALL, **PATTERNS), False),
    "rsLoRA": (lambda: LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=ALL), False),
    "rsLoRA with patterns": (lambda: LoraConfig(r=4, use_rslora=True, target_modules=ALL, **PATTERNS), False),
    "LoRA wider than its layer": (lambda: LoraConfig(r=16, target_modules=["q"]), False),
    "DoRA": (lambda: LoraConfig(r=3, lora_alpha=4, use_dora=True, target_modules=ALL), True),
    "DoRA with patterns": (lambda: LoraConfig(r=3, use_dora=True, target_modules=ALL, **PATTERNS), True),
    "AdaLoRA": (lambda: AdaLoraConfig(init_r=4, target_r=2, total_step=9, lora_alpha=6, target_modules=ALL), False),
    "LoHa": (lambda: LoHaConfig(r=3, alpha=5, target_modules=ALL), False),
    "LoHa with patterns": (lambda: LoHaConfig(r=3, target_modules=ALL, **PATTERNS), False),
    "VeRA": (lambda: VeraConfig(r=5, target_modules=ALL), True),
    "VeRA, projections not kept": (lambda: VeraConfig(r=5, save_projection=False, projection_prng_key=7, target_modules=ALL), True),
    "VeRA, projections not kept, not square": (lambda: VeraConfig(r=5, save_projection=False, target_modules=["up"]), True),
    "MiSS": (lambda: MissConfig(r=4, target_modules=ALL), True),
    "MiSS r=3": (lambda: MissConfig(r=3, target_modules=ALL), True),
    "MiSS mini": (lambda: MissConfig(r=4, mini_r=2, init_weights="mini", target_modules=ALL), True),
    "Bat": (lambda: MissConfig(r=2, init_weights="bat", target_modules=ALL), True),
}  # fmt: skip


def one_name(kind: str) -> str:
    return kind.partition(" with")[0].partition(",")[0].partition(" wider")[0].partition(" r=")[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", EXACT)
def test_delta_is_pefts_merge_minus_base(kind: str, tmp_path: Path) -> None:
    make, needs_base = EXACT[kind]
    config = make()
    # VeRA's A and B and LoHa's scaling are float32 in PEFT, whatever the model is.
    limit = 1e-6 if kind[:4] in ("VeRA", "LoHa") else 1e-12
    base = saved(config, tmp_path)
    adapter = mv.read_peft(tmp_path, base=base)
    assert adapter.method == one_name(kind)
    assert not adapter.warnings
    wanted = peft_updates(base, tmp_path)
    assert set(adapter) == {name for name in wanted if name.split(".")[-1] in config.target_modules}
    for name, update in adapter.items():
        assert isinstance(update, Update)
        delta = update.delta()
        assert delta.abs().max() > 0.01
        assert close(delta, wanted[name], limit), name
        assert update.shape == tuple(delta.shape)
        assert close(update.spectrum(), torch.linalg.svdvals(delta.double()), 1e-7)
        if (thin := update.factors()) is not None:
            assert close(thin[0] @ thin[1], delta, 1e-12)
    if needs_base:
        alone = mv.read_peft(tmp_path)
        assert alone.keys() == adapter.keys()
        for ask in ("delta", "spectrum"):
            with pytest.raises(ValueError, match="base="):
                getattr(alone[name], ask)()
    else:
        assert torch.equal(mv.read_peft(tmp_path)[name].delta(), adapter[name].delta())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("alpha", [3, 10])
@pytest.mark.parametrize("rslora", [False, True])
def test_started_from_the_weight(start: str, alpha: int, rslora: bool, tmp_path: Path) -> None:
    """As trained ΔW needs W₀; PEFT converts it to a LoRA of rank 2r, which is the same ΔW."""
    config = LoraConfig(
        r=3, lora_alpha=alpha, init_lora_weights=start, use_rslora=rslora, target_modules=ALL
    )
    base = net(torch.float32)
    model = get_peft_model(copy.deepcopy(base), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = start
    fill(model, 0.3, "adapter", add=True)
    y = model(inputs(torch.float32))
    model.save_pretrained(tmp_path / "trained")
    model.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start"
    )
    trained = mv.read_peft(tmp_path / "trained", base=base)
    converted = mv.read_peft(tmp_path / "converted")
    assert trained.method == {"pissa": "PiSSA", "olora": "OLoRA"}[start]
    assert "B A alone is not the update" in trained.warnings[0]
    assert converted.method == ("rsLoRA" if rslora else "LoRA")
    merged = model.merge_and_unload()
    x = inputs(torch.float32)
    assert close(merged(x), y, 1e-5)
    for name, update in trained.items():
        wanted = merged.get_submodule(name).weight - base.get_submodule(name).weight
        assert close(update.delta(), wanted, 1e-5)
        assert converted[name].rank == 6
        assert close(converted[name].delta(), wanted, 1e-5)
        alone = mv.read_peft(tmp_path / "trained")[name]
        with pytest.raises(ValueError, match="base="):
            alone.delta()


@pytest.mark.parametrize("start", ["corda", "lora_ga", "loftq"])
def test_starts_that_no_folder_keeps(start: str, tmp_path: Path) -> None:
    base = saved(LoraConfig(r=3, target_modules=ALL), tmp_path)
    edit(tmp_path, init_lora_weights=start)
    adapter = mv.read_peft(tmp_path, base=base)
    assert "not converted" in adapter.warnings[0]
    with pytest.raises(ValueError, match="converted"):
        adapter["layers.0.q"].delta()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_adalora_after_pruning(tmp_path: Path) -> None:
    """PEFT cuts the ranks in the folder and keeps the scaling of the first rank."""
    base = net()
    config = AdaLoraConfig(
        init_r=4, target_r=1, tinit=1, tfinal=1, total_step=8, deltaT=1, target_modules=ALL
    )
    model = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=False)
    fill(model, 0.3, "adapter")
    for step in range(9):
        model(inputs()).square().mean().backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    y = model(inputs())
    model.save_pretrained(tmp_path)
    adapter = mv.read_peft(tmp_path)
    ranks = [update.rank for update in adapter.values()]
    assert sum(ranks) == 6
    assert len(set(ranks)) > 1
    wanted = copy.deepcopy(base)
    with torch.no_grad():
        for name, update in adapter.items():
            wanted.get_submodule(name).weight += update.delta()
            assert len(update.spectrum()) == 10
    assert close(wanted(inputs()), y, 1e-10)


@pytest.mark.parametrize("init_weights", [True, "bat"])
def test_both_meanings_of_bone(init_weights: bool | str, tmp_path: Path) -> None:
    """The older folders say init_weights=true with blocks of three dimensions."""
    base = saved(MissConfig(r=2, init_weights=init_weights, target_modules=ALL), tmp_path)
    wanted = peft_updates(base, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {name.replace("miss_", "bone_"): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    edit(tmp_path, peft_type="BONE", init_weights=True)
    adapter = mv.read_peft(tmp_path, base=base)
    assert adapter.method == "Bone"
    for name, update in adapter.items():
        assert close(update.delta(), wanted[name], 1e-12)
        assert update.rank == (None if init_weights == "bat" else 2)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("dora", [False, True])
def test_weights_kept_transposed(dora: bool, tmp_path: Path) -> None:
    """GPT-2's layers keep W₀ as (in, out); ΔW is (out, in) all the same."""
    from transformers.pytorch_utils import Conv1D

    base = nn.Sequential(Conv1D(14, 10)).double()
    fill(base, 0.4, "conv")
    config = LoraConfig(r=3, use_dora=dora, fan_in_fan_out=True, target_modules=["0"])
    model = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=False)
    fill(model, 0.3, "adapter", add=True)
    model.save_pretrained(tmp_path / "adapter")
    wanted = model.merge_and_unload()[0].weight - base[0].weight
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    for weights in (base, tmp_path / "base.safetensors"):
        update = mv.read_peft(tmp_path / "adapter", base=weights)["0"]
        assert update.shape == (14, 10)
        assert close(update.delta(), wanted.mT, 1e-12)


def test_base_from_files(tmp_path: Path) -> None:
    base = saved(MissConfig(r=2, init_weights="bat", target_modules=ALL), tmp_path / "adapter")
    wanted = peft_updates(base, tmp_path / "adapter")
    state = base.state_dict()
    (tmp_path / "one").mkdir()
    save_file(state, tmp_path / "one" / "model.safetensors")
    (tmp_path / "sharded").mkdir()
    places = {}
    for index, names in enumerate((list(state)[:5], list(state)[5:])):
        file = f"model-{index}.safetensors"
        save_file({name: state[name] for name in names}, tmp_path / "sharded" / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    # The body's name may be there, or left out, as transformers has it.
    save_file(
        {f"body.{name}": tensor for name, tensor in state.items()}, tmp_path / "body.safetensors"
    )
    bases = [
        tmp_path / "one",
        str(tmp_path / "one" / "model.safetensors"),
        tmp_path / "sharded",
        tmp_path / "body.safetensors",
        mv.attach(base, mv.MiSS(2)),
    ]
    for weights in bases:
        adapter = mv.read_peft(tmp_path / "adapter", base=weights)
        for name, update in adapter.items():
            assert close(update.delta(), wanted[name], 1e-12)


def test_base_is_read_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = saved(MissConfig(r=2, init_weights="bat", target_modules=ALL), tmp_path / "adapter")
    save_file(base.state_dict(), tmp_path / "base.safetensors")
    adapter = mv.read_peft(tmp_path / "adapter", base=tmp_path / "base.safetensors")
    from missviz.peft_folder.untrusted import TensorFile

    read: list[str] = []
    plain = TensorFile.read
    monkeypatch.setattr(
        TensorFile, "read", lambda self, name: read.append(name) or plain(self, name)
    )
    adapter["layers.1.up"].delta()
    assert sorted(read) == ["base_model.model.layers.1.up.miss_block", "layers.1.up.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_less_than_float32_are_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    saved(LoraConfig(r=3, lora_alpha=3, target_modules=["q"]), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors, path)
    left, right = mv.read_peft(tmp_path)["layers.0.q"].factors()
    assert left.dtype == torch.float32
    assert torch.equal(left, tensors["base_model.model.layers.0.q.lora_B.weight"].float())
    assert torch.equal(right, tensors["base_model.model.layers.0.q.lora_A.weight"].float())


def edit(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    saved(LoraConfig(r=40, target_modules=ALL, modules_to_save=["head"]), tmp_path)
    adapter = mv.read_peft(tmp_path)
    assert adapter.config["r"] == 40
    first, second = adapter.warnings
    assert "lora_alpha is PEFT's default 8 beside r=40" in first
    assert "2 tensors are no update" in second
    assert "head.bias" in second
    edit(tmp_path, lora_alpha="gone")
    assert "no lora_alpha; PEFT then takes 8" in mv.read_peft(tmp_path).warnings[0]
    edit(tmp_path, lora_alpha=-4)
    assert "scaling is -0.1, not positive" in mv.read_peft(tmp_path).warnings[0]
    edit(tmp_path, lora_alpha=40, init_lora_weights="pissa_niter_16")
    warnings = mv.read_peft(tmp_path).warnings
    assert "not converted" in warnings[0]
    assert "random SVD" in warnings[1]


def test_nan_is_read_and_said(tmp_path: Path) -> None:
    saved(LoraConfig(r=3, target_modules=["q"]), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.layers.0.q.lora_B.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    adapter = mv.read_peft(tmp_path)
    assert adapter.warnings == [
        "'base_model.model.layers.0.q.lora_B.weight' has 1 values that are NaN or infinite"
    ]
    assert adapter["layers.0.q"].delta().isnan().any()
    with pytest.raises(ValueError, match="left factor has 1 values that are NaN or infinite"):
        adapter["layers.0.q"].spectrum()


def test_magnitudes_of_old_dora_folders(tmp_path: Path) -> None:
    base = saved(LoraConfig(r=3, use_dora=True, target_modules=["q"]), tmp_path)
    wanted = mv.read_peft(tmp_path, base)["layers.0.q"].delta()
    path = tmp_path / "adapter_model.safetensors"
    tensors = {
        name + (".weight" if name.endswith("_vector") else ""): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path)
    assert torch.equal(mv.read_peft(tmp_path, base)["layers.0.q"].delta(), wanted)


def test_what_is_known_without_base(tmp_path: Path) -> None:
    saved(MissConfig(r=4, target_modules=ALL), tmp_path)
    update = mv.read_peft(tmp_path)["layers.0.up"]
    assert update.shape == (14, None)
    assert (update.rank, update.num_parameters, update.method) == (4, 56, "MiSS")
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert (
            update.num_parameters
            == file.get_tensor("base_model.model.layers.0.up.miss_block").numel()
        )


def test_pefts_and_our_model_agree(tmp_path: Path) -> None:
    """The whole way: PEFT's model as loaded, and the base with our ΔW."""
    base = saved(MissConfig(r=4, target_modules=ALL), tmp_path)
    model = loaded(base, tmp_path)
    assert isinstance(model, PeftModel)
    mine = copy.deepcopy(base)
    with torch.no_grad():
        for name, update in mv.read_peft(tmp_path, base).items():
            mine.get_submodule(name).weight += update.delta()
    assert close(mine(inputs()), model(inputs()), 1e-12)
