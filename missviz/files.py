"""Files are written whole or not at all."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write under a temporary name first: an interruption leaves what was there before."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
