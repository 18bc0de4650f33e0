"""Stores entries for a tracking service in a file, so that no outage of the service or killed process loses any.

An outbox is an append-only file of JSON lines with a cursor file, which records how much has been sent. Its first line
describes the run. The process that writes or sends it holds a lock, which the system releases when the process ends; so
an outbox that can be locked is a leftover.
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
from typing import Any, TypeAlias

from pydantic import BaseModel, NonNegativeInt

from kcv.common import locks
from kcv.common.files import BINARY, write_json
from kcv.common.untrusted import read
from kcv.errors import OutputError

Entry: TypeAlias = dict[str, Any]

_log = logging.getLogger(__name__)

_VERSION = 1
_LONGEST_LINE = 2**26
"""The most bytes of a line; the line of a run, with all its parameters and tags, has less than a million."""


class _Cursor(BaseModel, strict=True):
    offset: NonNegativeInt
    delivered: NonNegativeInt
    run_id: str | None


class Outbox:
    """The entries of one run, in order. One thread may append while another sends.

    `create` and `leftovers` return outboxes. After `close` or `remove`, all other methods do nothing.

    Attributes:
        path: path of the file.
        name: unique name of the outbox.
        header: the first line, which describes the run.
        run_id: ID of the run at the service, once it is known.
    """

    def __init__(self, path: Path, handle: int, header: Entry) -> None:
        self.path = path
        self.name = path.stem
        self.header = header
        self.run_id: str | None = header.get("run_id")
        self._handle: int | None = handle  # for appending; it holds the lock
        self._lines = path.open("rb")  # for reading, with its own position
        self._lock = threading.RLock()
        self._offset = self._next = self._delivered = 0

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Outbox:
        """Creates an outbox that no other process can take over during the life of this process.

        Raises:
            OSError: the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"spool-{secrets.token_hex(8)}.jsonl"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | BINARY, 0o600)
        outbox = cls(path, handle, {"version": _VERSION, **header})
        try:
            if locks.SUPPORTED:  # waits: a process that looks for leftovers releases a file without a header
                locks.take(handle, wait=True)
            outbox.append(outbox.header)
        except BaseException:
            outbox.remove()
            raise
        outbox.sync()
        return outbox

    @classmethod
    def leftovers(cls, folder: Path, location: str) -> list[Outbox]:
        """Returns and locks the outboxes of ended processes for a service, oldest run first."""
        found = []
        for path in folder.glob("spool-*.jsonl") if locks.SUPPORTED else ():
            with contextlib.suppress(OSError):
                if (outbox := cls._take(path, location)) is None:
                    continue
                if type(outbox.header.get("time")) in (int, float):
                    found.append(outbox)
                else:
                    outbox.set_aside()
        return sorted(found, key=lambda outbox: (outbox.header["time"],))

    @property
    def waiting(self) -> int:
        """The number of entries that have not been sent."""
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            stream.seek(self._offset)
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(2**20), b""))
        return 0

    def is_in_use(self, name: str) -> bool:
        """Returns whether another outbox still exists, so that another process will send it."""
        return locks.SUPPORTED and self.path.with_name(f"{name}.jsonl").exists()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Appends an entry. It survives the end of the process at once, and a power failure after the next `sync`.

        Raises:
            OSError: the entry cannot be written; the file is then unchanged.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            if self._handle is None:
                return
            before = os.fstat(self._handle).st_size
            try:
                if os.write(self._handle, line) < len(line):
                    raise OSError("the disk is full")
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, before)  # otherwise the next entry would be appended to half a line
                raise

    def sync(self) -> None:
        """Flushes the appended entries to disk."""
        if (handle := self._handle) is not None:
            with contextlib.suppress(OSError):
                os.fsync(handle)

    def peek(self) -> Entry | None:
        """Returns the first unsent entry, an empty entry for a damaged line, or None if there is none.

        Raises:
            ValueError: a line is longer than any line that is written.
        """
        with self._lock:
            if self._handle is None:
                return None
            self._lines.seek(self._offset)
            line = self._lines.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise ValueError("a line without an end")
        if not line.endswith(b"\n"):  # at the end, or at a line that is incomplete
            return None
        self._next = self._offset + len(line)
        return _parse(line)

    def advance(self) -> None:
        """Marks the entry of the last `peek` as sent, also for the next process that sends this outbox."""
        self._offset = self._next
        self._delivered += 1
        state = {"offset": self._offset, "delivered": self._delivered, "run_id": self.run_id}
        # Without the cursor, an entry is sent twice, which is harmless: no reason to stop. No `append` waits for this.
        with contextlib.suppress(OutputError, OSError):
            if self._handle is not None:
                write_json(self._cursor, state)
            if not self.path.exists():  # another thread has just removed both files
                self._cursor.unlink(missing_ok=True)

    def close(self) -> None:
        """Releases the file, which stays for a later run."""
        self.sync()
        with self._lock:
            handle, self._handle = self._handle, None
            self._lines.close()
        if handle is not None:
            os.close(handle)

    def remove(self) -> None:
        """Removes the file, because all entries have been sent or are not needed."""
        with self._lock:
            if self._handle is None:
                return
            if os.name == "nt":
                self.close()  # Windows cannot remove an open file
            # Remove the entries first: without a cursor, they would be sent again.
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
                self._cursor.unlink(missing_ok=True)
            self.close()

    def set_aside(self) -> None:
        """Renames a damaged outbox, so that it stays for inspection and no run takes it over again."""
        aside = self.path.with_suffix(".damaged")
        if os.name == "nt":
            self.close()  # Windows cannot rename an open file
        with contextlib.suppress(OSError):
            self.path.replace(aside)
            self._cursor.unlink(missing_ok=True)
        self.close()
        _log.warning("tracking: %s is damaged, and was put away as %s", self.path, aside.name)

    @property
    def _cursor(self) -> Path:
        return self.path.with_suffix(".cursor")

    @classmethod
    def _take(cls, path: Path, location: str) -> Outbox | None:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        handle, outbox = os.open(path, os.O_RDWR | os.O_APPEND | BINARY), None
        try:
            locks.take(handle)
            with path.open("rb") as lines:
                header = _parse(lines.readline(_LONGEST_LINE))
            # Its owner may have sent and removed it between opening and locking.
            gone = os.fstat(handle).st_nlink == 0
            if not gone and header.get("version") == _VERSION and header.get("location") == location:
                outbox = cls(path, handle, header)
                with contextlib.suppress(OutputError):  # without a valid cursor, start from the beginning
                    state = read(outbox._cursor, _Cursor, OutputError)
                    if state.offset <= os.fstat(handle).st_size:
                        outbox._offset, outbox._delivered, outbox.run_id = state.offset, state.delivered, state.run_id
        finally:
            if outbox is None:
                os.close(handle)
        return outbox


def _parse(line: bytes) -> Entry:
    """Returns the entry of a line; an empty one if the line is damaged."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
