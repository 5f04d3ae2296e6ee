"""Where a benchmark's result goes."""

import json
from pathlib import Path
from typing import Any


def write_result(result: dict[str, Any], folder: Path) -> Path:
    """Write <part>-<device>.json, whole or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['part']}-{result['device'].replace(':', '')}.json"
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
