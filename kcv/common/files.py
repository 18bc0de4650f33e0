"""Writes files atomically: to a temporary name first, then flushed to disk and renamed."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from kcv.common import leftovers
from kcv.errors import OutputError, first_line

BINARY = getattr(os, "O_BINARY", 0)
"""A flag of `os.open`: without it, Windows writes a carriage return before each byte 10."""

_FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EROFS})
"""What the system says where nothing more can be written; such errors often do not name the file."""

_CRLF = "\r\n"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, and renames it to `path` when the block succeeds.

    The temporary name has the same suffix, because Keras and other libraries choose the format by it. If the block
    raises or the process is killed, `path` stays unchanged. Temporary files of killed processes are removed.

    Raises:
        OutputError: the folder cannot be created or written to, or the disk is full.
    """
    path = Path(path)
    if os.path.isdir(path):  # fails before the work, not after it; unlike Path.is_dir, isdir never raises
        raise OutputError(f"cannot write {path}: Is a directory")
    temporary: Path | None = None
    try:
        make_folder(path.parent)
        leftovers.remove_from(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=leftovers.prefix(path), suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp creates files that only the owner can read; apply the user's umask instead.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(prefix: str = "kcv-") -> Iterator[Path]:
    """Yields a new folder where the system keeps temporary files, and removes it when the block ends.

    Args:
        prefix: the beginning of its name.

    Raises:
        OutputError: the folder cannot be created, a file in it cannot be written, or a disk is full.
    """
    made: str | None = None
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as made:
            yield Path(made)
    except OSError as error:
        if made is not None and error.errno not in _FULL and not _names_what_is_in(Path(made), error):
            raise
        where = f"cannot write to {made}" if made is not None else "cannot create a temporary folder"
        raise OutputError(f"{where}: {error.strerror or error}; TMPDIR names another folder") from error


def _names_what_is_in(folder: Path, error: OSError) -> bool:
    """Returns whether an error is about a file in a folder."""
    named = (os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes))
    return any(Path(name).is_relative_to(folder) for name in named)


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Creates a folder and its parents.

    Args:
        path: path of the folder.
        exist_ok: whether the folder may already exist.

    Raises:
        OSError: the folder cannot be created; this includes invalid names.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=exist_ok)
    except ValueError as error:  # the path contains a NUL
        raise OSError(errno.EINVAL, str(error)) from None
    except RecursionError:  # thousands of nested folders
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None


def require_absent(folder: Path, names: Iterable[str]) -> None:
    """Refuses a folder that already holds something which a command would write over or remove.

    Args:
        folder: the folder that the command was given.
        names: what the command makes in it.

    Raises:
        OutputError: names the first that exists.
    """
    for name in names:
        if os.path.lexists(folder / name):
            raise OutputError(f"{folder} already holds {name}; choose another --output_dir or remove it")


def expand_user(named: str | Path) -> Path:
    """Returns the path that a user gave, with `~` as the home folder; a name like `~draft.png` stays unchanged."""
    return Path(os.path.expanduser(named))  # Path.expanduser raises if there is no such user


def home() -> Path | None:
    """Returns the home folder; None if the user has none, as in a container with a numeric user ID."""
    folder = Path(os.path.expanduser("~"))
    return folder if folder.is_absolute() else None


def remove(path: Path) -> None:
    """Removes a file if it exists. Raises OutputError if it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error


def model_file(named: str | Path) -> Path:
    """Returns the model file that a user gave, either directly or by its run folder."""
    path = expand_user(named)
    inside = path / "model.keras"
    return inside if os.path.isfile(inside) else path


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically. Raises OutputError if that is not possible."""
    with atomic(path) as temporary:
        # A file name that is not UTF-8 becomes escapes such as \udc80, which JSON reads back as the same name.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values as indented JSON atomically.

    Raises:
        OutputError: the file cannot be written, or a value is infinite or NaN, which JSON cannot represent.
    """
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise OutputError(f"cannot write {path}: {first_line(error)}") from None
    write_text(path, text + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as CSV atomically, row by row. None becomes an empty cell; see `escape_formula` for texts."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as to:
        write = csv_writer(to)
        write(header)
        for row in rows:
            write(row)


def csv_writer(stream: TextIO) -> Callable[[Iterable[Any]], None]:
    """Returns a function that writes a row of cells (see `escape_formula`) to a CSV file, terminated by a line feed.

    Args:
        stream: a text file that does not translate line ends (`newline=""`).
    """
    # Python's writer quotes only the characters of its own line terminator, but readers accept both as line ends.
    writer = csv.writer(_LineFeeds(stream), lineterminator=_CRLF)
    return lambda row: writer.writerow(map(escape_formula, row))


class _LineFeeds:
    """Replaces the `_CRLF` at the end of each line with a line feed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(line.removesuffix(_CRLF) + "\n")


def escape_formula(value: Any) -> Any:
    """Returns a value for CSV. A text that a spreadsheet would treat as a formula gets a leading apostrophe.

    A text that is a plain number, such as the class `-1`, stays unchanged: it is no formula, and can be joined with
    other tables.

    Source: OWASP, CSV injection.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _umask() -> int:
    # No function reads the umask without setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable, on systems that can open folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
