"""Reads objects: whole or in parts, in order or here and there, each part again where an answer broke off."""

from __future__ import annotations

import io
import os
import time
from typing import Any, Final

from kcv.errors import DataError, KcvError
from kcv.stores.answers import Broken, some
from kcv.stores.client import client, retried
from kcv.stores.listing import StoredObject

_CHUNK: Final = 2**20
_AHEAD: Final = 2**22
"""Bytes that are read at once where a few are asked for, such as the headers in a tar file."""
_SECONDS: Final = 30.0
_LEAST_SPEED: Final = 2**18
"""Bytes per second, beside `_SECONDS`, below which a try ends and the rest is asked for again."""


def read(one: StoredObject, begin: int = 0, end: int | None = None, *, error: type[KcvError] = DataError) -> bytes:
    """Returns the bytes of an object, or of a part of it.

    Where an answer breaks off or is too slow, what has come is kept, and only the rest is asked for again. The object
    must be the one that was listed (its ETag).

    Args:
        one: the object.
        begin: the first byte.
        end: the byte after the last one; None for all.
        error: the class of the error that is raised.

    Raises:
        KcvError: of class `error`; the object is gone, has changed or cannot be read.
    """
    end = one.size if end is None else min(end, one.size)
    content = bytearray()
    if end > begin:
        retried(one.place, lambda: _rest(one, begin, end, content, error), error)
    elif not one.size:
        retried(one.place, lambda: _require_empty(one, error), error)
    return bytes(content)


def _rest(one: StoredObject, begin: int, end: int, content: bytearray, error: type[KcvError]) -> None:
    """Adds the bytes of a part that are not there yet."""
    at = begin + len(content)
    answer = _asked(one, Range=f"bytes={at}-{end - 1}")
    raw = answer["Body"]._raw_stream
    done = False
    try:
        told = answer.get("ContentRange")
        if told is None and (at or answer.get("ContentLength") != one.size):
            raise error(f"{one}: its server sends no parts of objects, or the object has changed.")
        if told is not None and not told.startswith(f"bytes {at}-{end - 1}/"):
            raise error(f"{one}: has changed since it was listed, or its server sends other parts than were asked for.")
        limit = time.monotonic() + _SECONDS + (end - at) / _LEAST_SPEED
        while len(content) < end - begin:
            chunk = some(raw, min(_CHUNK, end - begin - len(content)))
            if not chunk:
                raise Broken(f"cut off, {end - begin - len(content):,} bytes are missing")
            content += chunk
            if time.monotonic() > limit and len(content) < end - begin:
                raise Broken("too slow")
        done = not some(raw, 1)
    except (KcvError, Broken):
        raise
    except Exception as caught:  # urllib3's own errors
        raise Broken(f"cut off: {caught}") from caught
    finally:
        # A connection with a rest on it is of no further use.
        raw.release_conn() if done else raw.close()


def _require_empty(one: StoredObject, error: type[KcvError]) -> None:
    answer = _asked(one)
    answer["Body"].close()
    if answer.get("ContentLength"):
        raise error(f"{one}: has changed since it was listed.")


def _asked(one: StoredObject, **more: str) -> Any:
    if one.etag:
        more["IfMatch"] = one.etag
    return client().calls.get_object(Bucket=one.place.bucket, Key=one.place.key, **more)


class ObjectFile(io.RawIOBase):
    """An object as a file: reads are requests, small ones with what follows them.

    Args:
        one: the object.
    """

    def __init__(self, one: StoredObject) -> None:
        super().__init__()
        self._one = one
        self._at = 0
        self._held = b""
        self._held_at = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position of the next byte."""
        return self._at

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        """Moves to a position, and returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._one.size}[whence]
        self._at = max(start + to, 0)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Returns the next bytes, fewer only at the end of the object.

        Raises:
            DataError: the object has changed or cannot be read.
        """
        left = max(self._one.size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        begin = self._at
        self._at += wanted
        if not self._held_at <= begin <= begin + wanted <= self._held_at + len(self._held):
            content = read(self._one, begin, begin + max(wanted, _AHEAD)) if wanted else b""
            if wanted >= _AHEAD:
                return content
            self._held, self._held_at = content, begin
        return self._held[begin - self._held_at : begin - self._held_at + wanted]

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer with the next bytes, and returns their number."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        """Returns all bytes that are left."""
        return self.read()
