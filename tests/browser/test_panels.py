"""Every panel in a real JupyterLab: each control moves the picture by keyboard, without errors."""

import pytest

from missviz.bench.browser import Notebook
from missviz.explore.gallery import PANELS

pytestmark = pytest.mark.slow
HIDDEN = "mv.explore.race(reveal=False)"


@pytest.fixture(scope="module")
def notebook(page, lab) -> Notebook:
    url, folder = lab
    cells = [f"mv.explore.{name}()" for name in PANELS] + [HIDDEN]
    cells[0] = "import missviz as mv\n" + cells[0]
    return Notebook(page, url, folder, cells)


@pytest.mark.parametrize("name", PANELS)
def test_each_control_changes_the_picture_by_keyboard(notebook: Notebook, name: str) -> None:
    cell = PANELS.index(name)
    notebook.wait_for_picture(cell)
    controls = notebook.controls(cell)
    assert controls
    for number, control in enumerate(controls):
        moved = [notebook.press(cell, control, key, 5) for key in ("ArrowRight", "ArrowLeft")]
        # At an end of its range a control can only go one way.
        assert any(moved), f"control {number} of {name} is dead"


def test_the_button_reveals(notebook: Notebook) -> None:
    cell = len(PANELS)
    notebook.wait_for_picture(cell)
    button = notebook.cell(cell).locator("button", has_text="Reveal")
    assert "hidden" in notebook.cell(cell).inner_text()
    button.click()
    notebook.cell(cell).get_by_text("after 100 steps").wait_for(timeout=10_000)
    assert not button.is_visible()


def test_no_errors_in_the_console(notebook: Notebook) -> None:
    assert notebook.errors == []
