"""Files that anybody may have written: opened as regular files, bounded, checked against a schema, refused in one line.

A reader of such a file checks what its author thought of. What nobody thought of ends here: whatever the library below
raises becomes one line that names the file. The bounds of each reader are listed in docs/security.md.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from kcv.common.redaction import hide_credentials
from kcv.common.text import plain
from kcv.errors import KcvError, first_line

MOST_JSON_BYTES = 16 * 2**20
"""Of a JSON file or a member of an archive."""
MOST_JSON_DEPTH = 64
"""Lists and objects inside each other."""

Model = TypeVar("Model", bound=BaseModel)


@contextmanager
def refusing(origin: str | Path, error: type[KcvError], otherwise: str = "is damaged") -> Iterator[None]:
    """Makes one line of whatever goes wrong in the block.

    Args:
        origin: the file's name, for the message.
        error: the kind that is raised.
        otherwise: what is said of the file where a library gives up; its own words follow.

    Raises:
        KcvError: those of the block pass as they are; all else is raised as `error`.

    Example:
        >>> with refusing("model.onnx", ArtifactError, "is no ONNX model"):
        ...     graph.ParseFromString(content)
    """
    try:
        yield
    except KcvError:
        raise
    except MemoryError:
        raise error(f"{origin}: needs more memory than there is") from None
    except RecursionError:
        raise error(f"{origin}: {otherwise} (nested too deeply)") from None
    except OSError as caught:
        if caught.errno is None:  # made by a library, not by the system
            raise error(f"{origin}: {otherwise} ({hide_credentials(first_line(caught))})") from caught
        raise error(f"{origin}: cannot be read: {caught.strerror}") from None
    except Exception as caught:
        raise error(f"{origin}: {otherwise} ({hide_credentials(first_line(caught))})") from caught


@contextmanager
def opened(path: Path, error: type[KcvError], model: str = "") -> Iterator[BinaryIO]:
    """Opens a regular file for reading; a pipe or a device would block, or never end.

    Where it is to be a model file, `model` is the name of one, for the message.

    Raises:
        KcvError: as `error`; there is no such file, it is something else, or it may not be read.
    """
    if os.path.isdir(path):  # unlike a Path's, it never raises; asked first, as Windows opens no folder
        raise error(f"{path}: is a folder{model and f'; expected a model file such as {path / model}'}")
    try:
        # Not blocking: else a pipe that nobody writes to would hold us in this very call.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"{path}: no such {model and 'model '}file") from None
    except (OSError, ValueError) as caught:  # ValueError: a name with a NUL in it
        raise error(f"{path}: cannot be read: {getattr(caught, 'strerror', None) or caught}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise error(f"{path}: is no regular file")
    with os.fdopen(handle, "rb") as stream:
        yield stream


def read_bytes(path: Path, most: int, error: type[KcvError]) -> bytes:
    """Reads a whole regular file.

    Args:
        path: of the file.
        most: bytes that it may have.
        error: the kind that is raised.

    Raises:
        KcvError: as `error`; it is missing, larger, no regular file, or cannot be read.
    """
    with opened(path, error) as stream, refusing(path, error):
        content = stream.read(most + 1)
    if len(content) > most:
        raise error(f"{path}: is larger than {most:,} bytes")
    return content


def parse_json(
    content: bytes,
    origin: str | Path,
    error: type[KcvError],
    *,
    most_depth: int = MOST_JSON_DEPTH,
    otherwise: str = "is no JSON, or damaged",
) -> Any:
    """Reads JSON as its standard has it: UTF-8, finite numbers, each key once, and not nested beyond reason.

    Args:
        content: at most `MOST_JSON_BYTES`.
        origin: the file's name, for the message.
        error: the kind that is raised.
        most_depth: lists and objects inside each other.
        otherwise: what is said of it where it is none, as in `refusing`.

    Raises:
        KcvError: as `error`.
    """

    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number of JSON")

    def finite(word: str) -> float:
        number = float(word)
        if not math.isfinite(number):
            raise ValueError(f"{word[:20]} is too large")
        return number

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            raise ValueError("a key stands twice")
        return values

    if len(content) > MOST_JSON_BYTES:
        raise error(f"{origin}: is larger than {MOST_JSON_BYTES:,} bytes")
    with refusing(origin, error, otherwise):
        if _depth(content) > most_depth:
            raise RecursionError
        text = content.decode("utf-8")
        return json.loads(text, parse_constant=no_number, parse_float=finite, object_pairs_hook=once)


def parse(content: bytes, schema: type[Model], origin: str | Path, error: type[KcvError]) -> Model:
    """Reads JSON as a model of pydantic.

    Args:
        content: the JSON.
        schema: what it must be. Its own configuration says whether unknown keys are refused; numbers that are infinite
            or no numbers are refused here.
        origin: the file's name, for the message.
        error: the kind that is raised.

    Raises:
        KcvError: as `error`; the message names the first key that is wrong.
    """
    values = parse_json(content, origin, error)
    if not isinstance(values, dict):
        raise error(f"{origin}: is damaged: holds {type(values).__name__} in place of an object")
    with refusing(origin, error):
        try:
            return schema.model_validate(values)
        except ValidationError as caught:
            raise error(f"{origin}: is damaged: {first_problem(caught)}") from None


def first_problem(error: ValidationError) -> str:
    """Returns the first thing that does not fit a schema, and where it stands, as one short line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = plain(".".join(str(part) for part in first["loc"])[:100])
    return f"{key}: {first['msg']}" if key else first["msg"]


