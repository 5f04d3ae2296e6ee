"""A JupyterLab and a Chromium for the tests here, or the reason why there are none."""

import os

import pytest

from missviz.bench import browser


@pytest.fixture(scope="session")
def page():
    """A page of a headless Chromium."""
    if reason := browser.missing():
        if os.environ.get("MISSVIZ_REQUIRE_BROWSER"):
            pytest.fail(f"CI needs a browser, but {reason}")
        pytest.skip(f"tests in a real browser did not run: {reason}")
    with browser.browser_page() as page:
        yield page


@pytest.fixture(scope="session")
def lab(page, tmp_path_factory):
    """A running JupyterLab: its URL, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("lab")
    with browser.jupyterlab(folder) as url:
        yield url, folder
