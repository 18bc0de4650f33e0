"""A client that loads a server with the same request over many connections, and costs little itself."""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from dataclasses import dataclass, field

_READ = 65536
_TICK = 0.05  # seconds


@dataclass
class Load:
    """What a server did under load.

    Attributes:
        seconds: how long requests were sent.
        accepted: seconds until each answer with code 200.
        refused: seconds until each answer with code 503.
        others: answers with another code, and connections that ended without an answer.
        unsent: requests that were due while all connections waited.
    """

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: int = 0
    unsent: int = 0


@dataclass
class _Connection:
    socket: socket.socket
    began: float = 0.0
    received: bytes = b""


def load(port: int, request: bytes, *, connections: int, seconds: float, rate: float | None = None) -> Load:
    """Sends a request again and again, and measures the answers.

    Args:
        port: the port of a server on this machine.
        request: the bytes of one request.
        connections: connections that stay open.
        seconds: how long requests are sent.
        rate: requests per second, sent when they are due whether or not others have been answered; None to send each
            when the answer before it on its connection has come.

    Returns:
        The times from when a request was due until its answer was there.
    """
    found = Load()
    selector = selectors.DefaultSelector()
    idle: deque[_Connection] = deque()
    for _ in range(connections):
        made = _Connection(socket.create_connection(("127.0.0.1", port)))
        made.socket.setblocking(False)
        selector.register(made.socket, selectors.EVENT_READ, made)
        idle.append(made)
    waiting = 0
    began = now = time.perf_counter()
    due = 0
    try:
        while now < began + seconds or waiting:
            allowed = len(idle) if rate is None else int((now - began) * rate) - due
            if now >= began + seconds:
                allowed = 0
            for _ in range(allowed):
                when = now if rate is None else began + due / rate
                due += 1
                one = _open(idle)
                if one is None:
                    found.unsent += rate is not None
                    continue
                one.began, one.received = when, b""
                one.socket.send(request)  # small enough for the empty buffer of a connection that waits
                waiting += 1
            for key, _ in selector.select(_TICK if rate is None else 0.001):
                if _finished(key.data, found, selector):
                    waiting -= 1
                    if key.data.socket.fileno() >= 0:
                        idle.append(key.data)
            now = time.perf_counter()
    finally:
        selector.close()
        for one in idle:
            one.socket.close()
    found.seconds = seconds
    return found


def _open(idle: deque[_Connection]) -> _Connection | None:
    """Takes a connection that did not end with its answer; None if there is none."""
    while idle:
        one = idle.popleft()
        if one.socket.fileno() >= 0:
            return one
    return None


def _finished(one: _Connection, found: Load, selector: selectors.BaseSelector) -> bool:
    """Reads what has arrived; returns whether an answer is whole."""
    part = one.socket.recv(_READ)
    if not part:
        selector.unregister(one.socket)
        one.socket.close()
        found.others += bool(one.began)
        return bool(one.began)
    one.received += part
    head, end, body = one.received.partition(b"\r\n\r\n")
    if not end:
        return False
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    if len(body) < length:
        return False
    taken, one.began = time.perf_counter() - one.began, 0.0
    if b"\r\nconnection: close" in head.lower():
        selector.unregister(one.socket)
        one.socket.close()
    code = head[9:12]
    if code == b"200":
        found.accepted.append(taken)
    elif code == b"503":
        found.refused.append(taken)
    else:
        found.others += 1
    return True
