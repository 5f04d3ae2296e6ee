"""A lecturer's own panel over any display."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import missviz as mv
from missviz.displays.base import Display
from missviz.style import row_of_axes

LAYER = torch.nn.Linear(8, 8)


def update(rank: int) -> Display:
    adapter = mv.LoRA(rank).on(LAYER)
    mv.testing.randomise(adapter)
    return mv.displays.UpdateDisplay.from_adapter(adapter, limit=2.0)


class Heights(Display):
    """A display that knows nothing of panels but `plot` and `summary`."""

    def __init__(self, count: int, sign: str) -> None:
        self.heights = np.arange(count) * (1 if sign == "+" else -1)

    def summary(self) -> str:
        return f"{len(self.heights)} bars"

    def plot(self) -> "Heights":
        (self.ax_,) = row_of_axes(4, 3)
        self.figure_ = self.ax_.figure
        self.outcome_ = list(self.ax_.bar(range(len(self.heights)), self.heights))
        return self


@dataclass
class Squares(Heights):
    """Data as those of the house have them, and something found from them."""

    count: int

    def __post_init__(self) -> None:
        self.heights = np.arange(self.count) ** 2


def test_a_display_may_be_a_dataclass() -> None:
    panel = mv.explore.panel(Squares, count=[3, 5])
    assert panel.set(count=5).summary == "5 bars"
    assert [bar.get_height() for bar in panel.view.display.outcome_] == [0, 1, 4, 9, 16]


def test_a_function_that_makes_a_display() -> None:
    panel = mv.explore.panel(update, rank=[1, 2, 4])
    assert panel.values == {"rank": 1}
    assert "LoRA r=4" in panel.set(rank=4).summary
    assert panel.state == "mv.explore.panel(make, rank=[1, 2, 4]).set(rank=4)"


def test_a_display_class_is_drawn_anew() -> None:
    panel = mv.explore.panel(Heights, count=[3, 5], sign=["+", "-"])
    first = panel.picture
    assert panel.set(count=5, sign="-").summary == "5 bars"
    assert panel.picture != first
    assert panel.figure.axes[0].get_ylim()[1] < 1
    assert panel.set(count=3, sign="+").picture == first


def test_any_iterable_and_yes_or_no() -> None:
    panel = mv.explore.panel(
        lambda rank, on: update(rank), rank=(r for r in (1, 2)), on=[True, False]
    )
    assert panel.set(on=False, rank=2).values == {"rank": 2, "on": False}
    hidden = mv.explore.panel(update, reveal=False, rank=[1, 2])
    assert hidden.state == "mv.explore.panel(make, reveal=False, rank=[1, 2]).set(rank=1)"


def test_its_outcome_can_be_hidden() -> None:
    hidden = mv.explore.panel(Heights, reveal=False, count=[3, 5], sign=["+"])
    shown = mv.explore.panel(Heights, count=[3, 5], sign=["+"])
    assert hidden.picture != shown.picture
    assert hidden.set(count=5).reveal().picture == shown.set(count=5).picture


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mv.explore.panel(3, rank=[1]), TypeError, "make=3 is neither"),
        (lambda: mv.explore.panel(update), ValueError, "needs a control"),
        (lambda: mv.explore.panel(update, rank=[]), ValueError, r"rank=\[\] is not a list"),
        (lambda: mv.explore.panel(update, rank="12"), ValueError, "rank='12' is not a list"),
        (lambda: mv.explore.panel(lambda n: n, n=[1]), TypeError, "make returned int"),
        (lambda: mv.explore.panel(update, rank=4), ValueError, "rank=4 is not a list"),
        (lambda: mv.explore.panel(update, rank=[None, 1]), TypeError, "type NoneType; give num"),
        (lambda: mv.explore.panel(update, rank=[float("nan")]), TypeError, "type float; give"),
        (lambda: mv.explore.panel(update, rank=[LAYER.weight]), TypeError, "type Parameter"),
        (lambda: mv.explore.panel(update, path=[1]), ValueError, "cannot be called path"),
        (
            lambda: mv.explore.panel(Heights, a=[1], b=[1], c=[1], d=[1]),
            ValueError,
            "at most three",
        ),
        (
            lambda: mv.explore.panel(Heights, count=[1, 2], sign=["+"]).pin("one"),
            NotImplementedError,
            "Heights cannot be pinned",
        ),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


class Silent(Heights):
    """As a lecturer may write it: `plot` returns nothing."""

    def plot(self) -> None:  # type: ignore[override]
        super().plot()


class Blank(Heights):
    def plot(self) -> None:  # type: ignore[override]
        pass


def test_what_plot_returns_does_not_matter_but_that_it_draws_does() -> None:
    panel = mv.explore.panel(Silent, count=[3, 5], sign=["+"])
    assert panel.set(count=5).picture == mv.explore.panel(Heights, count=[5], sign=["+"]).picture
    assert panel.drawn(count=3).figure_.axes
    with pytest.raises(TypeError, match=r"Blank.plot\(\) left no matplotlib Figure"):
        mv.explore.panel(Blank, count=[3], sign=["+"])


def test_a_picture_needs_a_file_name() -> None:
    with pytest.raises(ValueError, match="path='' names no file"):
        mv.explore.panel(Heights, count=[3], sign=["+"]).save("")
