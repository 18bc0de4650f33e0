"""Downloads files into a cache, verified and atomically."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import http.client
import logging
import os
import re
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from kcv.common.files import atomic, expand_user, home
from kcv.common.untrusted import refusing
from kcv.errors import DataError, OutputError, first_line

_log = logging.getLogger(__name__)

_CHUNK = 2**20
_TIMEOUT = 30.0  # seconds without a byte
_MOST_BYTES = 2**31


class Bar(Protocol):
    """A progress bar; `kcv.common.progress.Progress` implements it."""

    def advance(self, n: int = ...) -> None:
        """Adds n units."""


OpenBar: TypeAlias = Callable[[int, str, str], AbstractContextManager[Bar]]
"""Creates a bar from (total, label, unit)."""


def cache_dir() -> Path:
    """Returns KCV_CACHE_DIR, otherwise XDG_CACHE_HOME/kcv, otherwise ~/.cache/kcv. The folder need not exist.

    Raises:
        OutputError: there is no home folder, and no temporary folder can be created instead.
    """
    if own := os.environ.get("KCV_CACHE_DIR"):
        return expand_user(own)
    if own := os.environ.get("XDG_CACHE_HOME"):
        return expand_user(own) / "kcv"
    folder = home()
    return folder / ".cache" / "kcv" if folder is not None else _temporary_cache()


@functools.cache
def _temporary_cache() -> Path:
    """Returns the cache of a user without a home folder, who may share the temporary folder with other users."""
    folder = Path(tempfile.gettempdir(), f"kcv-cache-{os.getuid() if hasattr(os, 'getuid') else 'user'}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    try:
        found = folder.lstat()
        mine = hasattr(os, "getuid") and found.st_uid == os.getuid()  # Windows does not say whose a folder is
        if mine and stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077:
            return folder
    except OSError:
        pass
    try:
        folder = Path(tempfile.mkdtemp(prefix="kcv-cache-"))  # another user owns a folder of that name
    except OSError as error:
        raise OutputError(
            f"there is no home folder, and no temporary one can be made: {error.strerror}; set KCV_CACHE_DIR"
        ) from None
    return folder


def is_url(named: str | Path) -> bool:
    """Returns whether the user gave a URL, or the short name of a repository of Hugging Face, `hf:owner/name`."""
    return isinstance(named, str) and ("://" in named or re.match(r"hf:[\w.-]+/", named) is not None)


def writable(folder: Path) -> Path:
    """Returns a folder for cached files and creates it if needed; a temporary folder if it is not writable.

    An unwritable cache is no reason to stop: the files go to a temporary folder, which is removed when the process
    ends, and one line reports it.

    Raises:
        OutputError: no folder is writable.
    """
    reason = _obstacle(folder)
    if reason is None:
        return folder
    try:
        other = Path(tempfile.mkdtemp(prefix="kcv-cache-"))
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {reason}; nor elsewhere: {error.strerror or error}") from None
    atexit.register(shutil.rmtree, other, ignore_errors=True)
    _log.warning("cache      cannot write to %s: %s; downloads are kept for this run alone", folder, reason)
    return other


def lasting(name: str) -> Path:
    """Returns a folder of the cache for files that must outlive this process, and creates it if needed.

    Unlike `writable` it has no substitute: what cannot be downloaded again must not lie in a folder that is removed.

    Args:
        name: the name of the folder in the cache.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    folder = cache_dir() / name
    if (reason := _obstacle(folder)) is not None:
        raise OutputError(f"cannot write to {folder}: {reason}; KCV_CACHE_DIR names another folder")
    return folder


