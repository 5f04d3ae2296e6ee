"""A real JupyterLab in a real Chromium, to press keys in: for `missviz bench panels` and the tests.

Needs Playwright (pip) and a Chromium that it did not download itself (Debian: apt-get install
chromium); MISSVIZ_CHROMIUM says where, if it is not on the path.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK = {"width": 1500, "height": 1200}
"""A window in CSS pixels."""
STARTING = 60.0
"""Seconds that JupyterLab may take to answer."""

_SETTINGS = {
    # Every cell is in the page; by default those far away are not drawn.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "maxNumberOutputs": 10000},
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}

_WATCH = """
(() => {
  const checksum = (img) => {
    const canvas = document.createElement("canvas");
    canvas.width = img.naturalWidth;
    canvas.height = img.naturalHeight;
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(img, 0, 0);
    const whole = context.getImageData(0, 0, canvas.width, canvas.height);
    const data = new Uint32Array(whole.data.buffer);
    let sum = 0;
    for (let i = 0; i < data.length; i++) sum = (Math.imul(sum, 31) + data[i]) | 0;
    return sum;
  };
  window.pictureOf = (node) => {
    const images = [...node.querySelectorAll("img")].filter((img) => img.naturalWidth);
    return images.length ? checksum(images[images.length - 1]) : null;
  };
  let pressed = null;
  document.addEventListener("keydown", (event) => { pressed ??= event.timeStamp; }, true);
  // Milliseconds from the next key press to the frame in which other pixels are on the screen.
  window.watchPicture = (node, limit) => {
    const before = window.pictureOf(node);
    pressed = null;
    window.watched = new Promise((resolve) => {
      const look = async () => {
        const images = [...node.querySelectorAll("img")];
        if (!images.length) return;
        try { await images[images.length - 1].decode(); } catch { return; }
        requestAnimationFrame(() => {
          const now = performance.now();
          if (window.pictureOf(node) !== before) { stop(); resolve(now - pressed); }
        });
      };
      const observer = new MutationObserver(look);
      const timer = setTimeout(() => { stop(); resolve(null); }, limit);
      const stop = () => { observer.disconnect(); clearTimeout(timer); };
      observer.observe(node, {subtree: true, childList: true, attributes: true,
                              attributeFilter: ["src"]});
    });
  };
})();
"""


def missing() -> str | None:
    """What is not there of what a browser needs, as a sentence; None if all is there."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "Playwright is not installed: pip install playwright"
    if chromium() is None:
        return "no Chromium on the path: apt-get install chromium, or set MISSVIZ_CHROMIUM"
    return None


def chromium() -> str | None:
    """The browser's path, or None."""
    named = os.environ.get("MISSVIZ_CHROMIUM")
    return named or next(filter(None, map(shutil.which, CHROMIUM)), None)


@contextmanager
def browser_page(viewport: Any = DESK) -> Iterator[Any]:
    """A page of a headless Chromium; `viewport`: its window in CSS pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser.new_page(viewport=viewport)
        finally:
            browser.close()


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A JupyterLab that serves `folder` with settings of its own; yields its URL with a token."""
    config = folder / ".jupyter" / "labconfig"
    config.mkdir(parents=True)
    (config / "default_setting_overrides.json").write_text(json.dumps(_SETTINGS))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex()
    home = {
        "JUPYTER_CONFIG_DIR": config.parent,
        "JUPYTER_DATA_DIR": folder / ".data",
        "JUPYTER_RUNTIME_DIR": folder / ".runtime",
        "IPYTHONDIR": folder / ".ipython",
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.root_dir={folder}",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
    ]
    with (folder / "jupyterlab.log").open("w") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env={**os.environ, **{name: str(path) for name, path in home.items()}},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api?token={token}", server, folder / "jupyterlab.log")
        yield f"{url}/lab?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTING
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


class Notebook:
    """A notebook in that browser, run once; cells are those given, from 0 on."""

    def __init__(
        self, page: Any, lab: str, folder: Path, cells: list[str], name: str = "panels"
    ) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        # Without it JupyterLab asks which kernel to take.
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, folder / f"{name}.ipynb")
        self.page, self.name = page, name
        self.errors: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(_WATCH)
        address, _, token = lab.partition("?")
        # Reset: without the notebooks that an earlier page had open.
        page.goto(f"{address}/tree/{name}.ipynb?{token}&reset")
        page.wait_for_selector(".jp-Notebook", timeout=60_000)
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady",
            timeout=60_000,
        )
        # Not awaited: what an evaluation waits for has no time limit.
        page.evaluate(
            """() => {
                window.jupyterapp.commands.execute("notebook:run-all-cells")
                    .then(() => { window.ranAll = true; });
            }"""
        )
        page.wait_for_function("() => window.ranAll", timeout=120_000)

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def cell(self, index: int) -> Any:
        """The cell's element."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def busy(self) -> bool:
        """Whether the kernel computes."""
        status = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
        return bool(self.page.evaluate(f"() => {status} !== 'idle'"))

    def run(self, index: int) -> None:
        """Run one cell again."""
        self.page.evaluate(
            """async (index) => {
                const app = window.jupyterapp;
                app.shell.currentWidget.content.activeCellIndex = index;
                await app.commands.execute("notebook:run-cell");
            }""",
            index,
        )

    def wait_for_picture(self, index: int) -> None:
        """Until the cell shows a picture."""
        node = self.cell(index).element_handle()
        self.page.wait_for_function("node => window.pictureOf(node) !== null", arg=node)

    def controls(self, index: int) -> list[Any]:
        """The cell's sliders and menus, in order; each takes arrow keys once it has the focus."""
        found = self.cell(index).locator(".noUi-handle, input[type=range], select")
        return [found.nth(i) for i in range(found.count())]

    def drag(self, slider: Any, share: float) -> None:
        """Take a slider's thumb with the mouse, and leave it at a share of the track's width."""
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        at = slider.evaluate("input => (input.value - input.min) / ((input.max - input.min) || 1)")
        # The middle of the thumb never gets nearer to an end than its own half.
        half = box["height"] / 2
        along = [box["x"] + half + part * (box["width"] - 2 * half) for part in (at, share)]
        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(along[0], middle)
        self.page.mouse.down()
        self.page.mouse.move(along[1], middle, steps=5)
        self.page.mouse.up()

    def press(self, index: int, control: Any, key: str, limit: float = 10.0) -> float | None:
        """Press a key in a control: milliseconds until the cell's picture has other pixels on the
        screen; None if it never has."""
        control.focus()
        node = self.cell(index).element_handle()
        self.page.evaluate(
            "([node, limit]) => window.watchPicture(node, limit)", [node, 1000 * limit]
        )
        self.page.keyboard.press(key)
        latency: float | None = self.page.evaluate("() => window.watched")
        return latency
