"""Every panel in a real JupyterLab, as a person meets it: by mouse, by touch and by key."""

from collections.abc import Iterator

import pytest

import missviz as mv
from missviz.bench.browser import Notebook
from missviz.explore.gallery import PANELS

SIZES = {"1280": (1280, 800), "1920": (1920, 1080), "1920 lecture": (1920, 1080)}
"""CSS pixels of the window, and whether `mv.lecture()` is on."""
OTHERS = {
    "hidden": "mv.explore.race(reveal=False)",
    "question": "guess = mv.predict('Which rank?', [1, 2, 'many'])\nguess",
    "guess": "print(guess.guess)",
    "film": "film = mv.explore.update(method='MiSS', rank=1)\nfilm",
    "pair": "mv.explore.side_by_side(mv.explore.update(), mv.explore.update(method='LoRA'))",
    "undo": "mv.lecture(False)",
}
CELLS = (*PANELS, *OTHERS)


@pytest.fixture(scope="module", params=SIZES)
def notebook(page, lab, request) -> Iterator[Notebook]:
    url, folder = lab
    width, height = SIZES[request.param]
    page.set_viewport_size({"width": width, "height": height})
    cells = [f"mv.explore.{name}()" for name in PANELS] + list(OTHERS.values())
    lecture = "mv.lecture()\n" if "lecture" in request.param else ""
    cells[0] = f"import missviz as mv\n{lecture}{cells[0]}"
    yield Notebook(page, url, folder, cells, request.param.replace(" ", "-"))
    page.set_viewport_size({"width": 1500, "height": 1200})


def opened(notebook: Notebook, name: str) -> int:
    index = CELLS.index(name)
    notebook.wait_for_picture(index)
    return index


def words(notebook: Notebook, cell: int) -> str:
    return notebook.cell(cell).locator(".words").first.inner_text()


@pytest.mark.parametrize("name", PANELS)
def test_every_value_of_every_control_is_within_reach_of_the_mouse(
    notebook: Notebook, name: str
) -> None:
    cell = opened(notebook, name)
    panel = getattr(mv.explore, name)()
    for control, (label, options) in zip(
        notebook.controls(cell), panel.choices.items(), strict=True
    ):
        control.scroll_into_view_if_needed()
        if control.evaluate("node => node.tagName") == "SELECT":
            listed = control.evaluate("node => [...node.options].map(option => option.text)")
            assert listed == [str(option) for option in options]
            assert control.bounding_box()["height"] >= 20
            reach = [lambda text=text: control.select_option(label=text) for text in listed]
            expected = listed
        else:
            assert control.bounding_box()["width"] >= 150, label
            last = len(options) - 1
            reach = [
                lambda place=place: notebook.drag(control, place / last)
                for place in range(last + 1)
            ]
            expected = [str(option) for option in options]
        seen = set()
        for act, value in zip(reach, expected, strict=True):
            act()
            assert shown_value(control) == value
            seen.add(settled_words(notebook, cell))
        assert len(seen) > 1, f"{label} of {name} is dead"


def shown_value(control) -> str:
    return control.get_attribute("aria-valuetext")


def settled_words(notebook: Notebook, cell: int) -> str:
    """The line under the picture once it no longer changes."""
    before = words(notebook, cell)
    for _ in range(100):
        notebook.page.wait_for_timeout(60)
        now = words(notebook, cell)
        if now == before and not notebook.busy():
            return now
        before = now
    raise AssertionError("the picture never came to rest")


@pytest.mark.parametrize("name", PANELS)
def test_dragging_to_a_quarter_the_middle_and_three_quarters(notebook: Notebook, name: str) -> None:
    cell = opened(notebook, name)
    for control in notebook.controls(cell):
        if control.get_attribute("type") != "range":
            continue
        last = int(control.get_attribute("max"))
        for share in (0.25, 0.5, 0.75):
            notebook.drag(control, share)
            assert abs(int(control.input_value()) - share * last) <= 0.5 + 0.02 * last
        settled_words(notebook, cell)


