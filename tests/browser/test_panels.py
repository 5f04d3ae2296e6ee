"""Every panel in a real JupyterLab, as a person meets it: by mouse, by touch and by key."""

from collections.abc import Iterator

import pytest

import missviz as mv
from missviz.bench.browser import Notebook
from missviz.explore.gallery import PANELS
from missviz.explore.view import label_of

pytestmark = pytest.mark.slow
SIZES = {"1280": (1280, 720), "1920": (1920, 1080)}
"""CSS pixels of the window: a projector at 150 %, and one at 100 %."""
OTHERS = {
    "hidden": "mv.explore.race(reveal=False)",
    "question": "guess = mv.predict('Which rank?', [1, 2, 'many'])\nguess",
    "guess": "print(guess.guess)",
    "film": "film = mv.explore.update(method='MiSS', rank=1)\nfilm",
    "pair": "mv.explore.side_by_side(mv.explore.update(), mv.explore.update(method='LoRA'))",
    "undo": "mv.lecture(False)",
}
CELLS = (*PANELS, *OTHERS)


@pytest.fixture(scope="module", params=["page", "lecture"])
def open_notebook(page, lab, request) -> Iterator[Notebook]:
    """All panels, once as they are and once at a projector's scale."""
    url, folder = lab
    cells = [f"mv.explore.{name}()" for name in PANELS] + list(OTHERS.values())
    begin = "mv.lecture()\n" if request.param == "lecture" else ""
    cells[0] = f"import missviz as mv\n{begin}{cells[0]}"
    return Notebook(page, url, folder, cells, request.param)


@pytest.fixture
def notebook(open_notebook: Notebook) -> Notebook:
    resize(open_notebook, 1500, 1200)
    return open_notebook


@pytest.fixture(params=SIZES)
def sized(open_notebook: Notebook, request) -> Notebook:
    """The notebook in a window of a projector's size."""
    resize(open_notebook, *SIZES[request.param])
    return open_notebook


@pytest.fixture
def by_hand(open_notebook: Notebook) -> Notebook:
    """For what takes long: in the smaller window as it is, in the larger one at a projector's
    scale. `test_a_mouse_finds_every_place_of_every_slider` has all four."""
    resize(open_notebook, *SIZES["1280" if open_notebook.name == "page" else "1920"])
    return open_notebook


def resize(notebook: Notebook, width: int, height: int) -> None:
    notebook.page.set_viewport_size({"width": width, "height": height})
    # JupyterLab lays out its parts one after the other.
    notebook.page.wait_for_function(
        """([width, height]) => {
            const place = (part) => document.querySelector(part).getBoundingClientRect();
            const below = height - place(".jp-WindowedPanel-outer").bottom;
            return place("#main").width === width && 0 <= below && below < 60;
        }""",
        arg=[width, height],
    )


def opened(notebook: Notebook, name: str) -> int:
    index = CELLS.index(name)
    notebook.wait_for_picture(index)
    return index


def words(notebook: Notebook, cell: int) -> str:
    return notebook.cell(cell).locator(".words").first.inner_text()


@pytest.mark.parametrize("name", PANELS)
def test_a_mouse_finds_every_place_of_every_slider(sized: Notebook, name: str) -> None:
    cell = opened(sized, name)
    for control in sized.controls(cell):
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        assert box["width"] >= (20 if is_menu(control) else 150), name
        assert box["height"] >= 15, name
        for share in (0.01, 0.25, 0.5, 0.75, 0.99):
            point = [box["x"] + share * box["width"], box["y"] + box["height"] / 2]
            hit = "(node, point) => document.elementFromPoint(...point) === node"
            assert control.evaluate(hit, point), (name, share)


@pytest.mark.parametrize("name", PANELS)
def test_a_hand_reaches_every_value_of_every_control(by_hand: Notebook, name: str) -> None:
    """Menus: every entry. Sliders: dragged to both ends, a quarter, the middle, three quarters."""
    cell = opened(by_hand, name)
    panel = getattr(mv.explore, name)()
    controls = zip(by_hand.controls(cell), panel.choices.items(), strict=True)
    for control, (label, options) in controls:
        control.scroll_into_view_if_needed()
        first, before = shown_value(control), settled_words(by_hand, cell)
        menu, last = is_menu(control), len(options) - 1
        seen = {before}
        for share in range(last + 1) if menu else (0, 0.25, 0.5, 0.75, 1):
            if menu:
                control.select_option(label=label_of(options[share]))
                reached = {options[share]}
            else:
                by_hand.drag(control, share)
                near = [place for place in range(last + 1) if abs(place - share * last) <= 0.51]
                reached = {options[place] for place in near}
            assert shown_value(control) in set(map(label_of, reached)), (label, share)
            if seen == {before} and shown_value(control) != first:
                seen.add(settled_words(by_hand, cell))
        seen.add(settled_words(by_hand, cell))
        assert len(seen) > 1, f"{label} of {name} is dead"
        put_back(by_hand, control, options, first)
        assert settled_words(by_hand, cell) == before


