"""A guess is recorded and shown beside the outcome; nothing is graded and nothing raises."""

import missviz as mv


def test_guess_and_outcome() -> None:
    guess = mv.predict("Which rank?", [1, 2, "many"])
    assert guess.guess is None
    buttons = guess.children[1]
    assert buttons.options == ("1", "2", "many")
    buttons.value = "2"
    assert guess.guess == "2"
    assert "Your guess: 2." in guess.children[2].value
    assert "Outcome" not in guess.children[2].value
    outcome = guess.reveal("rank 4")
    assert "Outcome: rank 4" in guess.children[2].value
    assert repr(outcome) == "You guessed: 2.\nOutcome:     rank 4"


def test_no_guess_is_fine() -> None:
    guess = mv.predict("Which?", ["a", "b"])
    assert "You guessed: nothing." in repr(guess.reveal("a"))
    assert "nothing yet" in guess.children[2].value


def test_text_is_escaped() -> None:
    guess = mv.predict("<script>alert(1)</script>", ["<b>"])
    guess.reveal("<img>")
    assert all(
        "<script" not in part.value and "<img" not in part.value for part in guess.children[::2]
    )
