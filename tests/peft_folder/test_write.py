"""Folders written here: PEFT loads them and gives the same output; read again, the same numbers."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from own_methods import Halved
from peft_folder.models import close, inputs, loaded, net
from safetensors.torch import load_file, save_file
from torch import nn

import missviz as mv
from missviz.adapters.base import Method
from missviz.testing import randomise

NATIVE: dict[Method, str] = {
    mv.LoRA(3): "LoRA",
    mv.LoRA(3, alpha=7.0): "LoRA",
    mv.LoRA(3, alpha=7.0, rslora=True): "rsLoRA",
    mv.LoRA(3, freeze_a=True): "LoRA",
    mv.LoRAPlus(3): "LoRA",
    mv.BigLoRA(20): "LoRA",
    mv.DoRA(3, alpha=7.0): "DoRA",
    mv.AdaLoRA(3, alpha=7.0): "AdaLoRA",
    mv.LoHa(3, alpha=7.0): "LoHa",
    mv.VeRA(5): "VeRA",
    mv.MiSS(4): "MiSS",
    mv.MiSS(3, mini=2): "MiSS mini",
    mv.Bat(2): "Bat",
}
AS_LORA: list[Method] = [
    mv.PiSSA(3, alpha=7.0),
    mv.OLoRA(3),
    mv.FixedFactor(3, "orthogonal"),
    mv.MiSS(4, layout="block"),
    mv.MiSS(4, share="rows"),
]


def attached(
    method: Method, dtype: torch.dtype = torch.float64, targets: object = "layers.*"
) -> nn.Module:
    model = mv.attach(net(dtype), method, targets)
    for name, adapter in model.named_modules():
        if isinstance(adapter, mv.Adapter):
            randomise(adapter, name)
    return model


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", [*NATIVE, *AS_LORA], ids=lambda method: method.name)
def test_peft_gives_the_same_output(method: Method, tmp_path: Path) -> None:
    model = attached(method)
    errors = mv.write_peft(model, tmp_path / "adapter", base_model_name="a/model")
    assert set(errors.values()) == {0.0}
    assert len(errors) == 6
    limit = 1e-6 if isinstance(method, mv.VeRA | mv.LoHa) else 1e-12
    theirs = loaded(net(), tmp_path / "adapter")
    assert close(theirs(inputs()), model(inputs()), limit)
    assert not close(theirs(inputs()), net()(inputs()), 0.01)
    adapter = mv.read_peft(tmp_path / "adapter", base=net())
    assert adapter.method == NATIVE.get(method, "LoRA")
    assert adapter.config["base_model_name_or_path"] == "a/model"
    for name, update in adapter.items():
        mine = model.get_submodule(name)
        assert close(update.delta(), mine.delta(), 1e-14 if method in NATIVE else 1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", NATIVE, ids=lambda method: method.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_keeps_every_bit(method: Method, dtype: torch.dtype, tmp_path: Path) -> None:
    """attach → write → PEFT loads and saves → the same tensors."""
    model = attached(method, dtype)
    mv.write_peft(model, tmp_path / "mine")
    # PEFT keeps half-precision models' adapters in them only if told so.
    loaded(net(dtype), tmp_path / "mine").save_pretrained(tmp_path / "theirs")
    mine, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("mine", "theirs")
    )
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name].to(dtype)), name


def test_ranks_and_alphas_that_differ(tmp_path: Path) -> None:
    model = attached(mv.LoRA(3, alpha=5.0), targets=["layers.0.q", "layers.1.q", "layers.0.up"])
    model = mv.attach(model, mv.LoRA(2), "layers.0.down")
    model = mv.attach(model, mv.LoRA(2, alpha=5.0), "layers.1.down")
    for index in (0, 1):
        randomise(model.layers[index].down, index)
    mv.write_peft(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 5.0)
    assert config["rank_pattern"] == {r"^layers\.0\.down": 2, r"^layers\.1\.down": 2}
    assert config["alpha_pattern"] == {r"^layers\.0\.down": 2}
    assert close(loaded(net(), tmp_path / "adapter")(inputs()), model(inputs()), 1e-12)
    for name, update in mv.read_peft(tmp_path / "adapter").items():
        assert close(update.delta(), model.get_submodule(name).delta(), 1e-14)


class Outer(nn.Module):
    """Layers "0" and "inner.0": PEFT's list ["0"] would mean both."""

    def __init__(self) -> None:
        super().__init__()
        inner = net()
        self.inner = nn.Sequential(inner.layers[0].q)
        self.add_module("0", inner.layers[1].q)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.get_submodule("0")(x)


