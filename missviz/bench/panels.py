"""Panels against the same figures through `ipywidgets.interact`, in a real JupyterLab.

Both take the same walk through their controls, key by key in turns, in a notebook of their own,
with a look at each picture. What is measured is the time from the key press to the frame in which
other pixels are on the screen.
"""

import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import missviz as mv
from missviz.bench.browser import Notebook, browser_page, jupyterlab
from missviz.bench.results import write_result
from missviz.explore.gallery import PANELS
from missviz.machine import conditions

PACKAGES = ("matplotlib", "ipywidgets", "jupyterlab", "playwright")
PANEL = "panel = mv.explore.{name}()\npanel"
INTERACT = """
peer_{name} = mv.explore.{name}()

def show_{name}(**values):
    return peer_{name}.drawn(**values).figure_

interact(show_{name}, **sliders(peer_{name}))
"""
SETUP = """
%matplotlib inline
import matplotlib.pyplot
import missviz as mv
from ipywidgets import SelectionSlider, interact

def sliders(panel):
    return {
        name: SelectionSlider(options=options, value=panel.values[name])
        for name, options in panel.choices.items()
    }
"""

LOOKING = 400
"""Milliseconds between two presses."""

Walk = list[tuple[int, str, bool]]


def compare(names: Sequence[str] = PANELS, presses: int = 30) -> dict[str, Any]:
    """Latencies of every panel and of its peer, in milliseconds."""
    rows, errors = [], []
    with tempfile.TemporaryDirectory() as folder, jupyterlab(Path(folder)) as lab:
        for name in names:
            cells = [SETUP, PANEL.format(name=name), INTERACT.format(name=name)]
            with browser_page() as page:
                notebook = Notebook(page, lab, Path(folder), cells, name)
                rows.append({"panel": name, **_measure(notebook, name, presses)})
            errors += notebook.errors
    return {
        "part": "panels",
        "presses": presses,
        "rows": rows,
        "console_errors": errors,
        **conditions(packages=PACKAGES),
    }


def walk(choices: dict[str, list[Any]], values: dict[str, Any], presses: int) -> Walk:
    """Steps through the controls: which one, which key, and whether the state was seen before."""
    chance = random.Random(0)
    sizes = [len(options) for options in choices.values()]
    place = [choices[name].index(value) for name, value in values.items()]
    seen, steps = {tuple(place)}, []
    for _ in range(presses):
        possible = [
            (control, way)
            for control, size in enumerate(sizes)
            for way in (1, -1)
            if 0 <= place[control] + way < size
        ]
        control, way = chance.choice(possible)
        place[control] += way
        key = "ArrowRight" if way > 0 else "ArrowLeft"
        steps.append((control, key, tuple(place) in seen))
        seen.add(tuple(place))
    return steps


def _measure(notebook: Notebook, name: str, presses: int) -> dict[str, Any]:
    panel = getattr(mv.explore, name)()
    sides = (1, 2)
    for side in sides:
        notebook.wait_for_picture(side)
    controls = [notebook.controls(side) for side in sides]
    fresh: list[float] = []
    back: list[float] = []
    peer: list[float] = []
    for control, key, seen in walk(panel.choices, panel.values, presses):
        latencies: list[float | None] = []
        for side, found in zip(sides, controls, strict=True):
            latencies.append(notebook.press(side, found[control], key))
            # Looking takes time; and what a panel draws ahead must not slow its peer.
            notebook.page.wait_for_timeout(LOOKING)
        ours, theirs = latencies
        if ours is None or theirs is None:
            continue  # two states with the same picture
        (back if seen else fresh).append(ours)
        peer.append(theirs)
    return {
        "fresh_ms": _spread(fresh),
        "going_back_ms": _spread(back),
        "interact_ms": _spread(peer),
        "ratio": statistics.median(peer) / statistics.median(fresh),
    }


def _spread(latencies: list[float]) -> dict[str, float | None]:
    if not latencies:
        return {"median": None, "lowest": None, "highest": None, "presses": 0}
    return {
        "median": round(statistics.median(latencies), 1),
        "lowest": round(min(latencies), 1),
        "highest": round(max(latencies), 1),
        "presses": len(latencies),
    }


def report(result: dict[str, Any], folder: Path) -> Path:
    """Print the table and write the JSON; returns its path."""
    print(
        f"key press to changed pixels, {result['presses']} presses each in turns, medians in ms; "
        f"{result['machine']}"
    )
    print(f"{'panel':16}{'new value':>11}{'going back':>12}{'interact':>10}{'ratio':>8}")
    for row in result["rows"]:
        back = row["going_back_ms"]["median"]
        print(
            f"{row['panel']:16}{row['fresh_ms']['median']:11.0f}"
            f"{'-' if back is None else format(back, '.0f'):>12}"
            f"{row['interact_ms']['median']:10.0f}{row['ratio']:8.1f}"
        )
    return write_result(result, folder)
