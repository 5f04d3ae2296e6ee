"""`Panel.to_html`: controls that work from a file, with the network off."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import missviz as mv

pytestmark = pytest.mark.slow


@pytest.fixture
def offline(page) -> Iterator:
    """A page of a browser without a network, which notes what it asks for and what goes wrong."""
    context = page.context.browser.new_context(offline=True)
    one = context.new_page()
    one.asked, one.errors = [], []
    one.on("request", lambda request: one.asked.append(request.url))
    one.on("pageerror", lambda error: one.errors.append(str(error)))
    yield one
    assert one.errors == []
    assert [url for url in one.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_page_works_from_a_file_without_network(offline, tmp_path: Path) -> None:
    panel = mv.explore.lunch(budget=256)
    panel.to_html(tmp_path / "new" / "lunch.html")
    offline.goto((tmp_path / "new" / "lunch.html").as_uri())
    picture, words = offline.locator("img"), offline.locator(".words")
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 100
    assert words.inner_text() == panel.summary
    assert picture.get_attribute("alt") == panel.summary
    assert offline.locator("button.reveal").is_hidden()

    offline.locator("input").focus()
    offline.keyboard.press("ArrowRight")
    panel.set(budget=512)
    assert words.inner_text() == panel.summary
    assert offline.locator("output").inner_text() == "512"
    offline.locator("select").select_option(label="closed form")
    assert words.inner_text() == panel.set(shown="closed form").summary


def test_a_hidden_outcome_is_revealed_by_the_pages_button(offline, tmp_path: Path) -> None:
    panel = mv.explore.lunch(reveal=False)
    before = panel.picture
    panel.to_html(tmp_path / "lunch.html")
    assert panel.picture == before
    assert not panel.revealed
    offline.goto((tmp_path / "lunch.html").as_uri())
    assert offline.locator(".words").inner_text() == panel.summary
    offline.locator("select").select_option(label="closed form")
    assert "hidden" in offline.locator(".words").inner_text()
    offline.locator("button.reveal").click()
    assert offline.locator(".words").inner_text() == panel.reveal().set(shown="closed form").summary
    assert offline.locator("button.reveal").is_hidden()


def test_a_lectures_page_is_as_dark_and_as_wide_as_the_screen(offline, tmp_path: Path) -> None:
    try:
        mv.lecture(dark=True)
        mv.explore.lunch().to_html(tmp_path / "lunch.html")
    finally:
        mv.lecture(False)
    offline.set_viewport_size({"width": 1920, "height": 1080})
    offline.goto((tmp_path / "lunch.html").as_uri())
    picture = offline.locator("img")
    assert picture.evaluate("img => img.clientWidth") >= 1100
    assert (
        offline.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        == "rgb(22, 24, 29)"
    )
