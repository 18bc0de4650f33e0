"""The file of one part of a prediction: one row per line, followed by a seal.

The seal is the last two lines: a JSON record of the input, and the SHA-256 (hex) of everything before it. A file that
was truncated or modified, or whose images have changed, does not match, and the part is computed again. Parts of
earlier versions have no seal, so they are computed again as well.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from kcv.common.files import atomic
from kcv.common.rows import PREDICTION_SET
from kcv.common.untrusted import opened, refusing
from kcv.errors import OutputError
from kcv.images.urls import Image, StoredImage

_LONGEST_LINE = 64 * 2**20
"""In bytes; a row takes about 30 per class."""


def state_of(files: Iterable[Image], prediction: str) -> str:
    """Returns the input of a part: SHA-256 (hex) of its prediction and of its images' sizes and times, in order.

    Of an object in a store, it is the size and the version (ETag). The images' bytes are not hashed: reading them would
    take much of the time of the prediction itself. The times include that of the last change of the file's inode
    (ctime), because a user cannot reset it.

    Args:
        files: the images.
        prediction: identifies the prediction: what is computed, with which model.
    """
    digest = hashlib.sha256(prediction.encode() + b"\0")
    for path in files:
        try:
            if isinstance(path, StoredImage):
                digest.update(f"{path.found.size} {path.found.etag}".encode() + b"\0")
                continue
            found = os.stat(str(path))
            told = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        except (OSError, ValueError):
            told = "none"
        digest.update(told.encode() + b"\0")
    return digest.hexdigest()


def write_part(path: Path, batches: Iterable[Sequence[dict[str, Any]]], state: str) -> None:
    """Writes a part atomically.

    Args:
        path: the file of the part.
        batches: the rows, in batches.
        state: `state_of` the images, taken before they were read.

    Raises:
        OutputError: the file cannot be written.
    """
    digest, count = hashlib.sha256(), 0
    with atomic(path) as temporary, temporary.open("wb") as stream:
        for rows in batches:
            lines = b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows)
            digest.update(lines)
            stream.write(lines)
            count += len(rows)
        seal = _seal(count, state)
        digest.update(seal)
        stream.write(seal + digest.hexdigest().encode("ascii"))


def is_sound(path: Path, files: Sequence[Image], columns: Sequence[str], prediction: str) -> bool:
    """Returns whether a part exists, is intact, and was computed from these images in their current state.

    Args:
        path: the file of the part.
        files: its images, in order.
        columns: the columns of its rows, without `probabilities`.
        prediction: as in `state_of`.
    """
    try:
        with opened(path, OutputError) as stream, refusing(path, OutputError):
            if not _matches(stream, _seal(len(files), state_of(files, prediction))):
                return False
            stream.seek(0)
            return all(_is_row(json.loads(_line(stream)), file, columns) for file in files)
    except OutputError:
        return False


def read_part(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yields the rows of a part that `is_sound` has accepted.

    Args:
        path: the file of the part.
        count: its number of rows.

    Raises:
        OutputError: the file can no longer be read.
    """
    with opened(path, OutputError) as stream:
        for _ in range(count):
            with refusing(path, OutputError):
                row: dict[str, Any] = json.loads(_line(stream))
            yield row


def _seal(count: int, state: str) -> bytes:
    return json.dumps({"rows": count, "pictures": state}).encode("ascii") + b"\n"


def _matches(stream: BinaryIO, seal: bytes) -> bool:
    """Returns whether a file ends with this seal and the checksum of everything before it."""
    digest = hashlib.sha256()
    end = len(seal) + 2 * digest.digest_size
    left = os.fstat(stream.fileno()).st_size - end
    while left > 0 and (block := stream.read(min(left, 2**20))):
        digest.update(block)
        left -= len(block)
    digest.update(seal)
    return left == 0 and stream.read(end + 1) == seal + digest.hexdigest().encode("ascii")


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(_LONGEST_LINE + 1)
    if not line.endswith(b"\n"):
        raise ValueError("a line has no end")
    return line


def _is_row(row: Any, file: Image, columns: Sequence[str]) -> bool:
    """Returns whether a value is a valid row of an image; a matching checksum does not guarantee that."""
    if not isinstance(row, dict) or row.keys() != {*columns, "probabilities"}:
        return False
    path, error, scores = row.pop("path"), row.pop("error"), row.pop("probabilities")
    if path != str(file) or not isinstance(error, str):
        return False
    if error:
        return scores is None and all(value is None for value in row.values())
    if not isinstance(scores, dict) or not all(isinstance(score, float) for score in scores.values()):
        return False
    names = row.pop(PREDICTION_SET, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    return all(isinstance(value, float if key.startswith("confidence") else str) for key, value in row.items())
