"""Removes temporary files of killed processes, but not those that are being written.

The name of a temporary file contains its process and the system, because several systems may share a disk. If the
process no longer exists, nothing else will remove the file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import threading
import time
from pathlib import Path
from typing import Final

A_DAY: Final = 86_400.0
"""Seconds without a change after which a file of another system is removed too."""

_NAME = re.compile(r"\..*\.kcv-([0-9a-f]{8})-(\d{1,10})-\w{8}(\..*)?", re.DOTALL)
_MOST_BYTES: Final = 255  # of a file name
_looked: set[Path] = set()  # folders that this process has searched; listing a large one for each file is slow
_looking = threading.Lock()


def prefix(path: Path) -> str:
    """Returns the prefix of the name of a temporary file for `path`; eight random characters and a suffix follow."""
    own = f".kcv-{_system()}-{os.getpid()}-"
    room = _MOST_BYTES - len(os.fsencode(path.suffix)) - len(own) - 9
    stem = path.stem
    while len(os.fsencode(stem)) > room:
        stem = stem[: max(room // 4, len(stem) - 16)] if len(stem) > 16 else stem[:-1]
    return f".{stem}{own}"


def remove_from(folder: Path) -> None:
    """Removes the temporary files of ended processes from a folder; searches each folder once per process."""
    folder = folder.absolute()
    with _looking:
        if folder in _looked:
            return
        _looked.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_file(follow_symlinks=False) and _is_left(match[1], int(match[2]), entry):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_left(system: str, process: int, entry: os.DirEntry[str]) -> bool:
    if system == _system() and os.name != "nt":
        return not _lives(process)
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > A_DAY


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only checks whether the process exists
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # it belongs to another user
    return True


@functools.cache
def _system() -> str:
    """Returns an identifier shared by all processes in one process ID namespace since the start of the machine."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        marks.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(marks).encode(errors="surrogateescape")).hexdigest()[:8]
