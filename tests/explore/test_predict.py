"""A guess is recorded and shown beside the outcome; nothing is graded and nothing raises."""

import pytest

import missviz as mv
from missviz.explore.predict import _GUESSES


@pytest.fixture(autouse=True)
def a_new_kernel() -> None:
    _GUESSES.clear()


def test_a_cell_that_is_run_again_keeps_its_guess() -> None:
    mv.predict("Which rank?", [1, 2]).set_state({"_guess": 1})
    again = mv.predict("Which rank?", [1, 2])
    assert again.guess == "2"
    assert again._words == "Your guess: 2."
    assert mv.predict("Which rank?", [1, 2, 3]).guess is None
    assert mv.predict("Which other rank?", [1, 2]).guess is None


def test_guess_and_outcome() -> None:
    guess = mv.predict("Which rank?", [1, 2, "many"])
    assert guess.guess is None
    assert guess.choices == ["1", "2", "many"]
    guess.set_state({"_guess": 1})  # as the browser does
    assert guess.guess == "2"
    assert guess._words == "Your guess: 2."
    assert not guess._closed
    outcome = guess.reveal("rank 4")
    assert guess._words == "Your guess: 2. Outcome: rank 4"
    assert guess._closed
    assert repr(outcome) == "You guessed: 2.\nOutcome:     rank 4"


def test_no_guess_is_not_taken_for_an_answer() -> None:
    guess = mv.predict("How many?", ["nothing", "something"])
    assert guess._words == "No guess yet."
    assert repr(guess.reveal("nothing")).startswith("You did not guess.")
    assert repr(guess.choose("nothing").reveal("nothing")).startswith("You guessed: nothing.")


def test_a_show_of_hands() -> None:
    guess = mv.predict("Which rank?", [1, 2])
    assert guess.choose(2).guess == "2"
    with pytest.raises(ValueError, match="choice=3 is not there; choose from 1, 2"):
        guess.choose(3)
    assert guess.guess == "2"


def test_readers_without_a_kernel_get_the_words() -> None:
    data, _ = mv.predict("Which rank?", [1, 2])._repr_mimebundle_()
    assert data["text/plain"] == "Predict: Which rank?\n- 1\n- 2\nNo guess yet."
    assert "application/vnd.jupyter.widget-view+json" in data


def test_text_grows_in_lecture_mode() -> None:
    page = mv.predict("Which?", ["a", "b"])._look["scale"]
    try:
        mv.lecture()
        assert mv.predict("Which?", ["a", "b"])._look["scale"] > 1.3 * page
    finally:
        mv.lecture(False)


@pytest.mark.parametrize("choices", [[], ["a"], "abc", ["a", "a"]])
def test_a_question_needs_two_answers(choices) -> None:
    with pytest.raises(ValueError, match="is not a list of two or more different choices"):
        mv.predict("Which?", choices)
