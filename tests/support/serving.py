"""A server in a thread of this process, and a client that can also send what no client would."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcv.serving.model import Served
from kcv.serving.place import places
from kcv.serving.server import Server, listen, make_server
from kcv.serving.service import Service
from kcv.serving.settings import Settings

PATIENCE = 60.0
"""Seconds after which a test gives up; no test waits for it."""


@dataclass(frozen=True)
class Answered:
    """An answer."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    port: int
    server: Server

    @property
    def service(self) -> Service:
        assert self.server.service is not None
        return self.server.service

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answered:
        """Sends a request; in names of headers _ stands for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answered:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: bytes | dict[str, Any] = b"", **headers: str) -> Answered:
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content_Type": "application/json", **headers}
        return self.ask("POST", path, body, **headers)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def raw(self, content: bytes) -> bytes:
        """Sends bytes and returns all that comes back until the server closes, or has answered."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):  # closed before all was sent: what it said can still be read
                connection.sendall(content)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """Returns one answer, or what there is of it when the server closes."""
    found = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            found += part
            head, end, body = found.partition(b"\r\n\r\n")
            lengths = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
            if end and lengths and len(body) >= int(lengths[0]):
                break
    return found


def code_of(answer: bytes) -> int:
    """Returns the status code of an answer; 0 if the server closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


@contextlib.contextmanager
def serving(*models: str | Path, stop_seconds: float = 0, **settings: Any) -> Iterator[Running]:
    """Runs a server on a free port for the duration of the block, and expects it to end well."""
    ready = threading.Event()
    opened = listen("127.0.0.1", 0)
    port = opened.getsockname()[1]
    served = [Served(place, "cpu") for place in places(models)]
    server = make_server(served, Settings(**settings), started=lambda url: ready.set())
    failed: list[BaseException] = []

    def run() -> None:
        try:
            server.answer(opened)
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        if not failed:
            yield Running(port, server)
    finally:
        with contextlib.suppress(RuntimeError):  # it has ended already
            server.loop.call_soon_threadsafe(server.stop, stop_seconds)
        thread.join(PATIENCE)
        opened.close()
    assert not thread.is_alive()
    assert not failed, failed