@pytest.mark.parametrize("name", PANELS)
def test_each_control_changes_the_picture_by_keyboard(notebook: Notebook, name: str) -> None:
    cell = opened(notebook, name)
    for number, control in enumerate(notebook.controls(cell)):
        moved = [notebook.press(cell, control, key, 5) for key in ("ArrowDown", "ArrowUp")]
        # At an end of its range a control can only go one way.
        assert any(moved), f"control {number} of {name} is dead"
    before = notebook.page.locator(".jp-Notebook .jp-CodeCell").count()
    for key in ("b", "a", "x"):  # what JupyterLab takes for new cells and cut cells
        notebook.page.keyboard.press(key)
    assert notebook.page.locator(".jp-Notebook .jp-CodeCell").count() == before


@pytest.mark.parametrize("name", PANELS)
def test_the_picture_has_the_pixels_that_it_is_shown_at(notebook: Notebook, name: str) -> None:
    picture = notebook.cell(opened(notebook, name)).locator("img.picture")
    natural, shown = picture.evaluate("img => [img.naturalWidth, img.clientWidth]")
    assert natural >= 2 * shown or (natural >= 1920 and natural >= shown)


def test_a_panel_fits_below_the_menus_with_its_controls_and_words(notebook: Notebook) -> None:
    room = notebook.page.locator(".jp-WindowedPanel-outer").bounding_box()["height"]
    for name in PANELS:
        cell = opened(notebook, name)
        height = notebook.cell(cell).locator(".missviz").bounding_box()["height"]
        assert height <= room, name


def test_touch_moves_a_slider(notebook: Notebook) -> None:
    cell = opened(notebook, "expansion")
    slider = notebook.controls(cell)[0]
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    touch = notebook.page.context.new_cdp_session(notebook.page)
    point = {"x": box["x"] + 0.98 * box["width"], "y": box["y"] + box["height"] / 2}
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    notebook.page.wait_for_timeout(300)
    assert slider.input_value() == slider.get_attribute("max")


def test_the_button_reveals(notebook: Notebook) -> None:
    cell = opened(notebook, "hidden")
    button = notebook.cell(cell).locator("button.reveal")
    assert "hidden" in words(notebook, cell)
    button.click()
    notebook.cell(cell).get_by_text("after 100 steps").wait_for(timeout=10_000)
    assert not button.is_visible()


def test_a_guess_reaches_python(notebook: Notebook) -> None:
    cell = CELLS.index("question")
    notebook.cell(cell).get_by_label("many").check()
    notebook.cell(cell).get_by_text("Your guess: many.").wait_for(timeout=5_000)
    notebook.run(CELLS.index("guess"))
    notebook.cell(CELLS.index("guess")).get_by_text("many", exact=True).wait_for(timeout=5_000)


def test_the_play_button_steps_through_all_values_and_stops(notebook: Notebook) -> None:
    cell = opened(notebook, "film")
    button = notebook.cell(cell).get_by_role("button", name="play rank")
    slider = notebook.controls(cell)[1]
    seen = [shown_value(slider)]
    button.click()
    for _ in range(200):
        if shown_value(slider) != seen[-1]:
            seen.append(shown_value(slider))
        if not button.evaluate("node => node.classList.contains('playing')"):
            break
        notebook.page.wait_for_timeout(50)
    assert seen == ["1", "2", "3", "4", "8"]
    assert "MiSS r=8" in settled_words(notebook, cell)


def test_a_pair_moves_together_where_it_stands_alike(notebook: Notebook) -> None:
    cell = opened(notebook, "pair")
    method, rank, other_method, other_rank = notebook.controls(cell)
    notebook.drag(rank, 1)
    notebook.page.wait_for_timeout(1500)
    assert shown_value(rank) == shown_value(other_rank) == "8"
    assert (shown_value(method), shown_value(other_method)) == ("MiSS", "LoRA")


def test_text_grows_in_lecture_mode(notebook: Notebook) -> None:
    sizes = {
        part: notebook.page.locator(f".missviz {part}").first.evaluate(
            "node => parseFloat(getComputedStyle(node).fontSize)"
        )
        for part in ("select", "output", ".words", "legend", ".choice")
    }
    wanted = 19 if "lecture" in notebook.name else 14
    assert min(sizes.values()) >= wanted, sizes


def test_no_errors_in_the_console(notebook: Notebook) -> None:
    assert notebook.errors == []