def _obstacle(folder: Path) -> str | None:
    """Creates a folder if needed, and returns why no file can be made in it; None if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def has_checksum(path: Path, checksum: str) -> bool:
    """Returns whether a file has the given checksum (`sha256:...` or `md5:...`, hex)."""
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == expected


def download(url: str, path: Path, *, checksum: str, size: int | None = None, open_bar: OpenBar | None = None) -> None:
    """Downloads `url` to `path` if its checksum is right; otherwise `path` stays unchanged.

    Args:
        url: the URL to download.
        path: the file to write; a missing folder is created.
        checksum: checksum of the file: hex digits after `sha256:` or, if the publisher gives no other, `md5:`.
        size: size of the file in bytes; None: as reported by the server.
        open_bar: creates the progress bar for the bytes; None: no bar.

    Raises:
        DataError: there is no connection, the server reports an error, the transfer is cut short, or the file differs.
        OutputError: `path` cannot be written.
    """
    algorithm, _, expected = checksum.partition(":")
    digest = hashlib.new(algorithm)
    received = 0
    with (
        _answer(url) as response,
        atomic(path) as temporary,
        temporary.open("wb") as target,
    ):
        told = response.headers.get("Content-Length") or ""
        size = size or (int(told) if told.isdecimal() else 0)
        with open_bar(size, f"downloading {path.name}", "bytes") if open_bar else nullcontext() as bar:
            for chunk in _chunks(response, size or _MOST_BYTES, url):
                digest.update(chunk)
                received += len(chunk)
                target.write(chunk)
                if bar is not None:
                    bar.advance(len(chunk))
        if digest.hexdigest() != expected:
            raise DataError(
                f"{url}: what came is not the expected file ({received:,} of {size:,} bytes, "
                f"{algorithm} {digest.hexdigest()[:16]}... instead of {expected[:16]}...); nothing was kept."
            )


def fetch(url: str, *, most: int, seconds: float) -> bytes:
    """Downloads a small file at a URL that the user gave, without a known checksum.

    Args:
        url: an http or https URL; redirects from https to http are not followed.
        most: largest allowed size, in bytes.
        seconds: longest allowed total time, in seconds.

    Raises:
        DataError: the URL has another scheme or contains credentials, there is no connection, or the server reports an
            error, sends too much, or is too slow.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        secret = parts.username is not None or parts.password is not None
    except ValueError as error:
        raise DataError(f"{url}: is no URL ({first_line(error)}).") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError(f"{url}: only URLs of http and https are read; download the file first.")
    if secret:
        raise DataError("a URL holds a name or a password; download the file first.")
    end, content = time.monotonic() + seconds, bytearray()
    plain = urllib.parse.quote(url, safe=":/?#[]@!$&'()*+,;=%")  # quotes the characters of a URL as shown by a browser
    with refusing(url, DataError, "cannot be downloaded"), _telling_of(url):
        response = _OPENER.open(plain, timeout=min(seconds, _TIMEOUT))
    with response, refusing(url, DataError, "cannot be downloaded"), _telling_of(url):
        while chunk := response.read1(min(_CHUNK, most + 1 - len(content))):
            content += chunk
            if len(content) > most:
                raise DataError(f"{url} cannot be downloaded (it is larger than {most:,} bytes).")
            if time.monotonic() > end:
                raise DataError(f"{url} cannot be downloaded (it takes longer than {seconds:g} seconds).")
        if response.length:
            raise DataError(f"{url} cannot be downloaded (it broke off, {response.length:,} bytes are missing).")
    return bytes(content)


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Rejects redirects from https to another scheme, with which the request would not be encrypted."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        kind = urllib.parse.urlsplit(newurl).scheme
        if kind != "https" and (kind != "http" or req.type == "https"):
            raise urllib.error.URLError(f"it leads to {newurl[:100]}, which is not read")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_StaysEncrypted)


@contextmanager
def _answer(url: str) -> Iterator[Any]:
    with _telling_of(url):
        response = urllib.request.urlopen(url, timeout=_TIMEOUT)
    with response:
        yield response


def _chunks(response: Any, size: int, url: str) -> Iterator[bytes]:
    """Yields the response in chunks, at most `size` + 1 bytes, so that an endless response cannot fill the disk."""
    left = size + 1
    while left:
        with _telling_of(url):
            chunk = response.read(min(_CHUNK, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


@contextmanager
def _telling_of(url: str) -> Iterator[None]:
    """Turns network errors into a DataError. The block must not write files, whose errors would be converted too."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it keeps the connection open
        raise DataError(f"{url} cannot be downloaded ({' '.join(str(reason).split())}).") from error
