"""Bounds what a server may answer, in bytes and in seconds, before botocore parses it.

botocore itself reads an answer of any length, and takes one that was cut off for a short one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

MOST_BYTES: Final = 16 * 2**20
"""Of an answer that is no object: a page of a listing has at most a thousand keys, of a kilobyte each."""
MOST_SECONDS: Final = 120.0

_CHUNK: Final = 2**16


class Broken(Exception):
    """An answer that broke off, or was too long or too slow."""


class BoundedSession:
    """Sends requests like botocore's own session, and reads all answers but objects within bounds.

    Args:
        session: botocore's session.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        """Returns the answer to a request; an object in it has not been read yet.

        Raises:
            Broken: the answer is too long or too slow, or was cut off.
        """
        from botocore.awsrequest import AWSResponse

        streams = request.stream_output
        request.stream_output = True  # otherwise the session would read all that comes
        response = self._session.send(request)
        if streams and response.status_code < 300:
            return response
        # An answer to HEAD tells the length of a body that does not follow.
        told = "0" if request.method == "HEAD" else response.headers.get("Content-Length")
        body = whole(response.raw, told)
        return AWSResponse(response.url, response.status_code, response.headers, _Whole(body))

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()


class _Whole:
    """A body that was read already, as botocore reads it."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


def whole(raw: Any, told: str | None) -> bytes:
    """Reads an answer to its end.

    Args:
        raw: urllib3's response.
        told: its Content-Length, if it has one.

    Raises:
        Broken: it is too long or too slow, or was cut off.
    """
    content, end = bytearray(), time.monotonic() + MOST_SECONDS
    try:
        while chunk := some(raw, _CHUNK):
            content += chunk
            if len(content) > MOST_BYTES:
                raise Broken(f"an answer of more than {MOST_BYTES:,} bytes")
            if time.monotonic() > end:
                raise Broken(f"an answer that takes longer than {MOST_SECONDS:g} seconds")
    except Broken:
        raise
    except Exception as error:  # urllib3's own errors
        raise Broken(f"cut off: {error}") from error
    finally:
        raw.release_conn() if told == str(len(content)) else raw.close()
    if told is not None and told.isdecimal() and int(told) != len(content):
        raise Broken(f"cut off after {len(content):,} of {int(told):,} bytes")
    return bytes(content)


def some(raw: Any, most: int) -> bytes:
    """Returns the next bytes of an answer, as they have come; empty at its end.

    Args:
        raw: urllib3's response.
        most: the largest number of bytes.
    """
    read = getattr(raw, "read1", None) or raw.read  # read waits for all, from a server that sends a byte now and then
    content: bytes = read(most)
    return content
