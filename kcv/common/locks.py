"""Locks open files for one process. The system releases a lock when the file is closed, also that of a killed process.

POSIX locks a whole file by `flock`. Windows locks a range of bytes, which nobody else can read meanwhile, so the range
is one byte beyond the end of every file that is locked here.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # all other systems
    msvcrt = None  # type: ignore[assignment]

# Each system's type stubs lack the other's functions.
_posix: Any = fcntl
_windows: Any = msvcrt

SUPPORTED = _posix is not None or _windows is not None
"""Whether this Python can lock files at all; a file system may still not."""

_FAR = 2**30
_POLL_SECONDS = 0.1


def take(handle: int, *, wait: bool = False) -> None:
    """Locks an open file for this process.

    Args:
        handle: an open file, or on POSIX a folder.
        wait: whether to wait until another process releases it.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file system or this Python has no locks.

    Example:
        >>> with open("mine", "rb+") as stream:
        ...     locks.take(stream.fileno())
    """
    if _posix is not None:
        _posix.flock(handle, _posix.LOCK_EX | (0 if wait else _posix.LOCK_NB))
    elif _windows is not None:
        while not _take_byte(handle):
            if not wait:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
            time.sleep(_POLL_SECONDS)
    else:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


def _take_byte(handle: int) -> bool:
    """Locks the byte at `_FAR`, where the position must be meanwhile; returns False if another process holds it."""
    before = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, _FAR, os.SEEK_SET)
    try:
        _windows.locking(handle, _windows.LK_NBLCK, 1)
    except PermissionError:
        return False
    finally:
        os.lseek(handle, before, os.SEEK_SET)
    return True
