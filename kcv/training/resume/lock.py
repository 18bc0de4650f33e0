"""Locks a run folder for one process."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kcv.common import locks
from kcv.common.files import BINARY
from kcv.common.untrusted import is_link
from kcv.errors import OutputError

_OWN = re.compile(rb"(\d{1,19}\n)?")
"""Content of a kcv lock file: the id of the process that holds it or held it last."""

_FLAGS = os.O_RDWR | os.O_CREAT | BINARY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Locks a run folder against other training processes. The system releases the lock when the process ends.

    The folder may be untrusted: no link is followed, and only a lock file is ever modified.

    Args:
        path: the lock file; its folder is created if missing.

    Raises:
        OutputError: another process trains there, the folder is not writable, or another file has this name.
    """
    for place in (path.parent, path):
        if is_link(place):
            raise OutputError(f"{place}: is a link, which is not followed here")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, _FLAGS, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    try:
        _take(handle, path)
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> None:
    """Locks an open file and writes the id of this process into it."""
    found = os.fstat(handle)
    content = os.read(handle, 32) if stat.S_ISREG(found.st_mode) else b"?"
    if not _OWN.fullmatch(content):
        raise OutputError(f"{path}: is no lock of a training, but another file; remove it to go on")
    try:
        locks.take(handle)
    except BlockingIOError:
        holder = content.decode().strip()
        raise OutputError(f"{path.parent.parent}: another training runs there (process {holder})") from None
    except OSError:
        pass  # the file system does not support locks
    if found.st_nlink > 1:
        return  # the file has another hard link, which may be someone else's file
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"{os.getpid()}\n".encode())
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from None
