"""A panel's picture is the directly drawn one, pixel for pixel; its errors are seen."""

import asyncio
import base64
import html
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest

import missviz as mv
from missviz.explore.panel import Panel
from missviz.explore.update import METHODS


@pytest.fixture(scope="module")
def panel() -> Panel:
    return mv.explore.update()


def test_going_back_shows_the_same_picture_from_memory(panel: Panel, monkeypatch) -> None:
    first = panel.set(method="LoRA", rank=1).picture
    panel.set(rank=2)
    monkeypatch.setattr(panel, "_compute", lambda **values: pytest.fail("computed again"))
    assert panel.set(rank=1).picture == first


def in_an_event_loop(work) -> None:
    """In a thread of its own: tests in a browser leave a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result()


def test_frames_beside_the_present_one_are_drawn_ahead() -> None:
    panel = mv.explore.update(method="MiSS", rank=1)

    async def press() -> None:
        panel._controls["rank"].value = 2
        await asyncio.sleep(1.5)

    in_an_event_loop(press)
    shown = panel.picture
    ahead = [
        {"method": "MiSS", "rank": 1},
        {"method": "MiSS", "rank": 3},
        {"method": "PiSSA", "rank": 2},
        {"method": "MiSS rows", "rank": 2},
    ]
    assert len(panel._frames) == 5
    for values in ahead:
        picture, summary = panel._frames[panel._key_of(values)]
        fresh = mv.explore.update(**values)
        assert picture == fresh.picture
        assert summary == fresh.summary
    assert panel.picture == shown
    assert panel.values == {"method": "MiSS", "rank": 2}
    assert "MiSS r=2" in panel.summary


def test_a_failure_ahead_waits_until_it_is_asked_for(monkeypatch) -> None:
    panel = mv.explore.update(method="MiSS", rank=1)
    good = panel._compute

    def fails_at_three(**values):
        if values["rank"] == 3:
            raise RuntimeError("three")
        return good(**values)

    monkeypatch.setattr(panel, "_compute", fails_at_three)

    async def press() -> None:
        panel._controls["rank"].value = 2
        await asyncio.sleep(1)

    in_an_event_loop(press)
    assert "RuntimeError" not in panel._text.value
    with pytest.raises(RuntimeError, match="three"):
        panel.set(rank=3)


def test_controls_move_the_picture(panel: Panel) -> None:
    panel.set(method="MiSS", rank=2)
    before, text = panel.picture, panel._text.value
    method, _, rank, readout = panel.children[0].children
    rank.value = 4
    assert panel.picture != before
    assert readout.value == "4"
    assert panel._text.value != text
    assert panel.values["rank"] == 4
    method.value = "LoRA"
    assert "LoRA r=4" in panel._text.value


def test_the_shown_rank_and_count_are_right(panel: Panel) -> None:
    panel.set(method="MiSS", rank=3)
    assert "24 different values, rank 3" in panel._text.value
    panel.set(method="full fine-tuning", rank=1)
    assert "rank 8" in panel._text.value


def test_what_does_not_exist_is_drawn_as_nothing(panel: Panel) -> None:
    panel.set(method="Bat", rank=3)
    assert "block_size=3 does not divide in_features=8; nearest: 2, 4" in panel._text.value
    assert "ΔW: none" in {ax.get_title() for ax in panel.figure.axes}


def test_colour_limits_stay(panel: Panel) -> None:
    limits = {
        image.get_clim()
        for method in METHODS
        for ax in panel.set(method=method).figure.axes
        for image in ax.images
    }
    assert limits == {(-2.0, 2.0)}


def test_state_opens_the_same_view(panel: Panel) -> None:
    panel.set(method="MiSS rows", rank=4)
    assert panel.state == "mv.explore.update(method='MiSS rows', rank=4)"
    again = eval(panel.state, {"mv": mv})
    assert again.values == panel.values
    assert again.picture == panel.picture


def test_save(panel: Panel, tmp_path: Path) -> None:
    panel.set(method="MiSS", rank=2)
    panel.save(tmp_path / "slide.svg", rank=8)
    assert "MiSS r=8" in (tmp_path / "slide.svg").read_text()
    assert panel.values["rank"] == 2
    written = panel.save_steps(
        tmp_path / "slides", rank=[1, 2], method=["LoRA", "MiSS rows"], suffix="png"
    )
    assert [path.name for path in written] == [
        "update-rank-1-method-LoRA.png",
        "update-rank-1-method-MiSS_rows.png",
        "update-rank-2-method-LoRA.png",
        "update-rank-2-method-MiSS_rows.png",
    ]
    assert all(path.stat().st_size > 1000 for path in written)


def test_readers_without_a_kernel_get_the_picture(panel: Panel) -> None:
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == panel.picture
    assert bundle["text/plain"] == panel.summary
    assert panel.summary == html.unescape(panel._text.value)
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda panel: panel.set(rank=5), "rank=5 is not a choice; choose from 1, 2, 3, 4, 8"),
        (lambda panel: panel.set(rank=True), "rank=True is not a choice"),
        (lambda panel: panel.set(size=5), "update has no control 'size'; it has method, rank"),
        (lambda panel: panel.save("x.svg", method="DoRA2"), "method='DoRA2' is not a choice"),
        (lambda panel: panel.save_steps("nowhere", rank=[1, 7]), "rank=7 is not a choice"),
        (lambda panel: mv.explore.update(method="none"), "method='none' is not a choice"),
        (lambda panel: Panel("x", None, {key: [1] for key in "abcd"}, {}), "at most three"),
    ],
)
def test_bad_input(panel: Panel, call, message: str) -> None:
    before = panel.values
    with pytest.raises(ValueError, match=message):
        call(panel)
    assert panel.values == before
    assert not Path("nowhere").exists()


def test_an_error_in_a_callback_is_raised_and_shown(monkeypatch) -> None:
    panel = mv.explore.update()

    def fail(**values):
        raise RuntimeError("no such <matrix>")

    monkeypatch.setattr(panel, "_compute", fail)
    with pytest.raises(RuntimeError, match="no such"):
        panel._controls["rank"].value = 8
    assert "RuntimeError: no such &lt;matrix&gt;" in panel._text.value


def test_a_set_that_fails_leaves_the_panel_as_it_was(monkeypatch) -> None:
    panel = mv.explore.update(method="LoRA", rank=2)
    before, summary = panel.picture, panel.summary
    good = panel._compute
    monkeypatch.setattr(
        panel, "_compute", lambda **values: good(**values) if values["rank"] < 8 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        panel.set(rank=8)
    assert panel.values == {"method": "LoRA", "rank": 2}
    assert panel.picture == before
    assert panel.summary == summary


def test_a_label_is_no_formula_and_a_failed_pin_is_undone(monkeypatch) -> None:
    panel = mv.explore.update()
    before = panel.picture
    assert panel.pin(r"$\frac{$").picture != before
    monkeypatch.setattr(type(panel._display), "ghost", lambda self, pinned: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.pin("again")
    assert panel.set(rank=4).set(rank=2).picture == before


def test_a_ghost_is_hidden_with_the_outcome() -> None:
    panel = mv.explore.reach(reveal=False)
    blank = panel.picture
    assert panel.pin("r = 4").picture == blank
    assert panel.reveal().picture == mv.explore.reach().pin("r = 4").picture


def test_an_open_panel_keeps_its_look() -> None:
    panel, page = mv.explore.lunch(), mv.explore.lunch()
    try:
        mv.lecture(dark=True)
        assert panel.set(budget=512).picture == page.set(budget=512).picture
        assert panel.drawn().figure_.get_facecolor() == page.figure.get_facecolor()
    finally:
        mv.lecture(False)


def test_numbers_that_are_equal_are_the_same_choice() -> None:
    panel = mv.explore.update(method="LoRA", rank=2.0)
    assert panel.state == "mv.explore.update(method='LoRA', rank=2)"
    assert "LoRA r=4" in panel.drawn(rank=np.int64(4)).summary()


def test_pages_hold_any_words(tmp_path: Path) -> None:
    panel = mv.explore.update()
    panel._frames.clear()
    panel._words = lambda: '<!-- <script> "quoted" </script>'
    panel.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<!-- <script>" not in page
    assert page.count("</script>") == 1
    for path in (tmp_path, tmp_path / "nowhere" / "page.html"):
        with pytest.raises(FileNotFoundError, match="is not a file in a folder"):
            panel.to_html(path)


@pytest.mark.slow
def test_nbmake_sees_an_error_in_a_callback(tmp_path: Path) -> None:
    """nbmake passes over errors inside Output widgets; panels have none, so a cell fails."""
    good = (
        "import missviz as mv\npanel = mv.explore.update()\npanel.children[0].children[2].value = 4"
    )
    bad = good.replace(
        "panel.children", "panel._compute = lambda **values: 1 / 0\npanel.children", 1
    )
    for name, source in (("good", good), ("bad", bad)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--nbmake", str(tmp_path / f"{name}.ipynb")],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert (done.returncode == 0) is (name == "good"), done.stdout