def read_json(path: Path, error: type[KcvError]) -> Any:
    """Reads a file of JSON (`read_bytes` and `parse_json`)."""
    return parse_json(read_bytes(path, MOST_JSON_BYTES, error), path, error)


def read(path: Path, schema: type[Model], error: type[KcvError]) -> Model:
    """Reads a file of JSON as a model of pydantic (`read_bytes` and `parse`)."""
    return parse(read_bytes(path, MOST_JSON_BYTES, error), schema, path, error)


def inside(folder: Path, *names: str, error: type[KcvError]) -> Path:
    """Returns a path inside a folder that leads nowhere else: no part of it is a link, or goes up.

    A stranger's folder may hold links to files of the user: what is read would be sent or shown, what is written lost.
    The folder itself may be reached by links, as it is the user who names it.

    Args:
        folder: the one to stay in.
        names: below it, one after the other; each may have several parts.
        error: the kind that is raised.

    Raises:
        KcvError: as `error`; the message names the link.
    """
    place = Path(folder)
    for part in (part for name in names for part in Path(name).parts):
        place = place / part
        if part == ".." or Path(part).is_absolute():
            raise error(f"{place}: leads out of {folder}")
        if is_link(place):
            raise error(f"{place}: is a link, which is not followed here")
    return place


def is_link(path: Path) -> bool:
    """Tells whether a path is a link: a symbolic one, or a junction of Windows."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    reparse = getattr(found, "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    return stat.S_ISLNK(found.st_mode) or reparse


def files_inside(folder: Path) -> Iterator[Path]:
    """Yields the regular files of a folder and of those below it, sorted; what is a link is left out.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    pending = [folder]
    while pending:
        here = pending.pop()
        with os.scandir(here) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        yield from (Path(entry.path) for entry in found if entry.is_file(follow_symlinks=False))
        folders = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
        pending.extend(path for path in reversed(folders) if not is_link(path))


_TEXT_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)


def _depth(content: bytes) -> int:
    """Returns how deep lists and objects of a JSON text are nested; brackets in texts do not count."""
    steps = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
    return max(accumulate(steps.get(found[0], 0) for found in _TEXT_OR_BRACKET.finditer(content)), default=0)
