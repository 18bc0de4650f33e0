"""The file of MLflow's SQLite store: where it is, whether it can be one, and where it has a run's files put."""

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

from kcv.common.untrusted import opened
from kcv.errors import TrackingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_URI = re.compile(r"(sqlite(?:\+\w+)?):///([^?]+)(\?.*)?", re.DOTALL)
_SAFE = "/\\:~!$&'()*+,;=@#[]{}|^` "
"""Characters that stay as they are: nothing but `?` and `%` has a meaning in the path of a database's uri."""
_FOLDERS = ("mlartifacts", "mlruns")
"""Where kcv and MLflow put files, beside the database."""

_LOCK_SECONDS = 120.0  # MLflow takes some ten for the tables of a new file


@dataclass(frozen=True)
class Database:
    """An SQLite store.

    Attributes:
        path: of the file, absolute.
        location: its uri, absolute, as it is shown and written down.
        uri: the same for MLflow.
        named: a person has named it; else it is the one that happens to lie in the working folder.
    """

    path: Path
    location: str
    uri: str
    named: bool

    @classmethod
    def of(cls, uri: str, *, named: bool) -> Database | None:
        """Reads a uri; None where it names no file.

        Raises:
            TrackingError: the file cannot be named to MLflow.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            return None
        written, options = match[2], match[3] or ""
        if not os.path.isabs(written):  # the folder's own characters mean nothing, those that were typed may
            try:
                written = os.path.join(_quoted(os.getcwd()), written)
            except OSError:
                raise TrackingError("tracking.uri: the working folder is gone; name another database.") from None
        path = Path(unquote(written) if "%" in written and _decodes() else written)
        location = f"{match[1]}:///{written}{options}"
        # For a path with escapes in it, MLflow would make the folder of that very name; not where a driver is named.
        uri = location.replace("sqlite:", "sqlite+pysqlite:", 1) if "%" in written else location
        return cls(path, location, uri, named)

    def problem(self) -> str | None:
        """Returns why this can be no store, or None."""
        if not os.path.isdir(self.path.parent):
            return f"the folder of {self.location} does not exist"
        if not os.path.lexists(self.path):
            return None
        if os.path.isdir(self.path):
            return f"{self.path} cannot be read: Is a directory"
        if not self.named and not _below(self.path.parent, self.path):
            return f"{self.path} is a link out of its folder; name it (--tracking=sqlite:///FILE) if it is yours"
        try:
            if not os.path.exists(self.path):  # a link to a file that is to be made
                return None
            with opened(self.path, TrackingError) as stream:
                content = stream.read(16)
        except TrackingError as error:
            return str(error)
        except OSError as error:
            return f"{self.path} cannot be read: {error.strerror}"
        # SQLite takes some small files of other kinds for an empty database, and overwrites them.
        if content and not content.startswith(b"SQLite format 3"):
            return f"{self.path} is not an SQLite database"
        tables = self._tables() if content else set()
        if tables - {"alembic_version"} and "experiments" not in tables:  # MLflow would add its own to it
            return f"{self.path} is a database of another program"
        return None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one process at a time make the tables: MLflow fails where two of them begin with the same new file.

        It locks the folder, so that there is nothing to clean up; where that cannot be, it goes on without, and so it
        does after a while: whoever holds the lock for so long is no run that begins.
        """
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                folder = os.open(self.path.parent, os.O_RDONLY)
                held.callback(os.close, folder)
                end = time.monotonic() + _LOCK_SECONDS
                while fcntl is not None and time.monotonic() < end:
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    time.sleep(0.1)
            yield

    def refusal(self, place: str, *names: str) -> str | None:
        """Returns why a run's files are not put into a place that the database names, or None.

        Whoever made the database says where they go. Where nobody has named it, it may be a stranger's.

        Args:
            place: a path, or a `file:` uri.
            names: of folders and a file in it.
        """
        if self.named:
            return None
        scheme = urlsplit(place).scheme if "://" in place or place.startswith("file:") else ""
        if scheme in ("", "file"):
            path = Path(url2pathname(urlsplit(place).path) if scheme else place, *names)
            if any(_below(self.path.parent / folder, path, self.path.parent) for folder in _FOLDERS):
                return None
        return (
            f"it keeps files in {place[:200]}, not beside {self.path.name}; if that is right, name it "
            f"(--tracking=sqlite:///{self.path.name}), else use another --tracking.experiment"
        )

    def _tables(self) -> set[str]:
        with contextlib.suppress(sqlite3.Error, ValueError):  # MLflow says what is wrong with it
            uri = f"file:{quote(str(self.path))}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=1.0)) as connection:
                rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 1000")
                return {str(name) for (name,) in rows}
        return set()


def stays_inside(uri: str, folder: Path) -> bool:
    """Tells whether a store keeps everything in a plain file below a folder, or keeps nothing.

    Not so where the way there has hidden folders or links, or the uri has options, which may lead elsewhere.
    """
    if uri.lower() == "none":
        return True
    match = re.fullmatch(r"sqlite:///([^?:]+)", uri)
    if match is None:
        return False
    root = folder.resolve()
    try:
        path = (root / match[1]).resolve().relative_to(root)
        return not any(part.startswith(".") for part in path.parts)
    except (OSError, ValueError, RuntimeError):  # it lies elsewhere, or the links go in a circle
        return False


def _below(folder: Path, path: Path, real: Path | None = None) -> bool:
    """Tells whether a path is a folder or in it, links followed.

    Args:
        folder: the one; itself no link to a place out of `real`.
        path: need not exist.
        real: what `folder` must be in; itself by default.
    """
    top = os.path.realpath(real or folder)
    inside = os.path.realpath(folder)
    try:
        return (
            os.path.commonpath([top, inside]) == top and os.path.commonpath([inside, os.path.realpath(path)]) == inside
        )
    except (OSError, ValueError):  # another drive, or no path at all
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
    """Tells whether SQLAlchemy reads escapes in the path of a database: it does from 2.1 on."""
    from sqlalchemy.engine import make_url

    return make_url("sqlite:///%41").database == "A"
