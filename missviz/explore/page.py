"""A panel as one HTML file: every picture inside, controls that work without kernel or network."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from missviz.files import write_whole

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>missviz: {title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 1150px; margin: 1em auto; padding: 0 1em; }}
img {{ max-width: 100%; }}
label {{ margin-right: 2em; }}
output {{ display: inline-block; min-width: 3em; }}
</style>
<form>
{controls}
</form>
<img id="picture" alt="">
<p id="words" aria-live="polite"></p>
<script>
"use strict";
const frames = {frames};
const sizes = {sizes};
const controls = [...document.querySelectorAll("[data-options]")];
function show() {{
  let place = 0;
  controls.forEach((control, i) => {{
    const chosen = Number(control.value);
    place = place * sizes[i] + chosen;
    const label = control.parentElement.querySelector("output");
    if (label) label.textContent = JSON.parse(control.dataset.options)[chosen];
  }});
  const [picture, words] = frames[place];
  document.getElementById("picture").src = "data:image/png;base64," + picture;
  document.getElementById("picture").alt = words;
  document.getElementById("words").textContent = words;
}}
controls.forEach(control => control.addEventListener("input", show));
show();
</script>
</html>
"""


def write_page(
    path: Path,
    title: str,
    choices: Mapping[str, Sequence[Any]],
    values: Mapping[str, Any],
    frames: Sequence[tuple[bytes, str]],
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: the file.
        title: the panel's name.
        choices: the options of each control.
        values: where the controls stand at first.
        frames: PNG and words for every combination, the last control changing fastest.
    """
    packed = [[base64.b64encode(picture).decode(), words] for picture, words in frames]
    page = _PAGE.format(
        title=html.escape(title),
        controls="\n".join(_control(name, choices[name], values[name]) for name in choices),
        # No "<" of the words may end the script or begin a comment in it.
        frames=json.dumps(packed, ensure_ascii=False).replace("<", "\\u003c"),
        sizes=json.dumps([len(options) for options in choices.values()]),
    )
    write_whole(path, page)


def _control(name: str, options: Sequence[Any], value: Any) -> str:
    shown = html.escape(name.replace("_", " "))
    words = html.escape(json.dumps([str(option) for option in options], ensure_ascii=False))
    at = list(options).index(value)
    if isinstance(value, str):
        entries = "".join(
            f'<option value="{place}"{" selected" if place == at else ""}>'
            f"{html.escape(str(option))}</option>"
            for place, option in enumerate(options)
        )
        return f'<label>{shown} <select data-options="{words}">{entries}</select></label>'
    return (
        f'<label>{shown} <input type="range" min="0" max="{len(options) - 1}" value="{at}" '
        f'data-options="{words}"> <output></output></label>'
    )
