"""Predict before you see: record a guess, and show it beside the outcome. Never graded."""

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets


class Prediction(widgets.VBox):
    """A question with radio buttons. `guess` is the choice so far, or None."""

    def __init__(self, question: str, choices: Sequence[Any]) -> None:
        self.question = str(question)
        self._buttons = widgets.RadioButtons(
            options=[str(choice) for choice in choices],
            value=None,
            layout=widgets.Layout(width="max-content"),
        )
        self._buttons.observe(self._show, names="value")
        self._note = widgets.HTML()
        self._outcome: str | None = None
        title = widgets.HTML(f"<b>Predict:</b> {html.escape(self.question)}")
        super().__init__([title, self._buttons, self._note])
        self._show()

    @property
    def guess(self) -> str | None:
        """The choice so far, or None."""
        value: str | None = self._buttons.value
        return value

    def reveal(self, outcome: object) -> "Outcome":
        """Show `outcome` beside the guess, there and here; guessing first is up to the reader."""
        self._outcome = str(outcome)
        self._show()
        return Outcome(self.guess, self._outcome)

    def _show(self, _: object = None) -> None:
        lines = ["Your guess: nothing yet." if self.guess is None else f"Your guess: {self.guess}."]
        if self._outcome is not None:
            lines.append(f"Outcome: {self._outcome}")
        self._note.value = "<br>".join(html.escape(line) for line in lines)


class Outcome:
    """A guess and what came out, as a line of text."""

    def __init__(self, guess: str | None, outcome: str) -> None:
        self.guess, self.outcome = guess, outcome

    def __repr__(self) -> str:
        return f"You guessed: {self.guess or 'nothing'}.\nOutcome:     {self.outcome}"


def predict(question: str, choices: Sequence[Any]) -> Prediction:
    """A question to answer before the next cell is run; choices become radio buttons.

    `guess = mv.predict(...)` keeps it, `guess.reveal(outcome)` shows both. Nothing is graded, and
    an unanswered question stops nothing.
    """
    return Prediction(question, choices)
