"""Lessons: each .py and its .ipynb say the same, hold no outputs, and keep the rules."""

import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.compare import compare_notebooks
from nbclient import NotebookClient

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


PICTURE = re.compile(r'<img[^>]*src="data:image/png;base64,([^"]+)"', re.S)


@pytest.mark.parametrize("source", SOURCES, ids=IDS)
def test_html_shows_every_picture(source: Path, tmp_path: Path) -> None:
    """Without kernel and network a panel is its picture: packaging/nbconvert.json, which is
    installed with missviz, says so."""
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    assert "widgets" in notebook.metadata
    nbformat.write(notebook, tmp_path / "lesson.ipynb")
    command = ["-m", "jupyter", "nbconvert", "--to", "html", str(tmp_path / "lesson.ipynb")]
    subprocess.run([sys.executable, *command], cwd=tmp_path, check=True)
    shown = {
        "".join(found.split()) for found in PICTURE.findall((tmp_path / "lesson.html").read_text())
    }
    made = {
        "".join(output.data["image/png"].split())
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }
    assert made
    assert made <= shown
