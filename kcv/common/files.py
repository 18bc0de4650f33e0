"""Files that are whole or not there: written to a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import csv
import errno
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

_CRLF = "\r\n"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and renames it to `path` when the block ends well.

    The temporary name keeps the suffix, because Keras and others choose the format by it. If the block raises, or the
    process is killed, `path` is as it was before. What killed processes have left in the folder is removed.

    Raises:
        OutputError: when the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    if os.path.isdir(path):  # found out now, not when the work is done; unlike Path.is_dir, it never raises
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
        # mkstemp makes files that only their owner can read; give back what the user's umask says.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(path: Path, *, exist_ok: bool = True) -> None:
    """Makes a folder, and those above it.

    Args:
        path: of the folder.
        exist_ok: whether it may be there.

    Raises:
        OSError: it cannot be made, whatever is wrong with its name.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=exist_ok)
    except ValueError as error:  # a NUL in it
        raise OSError(errno.EINVAL, str(error)) from None
    except RecursionError:  # thousands of folders in each other
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None


def expand_user(named: str | Path) -> Path:
    """Returns a path that a user named; `~` is the home folder, and a name like `~draft.png` stays as it is."""
    return Path(os.path.expanduser(named))  # Path.expanduser raises where there is no such user


def home() -> Path | None:
    """Returns the home folder; None where the user has none, as in a container that runs under a bare number."""
    folder = Path(os.path.expanduser("~"))
    return folder if folder.is_absolute() else None


def remove(path: Path) -> None:
    """Removes a file, if it is there. Raises OutputError when that is not possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from error


def model_file(named: str | Path) -> Path:
    """Returns the model file that a user named, perhaps by the run folder that holds it."""
    path = expand_user(named)
    inside = path / "model.keras"
    return inside if os.path.isfile(inside) else path


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically. Raises OutputError when that is not possible."""
    with atomic(path) as temporary:
        # A file name that is not UTF-8 is kept as \udc80 and the like, which JSON reads back as the same name.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values as indented JSON, atomically.

    Raises:
        OutputError: that is not possible, or one of the values is infinite or no number, which JSON cannot say.
    """
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise OutputError(f"cannot write {path}: {first_line(error)}") from None
    write_text(path, text + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as CSV, atomically, row by row; None becomes an empty cell, and no text a formula (see `cell`)."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as to:
        write = csv_writer(to)
        write(header)
        for row in rows:
            write(row)


def csv_writer(stream: TextIO) -> Callable[[Iterable[Any]], None]:
    """Returns a function that writes a row of cells (see `cell`) to a CSV file, ended by a line feed.

    Args:
        stream: a text file that leaves line ends as they are (`newline=""`).
    """
    # Python's writer quotes the line ends that are its own, and no others; readers take each of them for one.
    writer = csv.writer(_LineFeeds(stream), lineterminator=_CRLF)
    return lambda row: writer.writerow(map(cell, row))


class _LineFeeds:
    """Takes lines that end with `_CRLF` and writes them with a line feed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        self._stream.write(line.removesuffix(_CRLF) + "\n")


def cell(value: Any) -> Any:
    """Returns a value for CSV: a text that a spreadsheet would compute, run or look up gets an apostrophe before it.

    A text that is a plain number, such as the class `-1`, stays: nothing is computed, and it can be joined with others.

    Source: OWASP, CSV injection.
    """
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _umask() -> int:
    # There is no call that reads the mask without setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, where the system can open folders."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
