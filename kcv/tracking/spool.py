"""What is on its way to a store, in a file: nothing is lost when the store, or this process, is gone for a while.

A spool is a file of JSON lines that only grows, and beside it a small file that says how far it has been delivered. Its
first line describes the run. Whoever writes or delivers it holds a lock on it, which the system takes back when the
process ends; so a spool that can be locked is left over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kcv.common.files import write_json
from kcv.common.untrusted import read_bytes
from kcv.errors import OutputError
from kcv.tracking.lines import LONGEST_LINE, Entry, is_count, is_time, parse_line, write_line

try:
    import fcntl
except ImportError:  # Windows: spools are kept and delivered by their own run, but never taken over
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)

_VERSION = 1
_SUFFIX = ".jsonl"


class Spool:
    """Entries of one run, in order, and how many of them have been delivered.

    One thread may append while another one delivers. `create` and `left_over` make spools.

    Attributes:
        path: of the file.
        name: of the spool; unique.
        header: what describes the run, the first line.
        run_id: of the run in the store, once that is known.
    """

    def __init__(self, path: Path, handle: int, header: Entry) -> None:
        self.path = path
        self.name = path.stem
        self.header = header
        self.run_id: str | None = header.get("run_id")
        self._handle: int | None = handle  # to append with; it holds the lock
        self._lines = path.open("rb")  # with a position of its own
        self._lock = threading.Lock()
        self._offset = self._next = 0
        self._appended = self._delivered = 0
        self._synced = True

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Spool:
        """Makes a spool that no other process can take while this one lives.

        Raises:
            OSError: the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        name = f"spool-{secrets.token_hex(8)}"
        # Under its name it is locked and has its first line from the beginning, so that nobody takes it for left over.
        path = folder / f"{name}{_SUFFIX}"
        temporary = folder / f".{name}" if fcntl else path
        first = {"version": _VERSION, **header}
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _lock(handle)
            write_line(handle, first)
            os.fsync(handle)
            os.replace(temporary, path)
            spool = cls(path, handle, first)
        except BaseException:
            os.close(handle)
            temporary.unlink(missing_ok=True)
            raise
        spool._appended = 1
        return spool

    @classmethod
    def left_over(cls, folder: Path, location: str) -> list[Spool]:
        """Returns, locked, the spools for a store whose processes are gone, the oldest run first."""
        found: list[Spool] = []
        if fcntl is not None:
            for path in folder.glob(f"spool-*{_SUFFIX}"):
                with contextlib.suppress(OSError):
                    if (spool := cls._take(path, location)) is None:
                        continue
                    if is_time(spool.header.get("time", 0)):
                        found.append(spool)
                    else:
                        spool.set_aside()
        return sorted(found, key=lambda spool: float(spool.header.get("time", 0)))

    @property
    def waiting(self) -> int:
        """Entries that have not been delivered."""
        return self._appended - self._delivered

    def is_waiting(self, name: str) -> bool:
        """Tells whether another spool is still there, in hands that will deliver it."""
        return fcntl is not None and self.path.with_name(name + _SUFFIX).exists()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds an entry. It survives this process at once, and a power cut after the next `sync`.

        Raises:
            OSError: it cannot be written; then the file is as it was.
        """
        with self._lock:
            if self._handle is None:
                return  # delivery has ended already, for a reason that it has told
            write_line(self._handle, entry)
            self._appended += 1
            self._synced = False

    def sync(self) -> None:
        """Flushes to disk what has been appended since the last time."""
        if not self._synced and (handle := self._handle) is not None:
            self._synced = True
            with contextlib.suppress(OSError):
                os.fsync(handle)

    def peek(self) -> Entry | None:
        """Returns the first entry that has not been delivered; an empty one for a line that is damaged.

        Raises:
            ValueError: a line is longer than any that is written.
        """
        self._lines.seek(self._offset)
        line = self._lines.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            raise ValueError("a line without an end")
        if not line.endswith(b"\n"):  # nothing, or torn: it will never be whole, or is not yet
            return None
        self._next = self._offset + len(line)
        return parse_line(line)

    def advance(self) -> None:
        """Counts the entry of the last `peek` as delivered, for whoever delivers this spool next as well."""
        self._offset = self._next
        self._delivered += 1
        self.save()

    def save(self) -> None:
        """Writes down how far delivery is, and in which run."""
        state = {"offset": self._offset, "delivered": self._delivered, "run_id": self.run_id}
        # Without it a line is delivered twice, which the store hardly notices; no reason to stop.
        with contextlib.suppress(OutputError):
            write_json(self._cursor, state)

    def close(self) -> None:
        """Lets go of the file; it stays for a later run."""
        self.sync()
        self._lines.close()
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def remove(self) -> None:
        """Removes the file: all of it has been delivered."""
        if fcntl is None:
            self.close()  # Windows removes no open file
        # The lines go first: without a cursor they would be delivered again.
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            self._cursor.unlink(missing_ok=True)
        self.close()

    def set_aside(self) -> None:
        """Puts away a spool that is damaged: it stays for a person to look at, and no run takes it again."""
        aside = self.path.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            self.path.replace(aside)
            self._cursor.unlink(missing_ok=True)
        self.close()
        _log.warning("tracking: %s is damaged, and was put away as %s", self.path, aside.name)

    @property
    def _cursor(self) -> Path:
        return self.path.with_suffix(".cursor")

    @classmethod
    def _take(cls, path: Path, location: str) -> Spool | None:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        handle = os.open(path, os.O_RDWR | os.O_APPEND)
        spool = None
        try:
            _lock(handle)
            with path.open("rb") as lines:
                header = parse_line(lines.readline(LONGEST_LINE))
            # Between opening and locking, its owner may have delivered and removed it.
            gone = os.fstat(handle).st_nlink == 0
            if not gone and header.get("version") == _VERSION and header.get("location") == location:
                spool = cls(path, handle, header)
                spool._restore()
        finally:
            if spool is None:
                os.close(handle)
        return spool

    def _restore(self) -> None:
        pieces = iter(lambda: self._lines.read(2**20), b"")
        self._appended = sum(piece.count(b"\n") for piece in pieces)
        size = self._lines.tell()
        try:
            state = json.loads(read_bytes(self._cursor, LONGEST_LINE, OutputError))
            offset, delivered, run_id = state["offset"], state["delivered"], state["run_id"]
        except (OutputError, ValueError, KeyError, TypeError, RecursionError):
            return  # nothing was delivered, or nobody knows how much: from the beginning
        if not (is_count(offset, size) and is_count(delivered, self._appended)):
            return
        if run_id is None or isinstance(run_id, str):
            self._offset, self._delivered, self.run_id = offset, delivered, run_id


def _lock(handle: int) -> None:
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
