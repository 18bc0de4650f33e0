"""Reads untrusted files: only regular files, with limits, checked against a schema, and rejected with one line.

Each reader of such files makes its own checks. This module handles all other errors: any exception of a library becomes
one line that names the file. The limits of each reader are listed in docs/security.md.
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
from kcv.common.text import printable
from kcv.errors import KcvError, first_line

MOST_JSON_BYTES = 16 * 2**20
"""The most bytes of a JSON file, or of a JSON member of an archive."""
MOST_JSON_DEPTH = 64
"""The deepest nesting of lists and objects."""

Model = TypeVar("Model", bound=BaseModel)


@contextmanager
def refusing(origin: str | Path, error: type[KcvError], otherwise: str = "is damaged") -> Iterator[None]:
    """Turns any error in the block into one line.

    Args:
        origin: the file's name, for the message.
        error: the class of the error that is raised.
        otherwise: the message about the file if a library fails; the library's own message follows.

    Raises:
        KcvError: a KcvError of the block passes unchanged; all other errors are raised as `error`.

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
        if caught.errno is None:  # raised by a library, not by the system
            raise error(f"{origin}: {otherwise} ({hide_credentials(first_line(caught))})") from caught
        raise error(f"{origin}: cannot be read: {caught.strerror}") from None
    except Exception as caught:
        raise error(f"{origin}: {otherwise} ({hide_credentials(first_line(caught))})") from caught


@contextmanager
def opened(path: Path, error: type[KcvError], model: str = "") -> Iterator[BinaryIO]:
    """Opens a regular file for reading; a pipe or a device could block or never end.

    If a model file is expected, `model` is an example name for the message.

    Raises:
        KcvError: of class `error`; the file is missing, not a regular file, or not readable.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, it never raises; checked first, because Windows cannot open folders
        raise error(f"{path}: is a folder{model and f'; expected a model file such as {path / model}'}")
    try:
        # Non-blocking, because opening a pipe without a writer would block here.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"{path}: no such {model and 'model '}file") from None
    except (OSError, ValueError) as caught:  # ValueError: the name contains a NUL
        raise error(f"{path}: cannot be read: {getattr(caught, 'strerror', None) or caught}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise error(f"{path}: is no regular file")
    with os.fdopen(handle, "rb") as stream:
        yield stream


def read_bytes(path: Path, most: int, error: type[KcvError]) -> bytes:
    """Reads a whole regular file.

    Args:
        path: path of the file.
        most: largest allowed size, in bytes.
        error: the class of the error that is raised.

    Raises:
        KcvError: of class `error`; the file is missing, too large, not a regular file, or not readable.
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
    """Parses standard JSON: UTF-8, finite numbers, no duplicate keys, limited nesting.

    Args:
        content: at most `MOST_JSON_BYTES`.
        origin: the file's name, for the message.
        error: the class of the error that is raised.
        most_depth: deepest allowed nesting of lists and objects.
        otherwise: the message if it is not JSON, as in `refusing`.

    Raises:
        KcvError: of class `error`; the content is too large or not valid.
    """
    if len(content) > MOST_JSON_BYTES:
        raise error(f"{origin}: is larger than {MOST_JSON_BYTES:,} bytes")
    with refusing(origin, error, otherwise):
        # The count of brackets is a bound on the depth, and found much faster.
        if content.count(b"[") + content.count(b"{") > most_depth and _depth(content) > most_depth:
            raise RecursionError
        return _DECODER.decode(content.decode("utf-8"))


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word[:20]} is too large")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice")
    return values


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)


def parse(content: bytes, schema: type[Model], origin: str | Path, error: type[KcvError]) -> Model:
    """Parses JSON into a pydantic model.

    Args:
        content: the JSON.
        schema: the model. Its configuration decides whether unknown keys are rejected; infinite numbers and NaN are
            always rejected.
        origin: the file's name, for the message.
        error: the class of the error that is raised.

    Raises:
        KcvError: of class `error`; the message names the first invalid key.
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
    """Returns the first violation of a schema and its location, as one short line."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = printable(".".join(str(part) for part in first["loc"])[:100])
    return f"{key}: {first['msg']}" if key else first["msg"]


def read_json(path: Path, error: type[KcvError]) -> Any:
    """Reads a JSON file (`read_bytes` and `parse_json`)."""
    return parse_json(read_bytes(path, MOST_JSON_BYTES, error), path, error)


def read(path: Path, schema: type[Model], error: type[KcvError]) -> Model:
    """Reads a JSON file into a pydantic model (`read_bytes` and `parse`)."""
    return parse(read_bytes(path, MOST_JSON_BYTES, error), schema, path, error)


def inside(folder: Path, *names: str, error: type[KcvError]) -> Path:
    """Returns a path inside a folder that cannot leave the folder: no part of it is a link or `..`.

    An untrusted folder may contain links to the user's files, which could then be sent, shown or overwritten. The path
    of the folder itself may contain links, because the user gave it.

    Args:
        folder: the folder to stay in.
        names: relative paths to append; each may have several parts.
        error: the class of the error that is raised.

    Raises:
        KcvError: of class `error`; the message names the link.
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
    """Returns whether a path is a symbolic link or a Windows junction."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    reparse = getattr(found, "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    return stat.S_ISLNK(found.st_mode) or reparse


def files_inside(folder: Path) -> Iterator[Path]:
    """Yields the regular files in a folder and its subfolders, sorted, without links.

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
    """Returns the nesting depth of lists and objects in a JSON text; brackets in strings do not count."""
    steps = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
    return max(accumulate(steps.get(found[0], 0) for found in _TEXT_OR_BRACKET.finditer(content)), default=0)