def test_a_name_that_is_the_end_of_another(tmp_path: Path) -> None:
    only = mv.attach(Outer(), mv.LoRA(3), re.compile("0"))
    randomise(only.get_submodule("0"), "only")
    mv.write_peft(only, tmp_path / "adapter")
    theirs = loaded(Outer(), tmp_path / "adapter")
    assert [n for n, _ in theirs.named_parameters() if "lora_A" in n] == [
        "base_model.model.0.lora_A.default.weight"
    ]
    assert close(theirs(inputs()), only(inputs()), 1e-12)


@pytest.mark.parametrize("method", [mv.MiSS(4), mv.MiSS(3, mini=2)], ids=lambda m: m.name)
def test_miss_is_exactly_a_lora(method: Method, tmp_path: Path) -> None:
    model = attached(method)
    assert set(mv.write_peft(model, tmp_path / "lora", as_lora=True).values()) == {0.0}
    adapter = mv.read_peft(tmp_path / "lora")
    assert adapter.method == "LoRA"
    for name, update in adapter.items():
        assert close(update.delta(), model.get_submodule(name).delta(), 1e-14)
        assert update.rank <= method.rank
    assert close(loaded(net(), tmp_path / "lora")(inputs()), model(inputs()), 1e-12)


def test_bat_is_a_lora_up_to_a_stated_error(tmp_path: Path) -> None:
    model = attached(mv.Bat(2))
    with pytest.raises(
        ValueError, match="layers.0.q: Bat b=2 has no PEFT form and no thin factors"
    ):
        mv.write_peft(model, tmp_path / "lora", as_lora=True)
    errors = mv.write_peft(model, tmp_path / "lora", as_lora=True, rank=4)
    adapter = mv.read_peft(tmp_path / "lora")
    for name, update in adapter.items():
        wanted = model.get_submodule(name).delta().detach()
        assert update.rank == 4
        off = torch.linalg.matrix_norm(update.delta() - wanted) / torch.linalg.matrix_norm(wanted)
        values = torch.linalg.svdvals(wanted)
        assert errors[name] == pytest.approx(float(off), rel=1e-9)
        best = values[4:].square().sum().sqrt() / values.square().sum().sqrt()
        assert errors[name] == pytest.approx(float(best), rel=1e-9)
        assert 0.05 < errors[name] < 1
    whole = mv.write_peft(model, tmp_path / "lora", as_lora=True, rank=10)
    assert max(whole.values()) < 1e-14


def test_a_folder_is_converted(tmp_path: Path) -> None:
    """From a folder, with no live model."""
    model = attached(mv.MiSS(4))
    mv.write_peft(model, tmp_path / "miss")
    errors = mv.write_peft(mv.read_peft(tmp_path / "miss", base=net()), tmp_path / "lora")
    assert set(errors.values()) == {0.0}
    assert close(loaded(net(), tmp_path / "lora")(inputs()), model(inputs()), 1e-12)
    errors = mv.write_peft(mv.read_peft(tmp_path / "lora"), tmp_path / "cut", as_lora=True, rank=2)
    assert all(error > 0.05 for error in errors.values())


def test_a_layer_pruned_to_rank_0(tmp_path: Path) -> None:
    part = {"lora_A": torch.ones(0, 10), "lora_B": torch.ones(10, 0), "lora_E": torch.ones(0, 1)}
    (tmp_path / "ada").mkdir()
    tensors = {f"base_model.model.layers.0.q.{name}": tensor for name, tensor in part.items()}
    save_file(tensors, tmp_path / "ada" / "adapter_model.safetensors")
    (tmp_path / "ada" / "adapter_config.json").write_text(
        '{"peft_type": "ADALORA", "lora_alpha": 4}'
    )
    adapter = mv.read_peft(tmp_path / "ada")
    assert not adapter["layers.0.q"].delta().any()
    mv.write_peft(adapter, tmp_path / "lora")
    assert torch.equal(loaded(net(), tmp_path / "lora")(inputs()), net()(inputs()))


