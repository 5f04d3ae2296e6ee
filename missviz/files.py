"""Files are written whole or not at all."""

import uuid
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write under a temporary name first: an interruption leaves what was there before. A folder
    that is missing is made.

    Raises OSError, such as on a full disk, with the beginning of the file removed again.
    """
    data = content.encode() if isinstance(content, str) else content
    # A name of its own, because other processes may write the same file now.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    if path.is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder; give a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:  # that it was under another name for a while concerns nobody
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
