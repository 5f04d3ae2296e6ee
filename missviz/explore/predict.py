"""Predict before you see: record a guess, and show it beside the outcome. Never graded."""

from collections.abc import Sequence
from typing import Any

import traitlets

from missviz.explore.front import FrontEnd, look_of_text

_GUESSES: dict[tuple[str, ...], int] = {}
"""Guesses since the kernel began, by question and choices: a cell that runs again keeps its own."""


class Prediction(FrontEnd):
    """A question with radio buttons. `guess` is the choice so far, or None; once the outcome is
    shown, buttons no longer change it."""

    _question = traitlets.Unicode().tag(sync=True)
    _choices: Any = traitlets.List().tag(sync=True)
    _guess = traitlets.Int(-1).tag(sync=True)
    _words = traitlets.Unicode().tag(sync=True)
    _closed = traitlets.Bool().tag(sync=True)

    def __init__(self, question: str, choices: Sequence[Any]) -> None:
        self.question = str(question)
        if isinstance(choices, str) or len(set(map(str, choices))) < max(2, len(choices)):
            raise ValueError(f"choices={choices!r} is not a list of two or more different choices")
        self._outcome: str | None = None
        super().__init__(
            _kind="question",
            _look=look_of_text(),
            _question=self.question,
            _choices=[str(choice) for choice in choices],
            _guess=_GUESSES.get((self.question, *map(str, choices)), -1),
        )
        self.observe(self._show, names="_guess")
        self._show()

    @property
    def choices(self) -> list[str]:
        """What there is to choose from."""
        return list(self._choices)

    @property
    def guess(self) -> str | None:
        """The choice so far, or None."""
        return str(self._choices[self._guess]) if self._guess >= 0 else None

    def choose(self, choice: Any) -> "Prediction":
        """Record a guess without a browser: a show of hands. Returns the question.

        Raises ValueError where it is none of the choices.
        """
        if str(choice) not in self._choices:
            raise ValueError(
                f"choice={choice!r} is not there; choose from {', '.join(self._choices)}"
            )
        self._guess = self._choices.index(str(choice))
        return self

    def reveal(self, outcome: object) -> "Outcome":
        """Show `outcome` beside the guess, there and here; guessing first is up to the reader."""
        self._outcome = str(outcome)
        self._closed = True
        self._show()
        return Outcome(self.guess, self._outcome)

    def _show(self, _: object = None) -> None:
        _GUESSES[self.question, *self._choices] = self._guess
        first = "No guess yet." if self.guess is None else f"Your guess: {self.guess}."
        self._words = first if self._outcome is None else f"{first} Outcome: {self._outcome}"

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # Words for readers without a kernel.
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        listed = "\n".join(f"- {choice}" for choice in self._choices)
        words = f"Predict: {self.question}\n{listed}\n{self._words}"
        return {**data, "text/plain": words}, metadata


class Outcome:
    """A guess and what came out, as a line of text."""

    def __init__(self, guess: str | None, outcome: str) -> None:
        self.guess, self.outcome = guess, outcome

    def __repr__(self) -> str:
        guessed = "You did not guess." if self.guess is None else f"You guessed: {self.guess}."
        return f"{guessed}\nOutcome:     {self.outcome}"


def predict(question: str, choices: Sequence[Any]) -> Prediction:
    """A question to answer before the next cell is run; choices become radio buttons.

    `guess = mv.predict(...)` keeps it, `guess.reveal(outcome)` shows both. Nothing is graded, and
    an unanswered question stops nothing. Run again, the cell shows the guess of before.
    """
    return Prediction(question, choices)
