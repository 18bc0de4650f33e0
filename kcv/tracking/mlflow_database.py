"""The file of MLflow's SQLite store: its path, its validity, and the allowed locations of a run's files."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from kcv.common import locks
from kcv.common.untrusted import opened
from kcv.errors import TrackingError

_URI = re.compile(r"(sqlite(?:\+\w+)?):///([^?]+)(\?.*)?", re.DOTALL)
_SAFE = "/\\:~!$&'()*+,;=@#[]{}|^` "
"""Characters that are not quoted: only `?` and `%` have a meaning in the path of a database URI."""
_FOLDERS = ("mlartifacts", "mlruns")
"""Folders next to the database in which kcv and MLflow store files."""

_LOCK_SECONDS = 120.0  # MLflow needs about ten to create the tables of a new file


@dataclass(frozen=True)
class Database:
    """An SQLite store.

    Attributes:
        path: absolute path of the file.
        location: absolute URI of the file, as shown and stored.
        uri: the URI for MLflow.
        named: whether the user named it; otherwise it is the file in the working folder.
    """

    path: Path
    location: str
    uri: str
    named: bool

    @classmethod
    def of(cls, uri: str, *, named: bool) -> Database | None:
        """Parses a URI; returns None if it names no file.

        Raises:
            TrackingError: the file cannot be expressed as a URI for MLflow.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            return None
        written, options = match[2], match[3] or ""
        if not os.path.isabs(written):  # quote only the working folder, not what the user typed
            try:
                written = os.path.join(_quoted(os.getcwd()), written)
            except OSError:
                raise TrackingError("tracking.uri: the working folder is gone; name another database.") from None
        path = Path(unquote(written) if "%" in written and _decodes() else written)
        location = f"{match[1]}:///{written}{options}"
        # For a path with escapes, MLflow would create a folder with the escaped name; it does not if a driver is named.
        uri = location.replace("sqlite:", "sqlite+pysqlite:", 1) if "%" in written else location
        return cls(path, location, uri, named)

    def problem(self) -> str | None:
        """Returns why the file cannot be a store, or None."""
        if not os.path.isdir(self.path.parent):
            return f"the folder of {self.location} does not exist"
        if not os.path.lexists(self.path):
            return None
        if os.path.isdir(self.path):
            return f"{self.path} cannot be read: Is a directory"
        if not self.named and not _below(self.path.parent, self.path):
            return f"{self.path} is a link out of its folder; name it (--tracking=sqlite:///FILE) if it is yours"
        try:
            if not os.path.exists(self.path):  # a link to a file that does not exist yet
                return None
            with opened(self.path, TrackingError) as stream:
                content = stream.read(16)
        except TrackingError as error:
            return str(error)
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"
        # SQLite treats some small files of other kinds as an empty database and overwrites them.
        if content and not content.startswith(b"SQLite format 3"):
            return f"{self.path} is not an SQLite database"
        tables = self._tables() if content else set()
        if tables - {"alembic_version"} and "experiments" not in tables:  # MLflow would add its tables to it
            return f"{self.path} is a database of another program"
        return None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lets only one process at a time create the tables, because MLflow fails if two start with the same new file.

        It locks the folder, so that no lock file has to be removed. It continues without a lock if locking is not
        possible (Windows cannot open folders), and after a timeout, because a starting run does not hold the lock for
        that long.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                folder = os.open(self.path.parent, os.O_RDONLY)
                held.callback(os.close, folder)
                end = time.monotonic() + _LOCK_SECONDS
                while time.monotonic() < end:
                    with contextlib.suppress(BlockingIOError):
                        locks.take(folder)
                        break
                    time.sleep(0.1)
            yield

    def refusal(self, place: str, *names: str) -> str | None:
        """Returns why a run's files must not be stored in the location given by the database, or None.

        The creator of the database chooses the location. If the user has not named the database, it may be untrusted.

        Args:
            place: a path, or a `file:` URI.
            names: names of folders and a file in it.
        """
        if self.may_hold(place, *names):
            return None
        return (
            f"it keeps files in {place[:200]}, not beside {self.path.name}; if that is right, name it "
            f"(--tracking=sqlite:///{self.path.name}), else use another --tracking.experiment"
        )

    def may_hold(self, place: str, *names: str) -> bool:
        """Returns whether a run's files may be in a location: any if the user named the database; see `refusal`."""
        if self.named:
            return True
        folder = local_path(place)
        return folder is not None and any(
            _below(self.path.parent / name, folder.joinpath(*names), self.path.parent) for name in _FOLDERS
        )

    def _tables(self) -> set[str]:
        with contextlib.suppress(sqlite3.Error, ValueError):  # MLflow will report what is wrong
            uri = f"file:{quote(str(self.path))}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as connection:
                rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 1000")
                return {str(name) for (name,) in rows}
        return set()


def local_path(place: str) -> Path | None:
    """Returns the path of a location, a path or a `file:` URI; None if it is not on this machine."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", place)  # of two characters or more: `C:` is a drive
    if scheme is None:
        return Path(place)
    with contextlib.suppress(ValueError):  # brackets without an address
        return Path(url2pathname(urlsplit(place).path)) if scheme[1].lower() == "file" else None
    return None


def plain_path(uri: str) -> str | None:
    """Returns the path of an SQLite store; None if the URI has options, which may lead elsewhere."""
    match = re.fullmatch(r"sqlite:///([^?:]+)", uri)
    return match[1] if match else None


def _below(folder: Path, path: Path, real: Path | None = None) -> bool:
    """Returns whether a path is a folder or inside it, with links resolved.

    Args:
        folder: the folder; it must not be a link out of `real`.
        path: the path; it need not exist.
        real: the folder that must contain `folder`; by default `folder` itself.
    """
    top = os.path.realpath(real or folder)
    inside = os.path.realpath(folder)
    try:
        return (
            os.path.commonpath([top, inside]) == top and os.path.commonpath([inside, os.path.realpath(path)]) == inside
        )
    except (OSError, ValueError):  # another drive, or an invalid path
        return False


def _quoted(path: str) -> str:
    if "?" not in path and "%" not in path:
        return path
    if not _decodes():
        if "?" in path:
            raise TrackingError(
                "tracking.uri: the database's folder has a question mark in its name, which this release of SQLAlchemy "
                "cannot open; name another one (--tracking=sqlite:////path/to/mlflow.db)."
            )
        return path
    return quote(path, safe=_SAFE)


@functools.cache
def _decodes() -> bool:
    """Returns whether SQLAlchemy decodes escapes in the path of a database; it does from version 2.1."""
    from sqlalchemy.engine import make_url

    return make_url("sqlite:///%41").database == "A"
