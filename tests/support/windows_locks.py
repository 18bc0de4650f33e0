"""Locks as Windows has them, on Linux."""

from __future__ import annotations

import os
import struct
import sys

import pytest

from kcv.common import locks


class Windows:
    """`msvcrt.locking` over Linux' locks of byte ranges that belong to an open file, as those of Windows do."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.locked: list[int] = []

    def locking(self, handle: int, mode: int, count: int) -> None:
        start = os.lseek(handle, 0, os.SEEK_CUR)
        import fcntl

        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, count, 0)
        try:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            raise PermissionError(13, "Permission denied") from None  # as Windows says it
        self.locked.append(start)


def use_windows_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets kcv lock files as it does on Windows."""
    if sys.platform != "linux":
        pytest.skip("Windows' locks are made of those that only Linux has")
    monkeypatch.setattr(locks, "_posix", None)
    monkeypatch.setattr(locks, "_windows", Windows())
