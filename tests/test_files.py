"""Files are there whole or not at all."""

import threading
from pathlib import Path

import pytest

from missviz.files import write_whole


def test_writers_of_one_file_at_a_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([letter]) * 100_000 for letter in b"abcd"]
    failed: list[Exception] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(50):
                write_whole(path, content)
                assert path.read_bytes() in contents
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    assert [part.name for part in tmp_path.iterdir()] == ["file"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "before: W₀\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "folder", b"after")
    assert sorted(part.name for part in tmp_path.iterdir()) == ["file", "folder"]
    assert path.read_text(encoding="utf-8") == "before: W₀\n"
