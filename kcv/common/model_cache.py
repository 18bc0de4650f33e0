"""The cache of downloaded models: a folder per content, so that equal files stay, and others never take their place.

`<cache>/models/<SHA-256>/<label>/model.keras`: the label says which model it is, and names the folder of its results.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kcv.common.download import cache_dir, writable
from kcv.common.files import make_folder, sha256_of
from kcv.errors import OutputError


def label(title: str) -> str:
    """Returns a text as a name for a folder on this machine.

    Example:
        >>> label("my photos/3")
        'my-photos-3'
    """
    return re.sub(r"[^\w.-]+", "-", title).strip("-.")[:80] or "model"


def cached(digest: str, label: str, name: str, *, beside: Path | None = None) -> Path | None:
    """Returns a file in the cache; None if it is not there, or not as it was.

    Args:
        digest: SHA-256 of the file (hex).
        label: name of its folder.
        name: name of the file, such as `model.keras`.
        beside: another file of the model, in whose folder it is; None for a folder of its own.
    """
    place = _place(digest, label, name, beside)
    return place if _holds(place, digest) else None


def keep(came: Path, label: str, name: str, *, beside: Path | None = None) -> Path:
    """Moves a file that was downloaded, and compared with what was expected, into the cache.

    Args:
        came: the file, in a folder of `temporary`.
        label: name of its folder.
        name: name of the file, such as `model.keras`.
        beside: another file of the model, in whose folder it is to be; None for a folder of its own.

    Returns:
        Its place.

    Raises:
        OSError: it cannot be moved; in the block of `temporary`, that is an OutputError.
    """
    found = sha256_of(came)
    place = _place(found, label, name, beside)
    if not _holds(place, found):
        # Equal content, equal time: processes that share a prediction compare the file by both.
        os.utime(came, (0, 0))
        make_folder(place.parent)
        os.replace(came, place)
    return place


@contextmanager
def temporary() -> Iterator[Path]:
    """Yields a temporary folder in the cache. Raises OutputError if nothing can be written."""
    cache = _folder(cache_dir())
    try:
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"cannot write to {cache}: {error.strerror or error}") from error


@functools.cache
def _folder(cache: Path) -> Path:
    """Returns the folder of downloaded models; the same one for the whole process if it is a temporary one."""
    return writable(cache / "models")


def _place(digest: str, label: str, name: str, beside: Path | None) -> Path:
    return beside.with_name(name) if beside is not None else _folder(cache_dir()) / digest[:16] / label / name


def _holds(place: Path, digest: str) -> bool:
    return os.path.isfile(place) and sha256_of(place) == digest
