"""A panel as one HTML file: every picture inside, controls that work without kernel or network."""

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from missviz.explore.front import WEB
from missviz.explore.view import Frame
from missviz.files import write_whole

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>missviz: {title}</title>
<style>
body {{ margin: 0 auto; padding: 1em; background: {paper}; max-width: {width}; }}
{style}
</style>
<main></main>
<script type="module">
{module}
{page}
render({{ model: storedModel({state}, {frames}), el: document.querySelector("main") }});
</script>
</html>
"""


def write_page(
    path: Path, title: str, state: Mapping[str, Any], frames: Mapping[str, Frame]
) -> None:
    """Write the page, whole or not at all; a folder that is missing is made.

    Args:
        path: the file. Raises IsADirectoryError where that is a folder.
        title: the panel's name.
        state: what the front end is told of the panel at first.
        frames: by "epoch:place,place,…", for every combination of the controls' places.
    """
    look = state["_look"]
    packed = {key: [f.words, base64.b64encode(f.picture).decode()] for key, f in frames.items()}
    page = _PAGE.format(
        title=html.escape(title),
        paper=look["paper"],
        width="none" if look["fill"] else f"{look['width'] + 60}px",
        style=(WEB / "widget.css").read_text(encoding="utf-8"),
        module=(WEB / "widget.js").read_text(encoding="utf-8"),
        page=(WEB / "page.js").read_text(encoding="utf-8"),
        state=_json(state),
        frames=_json(packed),
    )
    write_whole(path, page)


def _json(values: Any) -> str:
    # No "<" of the words may end the script or begin a comment in it.
    return json.dumps(values, ensure_ascii=False).replace("<", "\\u003c")
