"""Lessons: each .py and its .ipynb say the same, hold no outputs, and keep the rules."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks
from nbconvert import HTMLExporter
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
IDS = [path.stem for path in SOURCES]


def test_there_are_lessons() -> None:
    assert {"00_start_here", "05_no_free_lunch"} <= set(IDS)
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(IDS)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_pair_says_the_same(source: Path) -> None:
    compare_notebooks(
        jupytext.read(source.with_suffix(".ipynb")), jupytext.read(source), "py:percent"
    )


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_no_outputs_are_kept(source: Path) -> None:
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_rules_of_a_lesson(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    assert text.count("# %%\n") <= 18, "about a dozen code cells"
    for heading in ("Predict", "Run", "Notice", "Explain", "Check"):
        assert re.search(rf"^# ## .*{heading}", text, re.M), heading
    assert "You can stop here" in text
    assert "CPU" in text
    for forbidden in ("%matplotlib widget", "interact(", "Output("):
        assert forbidden not in text


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """The lesson as nbmake leaves it, run once in a folder of its own, as a reader's copy is."""
    folder = tmp_path_factory.mktemp("lessons")

    def execute(source: Path) -> Path:
        lesson = folder / source.with_suffix(".ipynb").name
        if not lesson.exists():
            shutil.copyfile(source.with_suffix(".ipynb"), lesson)
            run = [*("-m", "pytest", "-q", "--nbmake", "--overwrite", "--nbmake-timeout=300")]
            done = subprocess.run(
                [sys.executable, *run, str(lesson)],
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout
        return lesson

    return execute


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_runs_from_top_to_bottom(source: Path, executed: Callable[[Path], Path]) -> None:
    cells = nbformat.read(executed(source), as_version=4).cells
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


PICTURE = re.compile(r'<img[^>]*src="data:image/png;base64,([^"]+)"', re.S)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_html_shows_every_picture(
    source: Path, executed: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Without kernel and network a panel is its picture: packaging/nbconvert.json says so, which is
    installed with missviz. The first lesson goes through the command, and so finds it there."""
    lesson = executed(source)
    notebook = nbformat.read(lesson, as_version=4)
    assert "widgets" in notebook.metadata
    if source == SOURCES[0]:
        command = ["-m", "jupyter", "nbconvert", "--to", "html", str(lesson)]
        command += ["--output-dir", str(tmp_path)]
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True)
        page = (tmp_path / lesson.with_suffix(".html").name).read_text(encoding="utf-8")
    else:
        settings = json.loads((NOTEBOOKS.parent / "packaging" / "nbconvert.json").read_text())
        page, _ = HTMLExporter(config=Config(settings)).from_notebook_node(notebook)
    shown = {"".join(found.split()) for found in PICTURE.findall(page)}
    made = {
        "".join(output.data["image/png"].split())
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }
    assert made
    assert made <= shown
