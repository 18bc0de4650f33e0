"""Bounds on what a server may answer: one whose answer has no end would take all memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

MOST_BYTES = 64 * 2**20
"""Of one answer, unpacked; the longest of MLflow's that kcv asks for, a metric's history, has some megabytes."""
MOST_SECONDS = 120.0
"""For all of one answer; the wait for its next byte is bounded apart from that."""


class EndlessAnswer(Exception):
    """A server's answer is longer than any that MLflow gives."""


class _Bounded:
    """A response of urllib3 that gives no more than it may."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    def stream(self, amount: int = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yields the answer in pieces, as urllib3 does.

        Raises:
            EndlessAnswer: it is too long, or takes too long.
        """
        received, end = 0, time.monotonic() + MOST_SECONDS
        for piece in self._response.stream(min(amount, 2**16), decode_content=decode_content):
            received += len(piece)
            if received > MOST_BYTES or time.monotonic() > end:
                self._response.close()
                raise EndlessAnswer(f"its answer is longer than {MOST_BYTES >> 20} MB, or takes {MOST_SECONDS:.0f} s")
            yield piece


def bound() -> None:
    """Bounds the answers that MLflow's client reads whole; files that it streams to a disk stay as they are."""
    from mlflow.utils import request_utils

    adapter: Any = request_utils.TCPKeepAliveHTTPAdapter
    if getattr(adapter, "kcv_bounds", False):
        return

    class Bounding(adapter):  # type: ignore[misc]
        kcv_bounds = True

        def send(self, request: Any, stream: bool = False, *args: Any, **options: Any) -> Any:
            response = super().send(request, stream, *args, **options)
            if not stream:
                response.raw = _Bounded(response.raw)
            return response

    request_utils.TCPKeepAliveHTTPAdapter = Bounding  # type: ignore[misc]
    request_utils._cached_get_request_session.cache_clear()
