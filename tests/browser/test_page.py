"""`Panel.to_html`: controls that work from a file, with the network off."""

from pathlib import Path

import pytest

import missviz as mv

pytestmark = pytest.mark.slow


def test_page_works_from_a_file_without_network(page, tmp_path: Path) -> None:
    panel = mv.explore.lunch(budget=256)
    panel.to_html(tmp_path / "lunch.html")
    context = page.context.browser.new_context(offline=True)
    offline = context.new_page()
    asked, errors = [], []
    offline.on("request", lambda request: asked.append(request.url))
    offline.on("pageerror", lambda error: errors.append(str(error)))
    offline.goto((tmp_path / "lunch.html").as_uri())
    picture = offline.locator("img")
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 100
    assert offline.locator("#words").inner_text() == panel.summary
    assert picture.get_attribute("alt") == panel.summary

    offline.locator("input").focus()
    offline.keyboard.press("ArrowRight")
    panel.set(budget=512)
    assert offline.locator("#words").inner_text() == panel.summary
    assert offline.locator("output").inner_text() == "512"
    offline.locator("select").select_option(label="closed form")
    assert offline.locator("#words").inner_text() == panel.set(shown="closed form").summary
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()