def test_a_failed_replacement_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mv.write_peft(attached(mv.LoRA(3)), tmp_path / "adapter")
    plain = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError("no")
        return plain(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        mv.write_peft(attached(mv.MiSS(4)), tmp_path / "adapter")
    assert mv.read_peft(tmp_path / "adapter").method == "LoRA"
    assert [part.name for part in tmp_path.iterdir()] == ["adapter"]


def test_zero_stays_zero(tmp_path: Path) -> None:
    model = mv.attach(net(), mv.Bat(2), "layers.*")
    assert set(mv.write_peft(model, tmp_path / "a", as_lora=True, rank=2).values()) == {0.0}


def test_an_earlier_result_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "adapter"
    mv.write_peft(attached(mv.LoRA(3)), folder)
    mv.write_peft(attached(mv.MiSS(4)), folder)
    assert mv.read_peft(folder).method == "MiSS"
    assert sorted(part.name for part in folder.parent.iterdir()) == ["adapter"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds notes\.txt; give a new or empty one"):
        mv.write_peft(attached(mv.LoRA(3)), folder)
    assert mv.read_peft(folder).method == "MiSS"
    with pytest.raises(FileExistsError, match="is a file"):
        mv.write_peft(attached(mv.LoRA(3)), folder / "notes.txt")


def test_a_failed_write_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mv.write_peft(attached(mv.LoRA(3)), tmp_path / "adapter")

    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(json, "dumps", broken)
    with pytest.raises(OSError, match="disk full"):
        mv.write_peft(attached(mv.MiSS(4)), tmp_path / "adapter")
    monkeypatch.undo()
    assert mv.read_peft(tmp_path / "adapter").method == "LoRA"
    assert [part.name for part in tmp_path.iterdir()] == ["adapter"]


def two_pools() -> nn.Module:
    return mv.attach(mv.attach(net(), mv.VeRA(5), "layers.0.*"), mv.VeRA(5), "layers.1.*", seed=1)


def tied() -> nn.Module:
    model = net()
    model.layers[1].q = model.layers[0].q
    return mv.attach(model, mv.LoRA(2), "q")


def mixed() -> nn.Module:
    return mv.attach(mv.attach(net(), mv.MiSS(2), "q"), mv.LoRA(2), "up")


REFUSED = {
    "the model has no adapters": lambda: net(),
    "layers.0.q: full fine-tuning has no PEFT form and no thin factors; as_lora=True, rank=r": lambda: (
        mv.attach(net(), mv.FullFineTuning(), "q")
    ),
    "layers.0.up: its bias is trained": lambda: mv.attach(net(), mv.FullFineTuning(bias=True), "up"),
    "head.weight is trained beside the adapters": lambda: (
        mv.attach(net(), mv.LoRA(2), "q", trainable="head")
    ),
    "PEFT wants a layer inside a model": lambda: mv.attach(nn.Linear(4, 4), mv.LoRA(2)),
    "a PEFT folder has one for all layers. as_lora=True": mixed,
    "layers.1.q is a layer that stands in two places": tied,
    "the layers have no A and B in common": two_pools,
    "layers.0.q: DoRA columns r=3 has no PEFT form": lambda: (
        mv.attach(net(), mv.DoRA(3, norm="columns"), "q")
    ),
    "layers.0.q: halved r=2 has no PEFT form": lambda: mv.attach(net(), Halved(2), "q"),  # no MiSS
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_folder_cannot_hold(message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        mv.write_peft(REFUSED[message](), tmp_path / "adapter")
    assert message in str(caught.value)
    assert not (tmp_path / "adapter").exists()


def test_layers_of_different_kinds_as_lora(tmp_path: Path) -> None:
    model = mixed()
    for name, adapter in model.named_modules():
        if isinstance(adapter, mv.Adapter):
            randomise(adapter, name)
    mv.write_peft(model, tmp_path / "adapter", as_lora=True)
    assert close(loaded(net(), tmp_path / "adapter")(inputs()), model(inputs()), 1e-12)


def test_bad_arguments(tmp_path: Path) -> None:
    model = attached(mv.LoRA(2))
    with pytest.raises(TypeError, match="rank=2.5 is not an integer"):
        mv.write_peft(model, tmp_path / "a", as_lora=True, rank=2.5)
    with pytest.raises(ValueError, match="rank=2 is for as_lora=True"):
        mv.write_peft(model, tmp_path / "a", rank=2)
    with pytest.raises(TypeError, match="model=3 is not an nn.Module"):
        mv.write_peft(3, tmp_path / "a")
    with pytest.raises(TypeError, match="mapping without updates"):
        mv.write_peft({}, tmp_path / "a")
    with pytest.raises(TypeError, match="folder=7 is not a path"):
        mv.write_peft(model, 7)


def test_the_model_stays_as_it_is(tmp_path: Path) -> None:
    model = attached(mv.Bat(2))
    before = copy.deepcopy(model.state_dict())
    mv.write_peft(model, tmp_path / "adapter")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
