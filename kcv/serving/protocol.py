"""uvicorn's connections with limits of their own against clients that are slow, or too many.

uvicorn ends a connection that is idle between two requests. It waits without end for headers that arrive slowly and for
a client that does not read its answer, and httptools bounds no headers.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

_MOST_HEADER_BYTES = 64 * 1024
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 49\r\n"
    b"retry-after: 1\r\nconnection: close\r\n\r\n"
    b'{"error": "too many connections are open; later"}'
)


class _Bounded:
    """What is added to a connection: limits in time and number.

    Attributes:
        header_seconds: seconds that the headers of a request may take.
        unread_seconds: seconds that a client may leave an answer unread.
        most: the most connections.
    """

    header_seconds: float
    unread_seconds: float
    most: int

    transport: Any
    connections: Any
    cycle: Any

    _headers: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        connection = transport.get_extra_info("socket")
        if connection is not None:
            # Headers and body are two writes: the second must not wait until the client confirms the first. asyncio
            # sees to that only where a socket was made with the number of the protocol.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.most:
            transport.write(_BUSY)
            transport.close()
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)  # type: ignore[misc]

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)  # type: ignore[misc]
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel_headers()
            return
        self._header_bytes += len(data)
        if self._header_bytes > _MOST_HEADER_BYTES:
            self.transport.abort()
        elif self._headers is None and not self.transport.is_closing():
            self._await_headers()

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._unread = asyncio.get_running_loop().call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        """Ends an idle connection, at once where the client has not read the answer either."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()  # type: ignore[misc]

    def _await_headers(self) -> None:
        self._headers = asyncio.get_running_loop().call_later(self.header_seconds, self.transport.abort)

    def _cancel_headers(self) -> None:
        self._header_bytes = 0
        if self._headers is not None:
            self._headers.cancel()
            self._headers = None

    def _stop(self) -> None:
        self._cancel_headers()
        if self._unread is not None:
            self._unread.cancel()


def bounded_protocol(*, header_seconds: float, unread_seconds: float, most: int) -> type[asyncio.Protocol]:
    """Returns uvicorn's class of connections with limits: on httptools, which is faster, where that is installed.

    Args:
        header_seconds: seconds that the headers of a request may take.
        unread_seconds: seconds that a client may leave an answer unread.
        most: the most connections.
    """
    base: Any
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as base
    except ModuleNotFoundError:
        from uvicorn.protocols.http.h11_impl import H11Protocol as base
    limits = {"header_seconds": header_seconds, "unread_seconds": unread_seconds, "most": most}
    return type("BoundedProtocol", (_Bounded, base), limits)
