from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from windows_locks import use_windows_locks

from kcv.common import locks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The locks of each kind of system."""
    if request.param == "windows":
        use_windows_locks(monkeypatch)
    return str(request.param)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


@pytest.mark.usefixtures("system")
def test_a_locked_file_is_refused_until_it_is_closed(file: Path) -> None:
    with file.open("rb+") as first, file.open("rb+") as second:
        locks.take(first.fileno())
        with pytest.raises(BlockingIOError):
            locks.take(second.fileno())
        first.close()
        locks.take(second.fileno())


def test_what_is_written_and_read_stays_where_it_was(file: Path, system: str) -> None:
    with file.open("rb+") as stream:
        assert stream.read(3) == b"con"
        before = os.lseek(stream.fileno(), 0, os.SEEK_CUR)
        locks.take(stream.fileno())
        assert os.lseek(stream.fileno(), 0, os.SEEK_CUR) == before
        assert stream.read() == b"tent"
    assert file.read_bytes() == b"content"
    if system == "windows":  # a locked byte cannot be read, so it must be one that no file has
        assert locks._windows.locked == [locks._FAR]
        assert locks._FAR > 2**26


@pytest.mark.usefixtures("system")
def test_waiting_ends_when_the_other_lets_go(file: Path) -> None:
    order: list[str] = []
    with file.open("rb+") as first, file.open("rb+") as second:
        locks.take(first.fileno())

        def wait() -> None:
            locks.take(second.fileno(), wait=True)
            order.append("taken")

        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        order.append("closed")
        first.close()
        waiting.join()
    assert order == ["closed", "taken"]


def test_the_lock_of_a_killed_process_is_free(file: Path) -> None:
    script = "import sys; from kcv.common import locks; f = open(sys.argv[1], 'rb+'); locks.take(f.fileno()); "
    script += "print('locked', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", script, str(file)]
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(words, stdin=pipe, stdout=pipe, env=environment)
    with other, file.open("rb+") as mine:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BlockingIOError):
            locks.take(mine.fileno())
        other.kill()
        other.wait()
        locks.take(mine.fileno())


def test_a_python_without_locks_says_so(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_posix", None)
    monkeypatch.setattr(locks, "_windows", None)
    with file.open("rb+") as stream, pytest.raises(OSError, match="not supported") as refused:
        locks.take(stream.fileno())
    assert not isinstance(refused.value, BlockingIOError)


def test_other_errors_are_not_taken_for_a_lock_of_another(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int, mode: int, count: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(locks, "_posix", None)
    monkeypatch.setattr(locks, "_windows", SimpleNamespace(locking=broken, LK_NBLCK=2))
    with file.open("rb+") as stream, pytest.raises(OSError, match="Invalid"):
        locks.take(stream.fileno())
