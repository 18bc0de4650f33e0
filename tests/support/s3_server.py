"""An S3 server on this machine, moto's, with the faults that a network makes between it and who asks."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_HEADERS = {
    "X-Test": "1",
    "Content-Type": "application/octet-stream",
    "Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0",
}  # moto compares no signature, but refuses what has none
Fault = str | None
"""`500`, `503`, `403`, `gone` (no such upload), `lost` (done, but the answer says 500), `cut` (half of the body comes),
`slow:SECONDS`."""


@dataclass
class S3:
    """A server.

    Attributes:
        address: its URL.
        asked: method, path with query, and range of each request, in order.
        fault: returns the fault of a request, from its method and path, which are such as `GET /bucket/key`.
        answered: the number of requests that were answered without a fault, by method and path.
    """

    address: str = ""
    asked: list[str] = field(default_factory=list)
    fault: Callable[[str], Fault] = lambda request: None
    answered: dict[str, int] = field(default_factory=dict)

    def bucket(self) -> str:
        """Makes a bucket that no other test knows, and returns its name."""
        name = f"kcv-{uuid.uuid4().hex[:12]}"
        self._send("PUT", name)
        return name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self._send("PUT", f"{bucket}/{urllib.parse.quote(key)}", content)

    def get(self, bucket: str, key: str) -> bytes:
        return self._send("GET", f"{bucket}/{urllib.parse.quote(key)}")

    def delete(self, bucket: str, key: str) -> None:
        self._send("DELETE", f"{bucket}/{urllib.parse.quote(key)}")

    def uploads(self, bucket: str) -> int:
        """Returns the number of uploads that were begun and neither finished nor given up."""
        return self._send("GET", f"{bucket}?uploads").count(b"<UploadId>")

    def keys(self, bucket: str) -> list[str]:
        return re.findall(r"<Key>(.*?)</Key>", self._send("GET", f"{bucket}?list-type=2").decode())

    def _send(self, method: str, path: str, content: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.address}/{path}", content, _HEADERS, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            body: bytes = answer.read()
        return body

    def heal(self) -> None:
        self.fault = lambda request: None
        self.asked.clear()
        self.answered.clear()


@contextmanager
def serving_s3() -> Iterator[S3]:
    """Gives a server for as long as the block runs."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3()
    app = _Faulty(DomainDispatcherApplication(create_backend_app), server)
    http = make_server("127.0.0.1", 0, app, threaded=True)
    http.daemon_threads = True  # type: ignore[attr-defined]
    server.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


_CODES = {
    "500": ("500", "InternalError"),
    "503": ("503", "SlowDown"),
    "403": ("403", "AccessDenied"),
    "gone": ("404", "NoSuchUpload"),
}


class _Faulty:
    """The server behind a line with faults."""

    def __init__(self, app: Any, server: S3) -> None:
        self._app = app
        self._server = server

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("HTTP_X_TEST"):
            return self._app(environ, start_response)  # type: ignore[no-any-return]
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        self._server.asked.append(f"{request}{query} {environ.get('HTTP_RANGE', '')}".strip())
        fault = self._server.fault(f"{request}{query}")
        if fault in _CODES:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return _refused(fault, start_response)
        told: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> None:
            told[:] = [status, headers]

        answer = self._app(environ, start)
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        if fault == "lost":
            return _refused("500", start_response)
        if fault and fault.startswith("slow:"):
            time.sleep(float(fault[5:]))
        if fault == "cut" and environ["REQUEST_METHOD"] == "GET":
            headers = [(name, text) for name, text in told[1] if name.lower() != "content-length"]
            start_response(told[0], [*headers, ("Content-Length", str(len(body)))])
            return _cut(body[: len(body) // 2], environ["werkzeug.socket"])
        if fault is None:
            self._server.answered[request] = self._server.answered.get(request, 0) + 1
        start_response(*told)
        return [body]


def _refused(code: str, start_response: Any) -> list[bytes]:
    code, name = _CODES[code]
    body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>as the test wants it</Message></Error>".encode()
    start_response(f"{code} {name}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _cut(body: bytes, socket: Any) -> Iterator[bytes]:
    import socket as sockets

    yield body
    with contextlib.suppress(OSError):
        socket.shutdown(sockets.SHUT_RDWR)
    raise ConnectionError("as the test wants it")
