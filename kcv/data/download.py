"""One file from the network into a cache: whole, checked, or not there at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, TypeAlias

from kcv.errors import DataError
from kcv.files import atomic

_CHUNK = 2**20
_TIMEOUT = 30.0  # seconds without a byte


class Bar(Protocol):
    """Where progress is shown; `kcv.progress.Progress` is one."""

    def advance(self, n: int = ...) -> None:
        """Counts n more units."""


OpenBar: TypeAlias = Callable[[int, str, str], AbstractContextManager[Bar]]
"""Makes a bar from (total, label, unit)."""


def cache_dir() -> Path:
    """Returns KCV_CACHE_DIR, else kcv below XDG_CACHE_HOME, else ~/.cache/kcv. It need not exist."""
    if own := os.environ.get("KCV_CACHE_DIR"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kcv"


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download(url: str, path: Path, *, sha256: str, size: int, open_bar: OpenBar | None = None) -> None:
    """Downloads `url` to `path` if its checksum is right; otherwise `path` is as it was before.

    Args:
        url: what to get.
        path: the file to make; its folder is made where it is missing.
        sha256: of the file, hex.
        size: of the file, bytes.
        open_bar: makes the bar that counts bytes; None shows nothing.

    Raises:
        DataError: no connection, the server says no, the transfer breaks off, or another file came.
        OutputError: `path` cannot be written.
    """
    digest = hashlib.sha256()
    received = 0
    with (
        atomic(path) as temporary,
        temporary.open("wb") as target,
        open_bar(size, f"downloading {path.name}", "bytes") if open_bar else nullcontext() as bar,
    ):
        for chunk in _chunks(url, size):
            digest.update(chunk)
            received += len(chunk)
            target.write(chunk)
            if bar is not None:
                bar.advance(len(chunk))
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{url}: what came is not the expected file ({received:,} of {size:,} bytes, "
                f"sha256 {digest.hexdigest()[:16]}... instead of {sha256[:16]}...); nothing was kept."
            )


def _chunks(url: str, size: int) -> Iterator[bytes]:
    """Yields the bytes of `url`, at most `size` + 1 of them: an endless answer must not fill the disk."""
    left = size + 1
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            while left and (chunk := response.read(min(_CHUNK, left))):
                left -= len(chunk)
                yield chunk
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise DataError(f"{url} cannot be downloaded ({' '.join(str(reason).split())}).") from error
