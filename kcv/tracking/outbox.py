"""Entries on their way to a tracking service, in a file: an outage of the service, or a killed process, loses nothing.

An outbox is a file of JSON lines that only grows, and beside it a cursor: how far it has been sent. Its first line
describes the run. Whoever writes or sends it holds a lock on it, which the system releases when the process ends; so an
outbox that can be locked is left over.
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

from kcv.common.files import write_json
from kcv.common.untrusted import read
from kcv.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: outboxes are written and sent by their own run, but never taken over
    fcntl = None  # type: ignore[assignment]

Entry: TypeAlias = dict[str, Any]

_log = logging.getLogger(__name__)

_VERSION = 1
_LONGEST_LINE = 2**26
"""Bytes that are read as one; the line of a run, with all its parameters and tags, has less than a million."""


class _Cursor(BaseModel, strict=True):
    offset: NonNegativeInt
    delivered: NonNegativeInt
    run_id: str | None


class Outbox:
    """Entries of one run, in order. One thread may append while another one sends.

    `create` and `leftovers` make outboxes. After `close` or `remove`, all other methods do nothing.

    Attributes:
        path: of the file.
        name: of the outbox; unique.
        header: the first line, which describes the run.
        run_id: of the run at the service, once that is known.
    """

    def __init__(self, path: Path, handle: int, header: Entry) -> None:
        self.path = path
        self.name = path.stem
        self.header = header
        self.run_id: str | None = header.get("run_id")
        self._handle: int | None = handle  # to append with; it holds the lock
        self._lines = path.open("rb")  # with a position of its own
        self._lock = threading.RLock()
        self._offset = self._next = self._delivered = 0

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Outbox:
        """Makes an outbox that no other process can take while this one lives.

        Raises:
            OSError: the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"spool-{secrets.token_hex(8)}.jsonl"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        outbox = cls(path, handle, {"version": _VERSION, **header})
        try:
            if fcntl is not None:  # it waits: somebody who looks for leftovers lets go of a file without a header
                fcntl.flock(handle, fcntl.LOCK_EX)
            outbox.append(outbox.header)
        except BaseException:
            outbox.remove()
            raise
        outbox.sync()
        return outbox

    @classmethod
    def leftovers(cls, folder: Path, location: str) -> list[Outbox]:
        """Returns, locked, the outboxes for a service whose processes are gone, the oldest run first."""
        found = []
        for path in folder.glob("spool-*.jsonl") if fcntl is not None else ():
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
        """Entries that have not been sent."""
        with contextlib.suppress(OSError), self.path.open("rb") as stream:
            stream.seek(self._offset)
            return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(2**20), b""))
        return 0

    def is_in_use(self, name: str) -> bool:
        """Tells whether another outbox is still there, in hands that will send it."""
        return fcntl is not None and self.path.with_name(f"{name}.jsonl").exists()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds an entry. It survives this process at once, and a power cut after the next `sync`.

        Raises:
            OSError: it cannot be written; then the file is as it was.
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
                    os.ftruncate(self._handle, before)  # or the next entry would be glued to half a line
                raise

    def sync(self) -> None:
        """Flushes to disk what has been appended."""
        if (handle := self._handle) is not None:
            with contextlib.suppress(OSError):
                os.fsync(handle)

    def peek(self) -> Entry | None:
        """Returns the first entry that has not been sent; an empty one for a damaged line; None where there is none.

        Raises:
            ValueError: a line is longer than any that is written.
        """
        with self._lock:
            if self._handle is None:
                return None
            self._lines.seek(self._offset)
            line = self._lines.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise ValueError("a line without an end")
        if not line.endswith(b"\n"):  # nothing, or torn: it will never be whole, or is not yet
            return None
        self._next = self._offset + len(line)
        return _parse(line)

    def advance(self) -> None:
        """Marks the entry of the last `peek` as sent, also for whoever sends this outbox next."""
        self._offset = self._next
        self._delivered += 1
        state = {"offset": self._offset, "delivered": self._delivered, "run_id": self.run_id}
        # Without it a line is sent twice, which a service hardly notices: no reason to stop. No `append` waits for it.
        with contextlib.suppress(OutputError, OSError):
            if self._handle is not None:
                write_json(self._cursor, state)
            if not self.path.exists():  # another thread has removed both just now
                self._cursor.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of the file; it stays for a later run."""
        self.sync()
        with self._lock:
            handle, self._handle = self._handle, None
            self._lines.close()
        if handle is not None:
            os.close(handle)

    def remove(self) -> None:
        """Removes the file: all of it has been sent, or nobody wants it."""
        with self._lock:
            if self._handle is None:
                return
            if fcntl is None:
                self.close()  # Windows removes no open file
            # The lines go first: without a cursor they would be sent again.
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
                self._cursor.unlink(missing_ok=True)
            self.close()

    def set_aside(self) -> None:
        """Puts away an outbox that is damaged: it stays for a person to look at, and no run takes it again."""
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
    def _take(cls, path: Path, location: str) -> Outbox | None:
        if fcntl is None or not stat.S_ISREG(os.lstat(path).st_mode):
            return None
        handle, outbox = os.open(path, os.O_RDWR | os.O_APPEND), None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with path.open("rb") as lines:
                header = _parse(lines.readline(_LONGEST_LINE))
            # Between opening and locking, its owner may have sent and removed it.
            gone = os.fstat(handle).st_nlink == 0
            if not gone and header.get("version") == _VERSION and header.get("location") == location:
                outbox = cls(path, handle, header)
                with contextlib.suppress(OutputError):  # nothing was sent, or nobody knows how much: from the beginning
                    state = read(outbox._cursor, _Cursor, OutputError)
                    if state.offset <= os.fstat(handle).st_size:
                        outbox._offset, outbox._delivered, outbox.run_id = state.offset, state.delivered, state.run_id
        finally:
            if outbox is None:
                os.close(handle)
        return outbox


def _parse(line: bytes) -> Entry:
    """Returns the entry of a line; an empty one where it is damaged."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
