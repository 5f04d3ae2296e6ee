"""A panel's picture is the directly drawn one, pixel for pixel; its errors are seen."""

import asyncio
import base64
import itertools
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from helpers import by_hand, drawn, pixels
from matplotlib.figure import Figure
from PIL import Image

import missviz as mv
from missviz.displays import saving
from missviz.displays.base import Display
from missviz.explore.front import Line
from missviz.explore.panel import Panel
from missviz.explore.update import METHODS


@pytest.fixture(scope="module")
def panel() -> Panel:
    return mv.explore.update()


def test_going_back_shows_the_same_picture_from_memory(panel: Panel, monkeypatch) -> None:
    first = panel.set(method="LoRA", rank=1).picture
    panel.set(rank=2)
    monkeypatch.setattr(panel.view, "compute", lambda **values: pytest.fail("computed again"))
    assert panel.set(rank=1).picture == first


def in_an_event_loop(work) -> None:
    """In a thread of its own: tests in a browser leave a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result()


@pytest.mark.slow
def test_frames_beside_the_present_one_are_drawn_ahead() -> None:
    panel = mv.explore.update(method="MiSS", rank=1)

    async def press() -> None:
        by_hand(panel, rank=2)
        await asyncio.sleep(1.5)

    in_an_event_loop(press)
    shown = panel.picture
    ahead = [
        {"method": "MiSS", "rank": 1},
        {"method": "MiSS", "rank": 3},
        {"method": "PiSSA", "rank": 2},
        {"method": "MiSS rows", "rank": 2},
    ]
    assert all(panel.view.has_frame(values) for values in ahead)
    assert not panel.view.has_frame({"method": "LoRA", "rank": 1})
    for values in ahead:
        picture, summary = panel.view.frame(values)
        fresh = mv.explore.update(**values)
        assert picture == fresh.picture
        assert summary == fresh.summary
    assert panel.picture == shown
    assert panel.values == {"method": "MiSS", "rank": 2}
    assert "MiSS r=2" in panel.summary


@pytest.mark.slow
def test_a_failure_ahead_waits_until_it_is_asked_for(monkeypatch) -> None:
    panel = mv.explore.update(method="MiSS", rank=1)
    good = panel.view.compute

    def fails_at_three(**values):
        if values["rank"] == 3:
            raise RuntimeError("three")
        return good(**values)

    monkeypatch.setattr(panel.view, "compute", fails_at_three)

    async def press() -> None:
        by_hand(panel, rank=2)
        await asyncio.sleep(1)

    in_an_event_loop(press)
    assert "RuntimeError" not in panel._frame["words"]
    with pytest.raises(RuntimeError, match="three"):
        panel.set(rank=3)


def sent_by(panel: Panel, monkeypatch) -> list:
    """What the panel sends from now on: (message, picture)."""
    sent = []
    monkeypatch.setattr(
        sys.modules[Panel.__module__], "LINE", Line()
    )  # others have sent much by now
    monkeypatch.setattr(panel, "send", lambda what, buffers: sent.append((what, *buffers)))
    return sent


def test_a_hand_gets_the_frame_that_it_asked_for(panel: Panel, monkeypatch) -> None:
    panel.set(method="MiSS", rank=2)
    before, sent = panel.picture, sent_by(panel, monkeypatch)
    by_hand(panel, rank=4)
    assert panel.values == {"method": "MiSS", "rank": 4}
    [(message, picture)] = sent
    assert picture == panel.picture != before
    assert message["frame"]["words"] == panel.summary
    assert message["frame"]["key"].endswith(":2,3")
    by_hand(panel, method="LoRA")
    assert "LoRA r=4" in panel.summary


def test_what_the_browser_has_already_is_not_drawn_again(panel: Panel, monkeypatch) -> None:
    sent = sent_by(panel, monkeypatch)
    monkeypatch.setattr(panel.view, "frame", lambda values: pytest.fail("drawn"))
    turn = panel._turn + 1
    panel._heard(panel, {"kind": "move", "turn": turn, "places": [0, 0], "want": False}, [])
    assert panel.values == {"method": "LoRA", "rank": 1}
    assert sent == []


@pytest.mark.slow
def test_an_earlier_move_that_is_heard_later_moves_nothing_but_gets_its_frame(monkeypatch) -> None:
    panel = mv.explore.update()
    sent = sent_by(panel, monkeypatch)
    for turn, places in ((7, [0, 0]), (6, [2, 4])):
        panel._heard(panel, {"kind": "move", "turn": turn, "places": places, "want": True}, [])
    assert panel.values == {"method": "LoRA", "rank": 1}
    assert [message["frame"]["key"] for message, _ in sent] == ["0:0,0", "0:2,4"]
    assert "MiSS r=8" in sent[1][0]["frame"]["words"]


@pytest.mark.slow
def test_two_threads_draw_what_one_draws(monkeypatch) -> None:
    """JupyterLab's kernel hears of controls in two threads."""
    panels = [mv.explore.race(), mv.explore.update()]
    alone = [mv.explore.race(), mv.explore.update()]
    points = [[at for _, at in panel.view.settings()][::3] for panel in panels]

    def frames(job: tuple[int, int]) -> list:
        which, start = job
        panel, at = panels[which], points[which]
        return [panel.view.frame(values) for values in at[start:] + at[:start]]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(frames, [(0, 0), (1, 0), (0, 5), (1, 5)]))
    for which, (panel, at) in enumerate(zip(alone, points, strict=True)):
        expected = [panel.view.frame(values) for values in at]
        assert together[which] == expected
        assert together[which + 2] == expected[5:] + expected[:5]
        assert panels[which].view.epoch == 0


