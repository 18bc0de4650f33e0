"""The lock of a run folder changes no file but a lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kcv.errors import OutputError
from kcv.training.resume.lock import lock


def test_a_lock_says_who_holds_it_and_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "resume" / "lock"
    for _ in range(2):
        with lock(path):
            assert path.read_text() == f"{os.getpid()}\n"
            with (
                pytest.raises(OutputError, match=rf"another training runs there \(process {os.getpid()}\)"),
                lock(path),
            ):
                pass


@pytest.mark.parametrize("kind", ["link", "broken link", "hard link", "link of the folder", "file", "pipe", "folder"])
def test_what_is_no_lock_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "resume" / "lock"
    precious.write_text("precious\n")
    if kind == "link of the folder":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "resume").symlink_to(tmp_path / "elsewhere")
    else:
        path.parent.mkdir()
    match kind:
        case "link":
            path.symlink_to(precious)
        case "broken link":
            path.symlink_to(tmp_path / "new")
        case "hard link":
            path.hardlink_to(precious)
        case "file":
            path.write_text("precious\n")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    with pytest.raises(OutputError) as caught, lock(path):
        pass
    assert "\n" not in str(caught.value)
    assert precious.read_text() == "precious\n"
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "elsewhere" / "lock").exists()
    if kind == "file":
        assert path.read_text() == "precious\n"


def test_a_file_of_numbers_with_two_names_is_not_written_to(tmp_path: Path) -> None:
    numbers, path = tmp_path / "numbers", tmp_path / "lock"
    numbers.write_text("42\n")
    path.hardlink_to(numbers)
    with lock(path):
        assert numbers.read_text() == "42\n"
