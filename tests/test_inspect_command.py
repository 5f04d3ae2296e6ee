"""`missviz inspect`, as a user runs it, on folders that PEFT has written."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import missviz as mv
from missviz.analysis.inspection import inspect_adapter
from missviz.analysis.products import Product
from missviz.cli import app
from missviz.explore import report
from missviz.testing import random_linear, randomise

runner = CliRunner()
MODULES = [f"layers.{layer}.{name}" for layer in range(3) for name in ("q_proj", "up")]
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up"]}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base_model() -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList(
        nn.ModuleDict({"q_proj": nn.Linear(16, 16), "up": nn.Linear(16, 24)}) for _ in range(3)
    )
    for place, parameter in enumerate(model.parameters()):
        parameter.data = random(*parameter.shape, seed=place)
    return model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_file(base_model().state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As PEFT writes it."""
    peft = pytest.importorskip("peft")
    settings = {name: value for name, value in CONFIG.items() if name != "peft_type"}
    model = peft.get_peft_model(base_model(), peft.LoraConfig(**settings))
    for place, (name, parameter) in enumerate(model.named_parameters()):
        if "lora_" in name:
            parameter.data = random(*parameter.shape, seed=100 + place)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def write_folder(path: Path, tensors: dict[str, torch.Tensor], **config) -> Path:
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return path


def lora(module: str, seed: int = 0) -> dict[str, torch.Tensor]:
    name = f"base_model.model.{module}.lora_"
    return {
        f"{name}A.weight": random(4, 16, seed=seed),
        f"{name}B.weight": random(16, 4, seed=seed + 1),
    }


def run(*options: object) -> str:
    result = runner.invoke(app, ["inspect", *map(str, options)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_is_numpys(folder: Path, base: Path) -> None:
    told = json.loads(run(folder, "--base", base, "--json"))
    stored = load_file(folder / "adapter_model.safetensors")
    weights = load_file(base)
    assert told["method"] == "LoRA"
    assert {row["module"] for row in told["modules"]} == set(MODULES)
    for row in told["modules"]:
        module = row["module"]
        A, B = (
            stored[f"base_model.model.{module}.lora_{letter}.weight"].double().numpy()
            for letter in "AB"
        )
        delta = 2 * B @ A
        values = np.linalg.svd(delta, compute_uv=False)
        np.testing.assert_allclose(row["singular_values"], values[:4], rtol=1e-9)
        assert row["norm"] == pytest.approx(np.linalg.norm(delta))
        size = np.linalg.norm(weights[f"{module}.weight"].double().numpy())
        assert row["relative_norm"] == pytest.approx(np.linalg.norm(delta) / size)
        assert row["stable_rank"] == pytest.approx(np.sum(values**2) / values[0] ** 2)
        assert (row["shape"], row["rank"]) == (list(delta.shape), 4)
        assert row["num_parameters"] == A.size + B.size
        assert row["warnings"] == []


def test_the_table_says_what_was_not_measured(folder: Path, base: Path) -> None:
    words = run(folder)
    assert words.startswith("LoRA: 6 modules, 864 trained numbers\n")
    assert words.count("not measured") == len(MODULES)
    assert "not measured" not in run(folder, "--base", base)
    assert all(row["relative_norm"] is None for row in json.loads(run(folder, "--json"))["modules"])


def test_what_looks_wrong_is_said(tmp_path: Path) -> None:
    tensors = lora("layers.0.q_proj") | lora("layers.1.q_proj", 2) | lora("layers.2.q_proj", 4)
    tensors["base_model.model.layers.1.q_proj.lora_B.weight"].zero_()
    tensors["base_model.model.layers.2.q_proj.lora_A.weight"][0, 0] = torch.nan
    odd = write_folder(tmp_path / "odd", tensors, lora_alpha=0.5)
    words = run(odd)
    assert "ΔW = 0: nothing was learnt here" in words
    assert "1 values that are NaN or infinite of 64" in words
    assert "α forgotten" in words
    third = json.loads(run(odd, "--json"))["modules"][2]
    assert third["norm"] is third["shard_cosine"] is None


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words += data


def test_page_is_self_contained(folder: Path, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert f"Written to {file}." in run(folder, "--base", base, "--html", file)
    page = Page(file.read_text(encoding="utf-8"))
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 1
    picture = base64.b64decode(sources[0].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(picture)).size[0] > 500
    assert "script" not in page.tags
    assert not re.search(r"https?://|@import|url\(", file.read_text(encoding="utf-8"))
    assert all(module in page.words for module in MODULES)
    (alt,) = (value for name, value in page.attributes if name == "alt")
    assert "‖ΔW‖ / ‖W₀‖ from" in alt


EVIL = "layers.0.<script>alert(1)<b>\"'&$x_{"


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = write_folder(tmp_path / "<b>evil", lora(EVIL))
    file = tmp_path / "page.html"
    assert EVIL in run(evil, "--html", file)
    page = Page(file.read_text(encoding="utf-8"))
    assert not {"script", "b"} & set(page.tags)
    assert EVIL in page.words
    assert json.loads(run(evil, "--json"))["modules"][0]["module"] == EVIL


def test_nothing_steers_a_terminal_or_turns_a_line(tmp_path: Path) -> None:
    """Whatever a folder's reader lets through."""
    steering = "a\x1b[31m\u202e\nb"
    update = Product(random(3, 1, seed=0), random(1, 4, seed=1), steering)
    table = inspect_adapter({steering: update})
    shown = report.shown_table(table)
    assert shown["module"][0] == "a�[31m��b"
    report.write_report(tmp_path / "page.html", steering, [steering], table, [])
    for text in (
        (tmp_path / "page.html").read_text(encoding="utf-8"),
        report.to_json(steering, [steering], table),
        shown.to_string(),
    ):
        assert not {"\x1b", "\u202e"} & set(text)


def test_errors_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    page = tmp_path / "file" / "page.html"  # no folder can be made there
    wrong = tmp_path / "wrong.safetensors"
    save_file({f"{module}.weight": torch.ones(3, 3) for module in MODULES}, wrong)
    for options in (
        [tmp_path / "missing"],
        [tmp_path / "empty"],
        [folder, "--base", tmp_path / "none.safetensors"],
        [folder, "--base", wrong],
        [folder, "--html", page],
    ):
        result = runner.invoke(app, ["inspect", *map(str, options)])
        assert result.exit_code == 2, options
        assert result.stdout == ""
        assert re.fullmatch(r"missviz: [^\n]+\n", result.stderr), result.stderr


def test_a_folder_for_the_page_is_made(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "none" / "page.html"
    assert runner.invoke(app, ["inspect", str(folder), "--html", str(page)]).exit_code == 0
    assert page.exists()


def test_what_was_read_with_its_base_knows_its_base(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"fc": random_linear(6, 9, torch.float32)})
    attached = mv.attach(model, mv.MiSS(4))
    randomise(attached)
    mv.write_peft(attached, tmp_path / "folder")
    read = mv.read_peft(tmp_path / "folder", model)
    alone, given = mv.inspect_adapter(read), mv.inspect_adapter(read, model)
    assert alone["relative_norm"].item() == given["relative_norm"].item() > 0
    assert alone["shape"].item() == (6, 9)
