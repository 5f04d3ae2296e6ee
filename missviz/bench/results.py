"""Where a benchmark's result goes."""

import json
from pathlib import Path
from typing import Any

from missviz.files import write_whole


def write_result(result: dict[str, Any], folder: Path) -> Path:
    """Write <part>-<device>.json, whole or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['part']}-{result['device'].replace(':', '')}.json"
    write_whole(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return path
