"""The table of `missviz inspect` as words, as JSON, and as one page with pictures."""

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from missviz.displays.base import Display
from missviz.files import write_whole

NOT_MEASURED = "not measured"

_COLUMNS = {
    "module": "module",
    "shape": "shape",
    "num_parameters": "parameters",
    "norm": "‖ΔW‖",
    "relative_norm": "‖ΔW‖/‖W₀‖",
    "numerical_rank": "rank",
    "stable_rank": "stable rank",
    "effective_rank": "effective rank",
    "top_energy": "share of σ₁²",
    "shard_cosine": "shard cosine",
    "singular_values": "top σ",
    "warnings": "warnings",
}
_TOP = 3
"""Singular values in the table; JSON has all that were kept."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 1150px; margin: 1em auto; padding: 0 1em; }}
img {{ max-width: 100%; }}
table {{ border-collapse: collapse; font-size: 13px; }}
th, td {{ padding: 0.1em 0.6em; text-align: right; border-bottom: 1px solid #ccc; }}
th:first-child, td:first-child, th:last-child, td:last-child {{ text-align: left; }}
</style>
<h1>{title}</h1>
{warnings}
{pictures}
{table}
</html>
"""


def printable(text: object) -> str:
    """`text` without characters that steer a terminal or turn a line around: names are others'."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(text))


def shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table in words and few digits, one column for each that a reader looks at."""
    shown = {
        title: [printable(_word(name, value)) for value in table[name]]
        for name, title in _COLUMNS.items()
    }
    return pd.DataFrame(shown)


def _word(name: str, value: Any) -> str:
    if name == "shape":
        return " × ".join("?" if size is None else str(size) for size in value or (None, None))
    if name == "singular_values":
        return " ".join(f"{sigma:.3g}" for sigma in value[:_TOP])
    if name == "warnings":
        return "; ".join(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOT_MEASURED if name == "relative_norm" else "–"
    if name in ("num_parameters", "numerical_rank"):
        return f"{value:.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def to_json(method: str, warnings: Sequence[str], table: pd.DataFrame) -> str:
    """All numbers; what is undefined or not measured is null."""
    modules = [
        {name: None if value != value else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    whole = {"method": method, "warnings": list(warnings), "modules": modules}
    return json.dumps(whole, indent=2, ensure_ascii=True, allow_nan=False)


def write_report(
    path: Path,
    title: str,
    warnings: Sequence[str],
    table: pd.DataFrame,
    displays: Sequence[Display],
) -> None:
    """Write one HTML file, whole or not at all: no script, no network, every name escaped."""
    pictures = []
    for display in displays:
        packed = io.BytesIO()
        display.plot().figure_.savefig(packed, format="png")
        words = html.escape(display.summary())
        data = base64.b64encode(packed.getvalue()).decode()
        pictures.append(f'<img src="data:image/png;base64,{data}" alt="{words}">\n<p>{words}</p>')
    escaped = [f"<li>{html.escape(printable(warning))}</li>" for warning in warnings]
    page = _PAGE.format(
        title=html.escape(printable(title)),
        warnings=f"<ul>{''.join(escaped)}</ul>" if escaped else "",
        pictures="\n".join(pictures),
        table=shown_table(table).to_html(index=False, border=0, escape=True),
    )
    write_whole(path, page)