def put_back(notebook: Notebook, control, options, value: str) -> None:
    place = [label_of(option) for option in options].index(value)
    control.focus()
    notebook.page.keyboard.press("Home")
    for _ in range(place):
        notebook.page.keyboard.press("ArrowDown" if is_menu(control) else "ArrowRight")
    assert shown_value(control) == value


def is_menu(control) -> bool:
    return control.evaluate("node => node.tagName") == "SELECT"


def shown_value(control) -> str:
    return control.get_attribute("aria-valuetext")


def settled_words(notebook: Notebook, cell: int) -> str:
    """The line under the picture once it is that of the controls."""
    node = notebook.cell(cell).element_handle()
    notebook.page.wait_for_function(
        "node => [...node.querySelectorAll('.missviz')].every(one => one.ariaBusy === 'false')",
        arg=node,
    )
    return words(notebook, cell)


@pytest.mark.parametrize("open_notebook", ["page"], indirect=True)
@pytest.mark.parametrize("name", PANELS)
def test_each_control_changes_the_picture_by_keyboard(notebook: Notebook, name: str) -> None:
    cell = opened(notebook, name)
    for number, control in enumerate(notebook.controls(cell)):
        # At an end of its range a control can only go one way.
        keys = ("ArrowDown", "ArrowUp") if is_menu(control) else ("ArrowRight", "ArrowLeft")
        assert any(notebook.press(cell, control, key, 5) for key in keys), (
            f"control {number} of {name} is dead"
        )
    before = notebook.page.locator(".jp-Notebook .jp-CodeCell").count()
    for key in ("b", "a", "x"):  # what JupyterLab takes for new cells and cut cells
        notebook.page.keyboard.press(key)
    assert notebook.page.locator(".jp-Notebook .jp-CodeCell").count() == before


@pytest.mark.parametrize("name", PANELS)
def test_the_picture_has_the_pixels_that_it_is_shown_at(sized: Notebook, name: str) -> None:
    picture = sized.cell(opened(sized, name)).locator("img.picture")
    natural, shown = picture.evaluate("img => [img.naturalWidth, img.clientWidth]")
    assert natural >= 2 * shown or (natural >= 1920 and natural >= shown)


def test_a_panel_fits_below_the_menus_with_its_controls_and_words(sized: Notebook) -> None:
    room = sized.page.locator(".jp-WindowedPanel-outer").bounding_box()["height"]
    for name in PANELS:
        cell = opened(sized, name)
        height = sized.cell(cell).locator(".missviz").bounding_box()["height"]
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
    assert slider.input_value() == slider.get_attribute("max")


def test_the_button_reveals(notebook: Notebook) -> None:
    cell = opened(notebook, "hidden")
    button = notebook.cell(cell).locator("button.reveal")
    assert "hidden" in words(notebook, cell)
    button.click()
    notebook.cell(cell).get_by_text("after 100 steps").wait_for(timeout=10_000)
    assert not button.is_visible()
    assert notebook.page.evaluate("document.activeElement.closest('.jp-Notebook') !== null")


@pytest.mark.parametrize("open_notebook", ["page"], indirect=True)
@pytest.mark.parametrize("name", ["expansion", "question"])
def test_shift_enter_runs_the_cell_and_goes_on_while_a_control_has_the_focus(
    notebook: Notebook, name: str
) -> None:
    cell = CELLS.index(name)
    if name == "question":
        notebook.cell(cell).get_by_label("many").check()
    else:
        notebook.controls(opened(notebook, name))[0].click()
    count = notebook.cell(cell).locator(".jp-InputPrompt").first.inner_text()
    notebook.page.keyboard.press("Shift+Enter")
    active = "() => window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    notebook.page.wait_for_function(f"([cell]) => ({active})() === cell + 1", arg=[cell])
    notebook.page.wait_for_function(
        "([node, count]) => !['[*]:', count].includes(node.innerText)",
        arg=[notebook.cell(cell).locator(".jp-InputPrompt").first.element_handle(), count],
    )


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
    notebook.page.wait_for_function(
        "([one, other]) => one.value === other.value",
        arg=[rank.element_handle(), other_rank.element_handle()],
    )
    assert shown_value(rank) == shown_value(other_rank) == "8"
    assert (shown_value(method), shown_value(other_method)) == ("MiSS", "LoRA")


def test_text_grows_in_lecture_mode(notebook: Notebook) -> None:
    sizes = {
        part: notebook.page.locator(f".missviz {part}").first.evaluate(
            "node => parseFloat(getComputedStyle(node).fontSize)"
        )
        for part in ("select", "output", ".words", "legend", ".choice")
    }
    wanted = 19 if notebook.name == "lecture" else 14
    assert min(sizes.values()) >= wanted, sizes


def test_no_errors_in_the_console(notebook: Notebook) -> None:
    assert notebook.errors == []