def test_frames_wait_rather_than_be_dropped_by_the_server() -> None:
    line = Line()
    assert line.seconds_until_free(line.most) == 0
    for _ in range(4):
        line.note(line.most // 4)
    assert 0 < line.seconds_until_free(line.most // 4) <= line.window
    assert not line.is_quiet()
    assert line.seconds_until_free(0) == 0


def test_the_shown_rank_and_count_are_right(panel: Panel) -> None:
    panel.set(method="MiSS", rank=3)
    assert "24 different values, rank 3" in panel._frame["words"]
    panel.set(method="full fine-tuning", rank=1)
    assert "rank 8" in panel._frame["words"]


def test_what_does_not_exist_is_drawn_as_nothing(panel: Panel) -> None:
    panel.set(method="Bat", rank=3)
    assert "block_size=3 does not divide in_features=8; nearest: 2, 4" in panel._frame["words"]
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


@pytest.mark.slow
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
    bundle, metadata = panel._repr_mimebundle_()
    assert metadata["image/png"]["alt"] == panel.summary
    assert base64.b64decode(bundle["image/png"]) == panel.picture
    assert bundle["text/plain"] == panel.summary
    assert panel.summary == panel._frame["words"]
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
        (lambda panel: panel.play("size"), "control='size' is unknown"),
        (lambda panel: panel.play("rank", seconds=0), "seconds=0 is not a positive"),
        (lambda panel: panel.save("x.tga"), "path='x.tga' ends in none of .avif, .eps"),
        (lambda panel: panel.save("x"), "path='x' ends in none of"),
        (lambda panel: panel.save("x.gif"), r"is a film, of the values of one control: method=\["),
        (lambda panel: panel.save("x.png", rank=[1, 2]), "several pictures make a .gif or .mp4"),
        (lambda panel: panel.save("x.gif", rank=[1, 2], method=["LoRA"]), "of one control"),
        (lambda panel: panel.save("x.png", size=1080), r"size=1080 is not \(width, height\)"),
        (lambda panel: panel.save("x.png", size=(9, 9), dpi=9), "give one of them"),
        (lambda panel: panel.save("x.png", dpi=-1), "dpi=-1 is not a positive"),
        (lambda panel: panel.save("x.png", dpi=1), "dpi=1 makes a picture of 11 × "),
        (lambda panel: panel.save("x.png", dpi=1e5), "pixels; a side has 50 to 20000"),
        (lambda panel: panel.save("x.png", size=(1, 1)), "a side has 50 to 20000 pixels"),
        (lambda panel: panel.save("x.gif", rank=[]), r"rank=\[\] has no values"),
        (lambda panel: panel.save("x.gif", rank=[1, 2], seconds=1e6), "too long for a picture"),
        (lambda panel: panel.save_steps("nowhere", rank=[1], suffix="gif"), "suffix='gif' is not"),
        (lambda panel: panel.save_steps("nowhere", rank=[1], suffix=None), "suffix=None is not"),
        (lambda panel: panel.to_html("x.png"), "path='x.png' is not that of a page"),
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

    monkeypatch.setattr(panel.view, "compute", fail)
    sent = sent_by(panel, monkeypatch)
    with pytest.raises(RuntimeError, match="no such"):
        by_hand(panel, rank=8)
    assert sent[0][0]["frame"] == {
        "key": f"{panel.view.epoch}:2,4",
        "words": "RuntimeError: no such <matrix>",
        "failed": True,
    }
    with pytest.raises(RuntimeError, match="no such"):
        panel.set(rank=4)


def test_a_set_that_fails_leaves_the_panel_as_it_was(monkeypatch) -> None:
    panel = mv.explore.update(method="LoRA", rank=2)
    before, summary = panel.picture, panel.summary
    good = panel.view.compute
    monkeypatch.setattr(
        panel.view, "compute", lambda **values: good(**values) if values["rank"] < 8 else 1 / 0
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
    monkeypatch.setattr(type(panel.view.display), "ghost", lambda self, pinned: 1 / 0)
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


@pytest.mark.slow
def test_pages_hold_any_words(tmp_path: Path) -> None:
    panel = mv.explore.landscape()
    panel.view.display.summary = lambda: '<!-- <script> "quoted" </script>'
    panel.view.forget()
    panel.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<!-- <script>" not in page
    assert page.count("</script>") == 1
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder; give a file in it"):
        panel.to_html(tmp_path / "folder.html")


@pytest.mark.slow
def test_nbmake_sees_an_error_in_a_callback(tmp_path: Path) -> None:
    """nbmake passes over errors inside Output widgets; panels have none, so a cell fails."""
    good = "import missviz as mv\npanel = mv.explore.update()\npanel.set(rank=4)"
    bad = good.replace("panel.set", "panel.view.compute = lambda **values: 1 / 0\npanel.set", 1)
    for name, source in (("good", good), ("bad", bad)):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "--nbmake", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert re.search(r"good.ipynb.*PASSED", done.stdout), done.stdout
    assert re.search(r"bad.ipynb.*FAILED", done.stdout), done.stdout


def test_pictures_have_the_pixels_that_were_asked_for(panel: Panel, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    panel.save(folder / "wide.png", size=(1920, 1080))
    panel.save(folder / "tall.jpg", size=(300, 900))
    panel.save(folder / "small.png", dpi=50)
    sizes = {}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    width, height = panel.figure.get_size_inches()
    assert sizes["wide.png"] == (1920, 1080)
    assert sizes["tall.jpg"] == (300, 900)
    assert sizes["small.png"] == pytest.approx((50 * width, 50 * height), abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_a_vector_page_has_the_shape_that_was_asked_for(
    panel: Panel, tmp_path: Path, ending: str
) -> None:
    panel.save(tmp_path / f"slide.{ending}", size=(1920, 1080))
    text = (tmp_path / f"slide.{ending}").read_bytes().decode("latin-1")
    found = re.search(r"viewBox=\"0 0 (\S+) (\S+)\"|MediaBox \[ 0 0 (\S+) (\S+) \]", text)
    width, height = (float(side) for side in found.groups() if side)
    assert width / height == pytest.approx(16 / 9, rel=1e-3)


@pytest.mark.slow
def test_a_film_has_a_picture_for_each_value(panel: Panel, tmp_path: Path) -> None:
    panel.save(tmp_path / "rank.gif", rank=[1, 2, 4], seconds=0.5, dpi=50)
    shown = []
    with Image.open(tmp_path / "rank.gif") as film:
        assert film.n_frames == 3
        assert film.info["duration"] == 500
        for place, rank in enumerate((1, 2, 4)):
            panel.save(tmp_path / "still.png", rank=rank, dpi=50)
            film.seek(place)
            shown.append(np.asarray(film.convert("RGB"), dtype=float))
            still = pixels((tmp_path / "still.png").read_bytes()).astype(float)
            assert np.abs(shown[-1] - still).mean() < 3  # of 255: a film has 256 colours
    assert all(np.abs(one - two).mean() > 3 for one, two in itertools.pairwise(shown))


@pytest.mark.slow
def test_mp4(panel: Panel, tmp_path: Path, monkeypatch) -> None:
    if saving.ffmpeg() is None:
        pytest.skip("no ffmpeg on this machine")
    panel.save(tmp_path / "rank.mp4", rank=[1, 2, 4], dpi=50)
    assert (tmp_path / "rank.mp4").read_bytes()[4:8] == b"ftyp"
    monkeypatch.setattr(saving, "ffmpeg", lambda: None)
    with pytest.raises(ValueError, match=".mp4 needs ffmpeg, which is not there"):
        panel.save(tmp_path / "again.mp4", rank=[1, 2])
    assert not (tmp_path / "again.mp4").exists()


@pytest.mark.slow
def test_titles_and_limits_that_a_lecturer_sets_stay(tmp_path: Path) -> None:
    panel = mv.explore.race()
    untouched = panel.set(split="valid").picture
    panel.set(split="train").figure.axes[0].set(title="My title", ylim=(0.3, 0.8), ylabel="error")
    changed = panel.set().picture
    for split in ("valid", "train"):
        ax = panel.set(split=split).figure.axes[0]
        assert (ax.get_title(), ax.get_ylim(), ax.get_ylabel()) == ("My title", (0.3, 0.8), "error")
    assert panel.picture == changed
    assert panel.set(split="valid").picture != untouched
    assert np.array_equal(pixels(panel.picture), drawn(panel.drawn()))
    panel.save(tmp_path / "mine.svg")
    assert "My title" in (tmp_path / "mine.svg").read_text()
    # Nobody touched this one: its titles change with the controls.
    other = mv.explore.update()
    other.figure.canvas.draw()
    assert "LoRA r=1" in other.set(method="LoRA", rank=1).figure.axes[1].get_title()


def test_edits_stay_where_a_display_draws_its_figure_anew() -> None:
    class Plain(Display):
        def __init__(self, rank: int) -> None:
            self.rank = rank

        def summary(self) -> str:
            return f"rank {self.rank}"

        def plot(self):
            self.figure_ = Figure()
            ax = self.figure_.add_subplot(title=f"rank {self.rank}")
            ax.plot([0, self.rank])

    panel = mv.explore.panel(Plain, rank=[1, 2, 4])
    panel.figure.axes[0].set_xlabel("mine")
    assert panel.set(rank=4).figure.axes[0].get_xlabel() == "mine"
    assert panel.figure.axes[0].get_title() == "rank 4"


def test_each_name_is_in_a_menu_and_each_number_on_a_slider(panel: Panel) -> None:
    method, rank = panel._controls
    assert (method["kind"], method["options"]) == ("menu", list(METHODS))
    assert (rank["kind"], rank["options"]) == ("slider", ["1", "2", "3", "4", "8"])


def test_methods_are_choices_by_their_names() -> None:
    linear = torch.nn.Linear(8, 8)

    def make(method, rank):
        return mv.displays.UpdateDisplay.from_adapter(method.with_rank(rank).on(linear))

    panel = mv.explore.panel(make, method=[mv.LoRA(1), mv.MiSS(2)], rank=[1, 2])
    assert panel._controls[0]["options"] == ["LoRA r=1", "MiSS r=2"]
    assert panel.set(method="MiSS r=2").values["method"] == mv.MiSS(2)
    assert panel.set(method=mv.LoRA(1)).values["method"] == mv.LoRA(1)
    again = eval(panel.state, {"mv": mv, "make": make})
    assert again.values == panel.values
    assert again.picture == panel.picture
    with pytest.raises(ValueError, match="method=PiSSA r=1 is not a choice; choose from LoRA r=1"):
        panel.set(method=mv.PiSSA(1))


@pytest.mark.slow
def test_work_goes_on_while_nobody_waits_and_says_how_far_it_is() -> None:
    done = []

    def work():
        for piece in range(3):
            done.append(piece)
            yield f"{piece + 1} of 3"

    panel = mv.explore.update()
    working = Panel("update", panel.view.compute, panel.choices, panel.values, work=work())
    notes = []
    working.observe(lambda change: notes.append(change["new"]), names="_note")

    async def show() -> None:
        working._repr_mimebundle_()
        await asyncio.sleep(1)

    assert done == []
    in_an_event_loop(show)
    assert done == [0, 1, 2]
    assert notes == ["1 of 3", "2 of 3", "3 of 3", ""]


@pytest.mark.parametrize("path", [3, None, b"x.png"])
def test_what_is_no_path_is_told_so(panel: Panel, path) -> None:
    for write in (panel.save, panel.to_html):
        with pytest.raises(TypeError, match="is not the name of a file, such as"):
            write(path)


@pytest.mark.slow
def test_a_change_that_cannot_be_drawn_is_taken_back() -> None:
    panel = mv.explore.update(method="LoRA")
    before = panel.picture
    for spoil in (
        lambda figure: figure.axes[0].set_title(r"$\frac{$"),
        lambda figure: figure.text(0.5, 0.5, r"$\frac{$"),
    ):
        spoil(panel.figure)
        with pytest.raises(ValueError, match="cannot be drawn, and was taken back"):
            panel.set(rank=8)
        assert panel.set(rank=2).picture == before


def test_two_kinds_of_display_in_one_panel() -> None:
    linear = torch.nn.Linear(8, 8)
    adapter = mv.MiSS(2).on(linear)
    mv.testing.randomise(adapter)
    kinds = {
        "update": mv.displays.UpdateDisplay.from_adapter,
        "cosines": lambda adapter: mv.displays.ColinearityDisplay.from_adapter(adapter, width=2),
    }
    panel = mv.explore.panel(lambda kind: kinds[kind](adapter), kind=list(kinds))
    first = panel.picture
    assert panel.set(kind="cosines").picture != first
    assert np.array_equal(pixels(panel.picture), drawn(panel.drawn()))
    assert panel.set(kind="update").picture == first


def test_the_outcome_can_be_hidden_again() -> None:
    panel = mv.explore.update(reveal=False)
    hidden = panel.picture
    assert panel.reveal().picture != hidden
    assert panel.reveal(False).picture == hidden
    assert panel._hidden
