"""The outermost layer: who may ask, what every answer carries, and what is logged of a request."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kcv.serving.exchange import Exchange, Gone, header
from kcv.serving.problems import Problem
from kcv.serving.service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

_PUBLIC = re.compile(r"/v2/health/(live|ready)|/ping|/metrics|/")
"""Paths that need no token: what the machinery around a server asks, and the page, which asks for it."""

_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_CLOSE = (b"connection", b"close")
_LINGER_SECONDS, _LINGER_BYTES = 1.0, 64 * 2**20
_GONE = 499
"""The code in logs and metrics of a request whose client has hung up."""


class Guard:
    """Admits requests, completes their answers, and counts them.

    Args:
        app: the routes.
        service: the models, and the settings.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        settings = service.settings
        self._token = None if settings.token is None else f"Bearer {settings.token}".encode()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self._names = _LOCAL_NAMES | {host.lower()} if settings.is_local else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        began = time.perf_counter()
        exchange = Exchange(_has_body(scope))
        exchange.bind(scope)
        answer = _Answer(exchange, receive, send, closes=not self._service.is_ready)
        try:
            try:
                self._admit(scope)
                await self._app(scope, receive, answer)
            except Problem as problem:
                await refuse(problem, answer)
        except Gone:
            exchange.code = _GONE
        except Exception:
            _log.exception("a request could not be answered")
            if not exchange.code:
                await refuse(Problem(500, "the server has made a mistake."), answer)
        finally:
            self._service.budget.give_back(exchange.held)
            seconds = time.perf_counter() - began
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self._service.metrics.answered(route, exchange.code, seconds)
            if self._service.settings.log_requests:
                _log.info("%d %d bytes %.1f ms", exchange.code, exchange.size, 1e3 * seconds)

    def _admit(self, scope: Scope) -> None:
        """Raises Problem for a request that must not reach a route."""
        _check_framing(scope)
        host = (header(scope, b"host") or b"").decode("latin-1").lower()
        if self._names is not None and re.sub(r":\d*$", "", host) not in self._names:
            # A name that points at this machine since a page was loaded from elsewhere (DNS rebinding).
            raise Problem(421, "the Host header names another machine.")
        if scope["method"] != "GET" and _is_foreign(scope, host):
            raise Problem(403, "pages of other sites may not use this server.")
        if self._token is None or _PUBLIC.fullmatch(scope["path"]):
            return
        if not hmac.compare_digest(header(scope, b"authorization") or b"", self._token):
            raise Problem(401, "a token is needed: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})


class _Answer:
    """Sends an answer with the headers that each has.

    An answer to a request whose body was not read ends the connection, but lets the client read it first: a connection
    that is closed while bytes arrive is reset, and the answer may be lost.
    """

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, *, closes: bool) -> None:
        self._exchange, self._receive, self._send, self._closes = exchange, receive, send, closes

    async def __call__(self, message: Message) -> None:
        unread = self._exchange.has_body and not self._exchange.is_read
        if message["type"] == "http.response.start":
            self._exchange.code = message["status"]
            given = {name for name, _ in message["headers"]}
            message["headers"] += [pair for pair in _HEADERS if pair[0] not in given]
            if unread or self._closes:
                message["headers"].append(_CLOSE)
        elif unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return


async def refuse(problem: Problem, send: Any) -> None:
    """Sends a refusal as JSON."""
    body = json.dumps({"error": problem.reason}, ensure_ascii=False).encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": problem.code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _has_body(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
               for name, value in scope["headers"])  # fmt: skip


def _check_framing(scope: Scope) -> None:
    """Refuses a request whose length two servers could understand in two ways (request smuggling, RFC 9112, 6.3)."""
    names = [name for name, _ in scope["headers"]]
    lengths = {value for name, value in scope["headers"] if name == b"content-length"}
    if lengths and b"transfer-encoding" in names:
        raise Problem(400, "a request has either a Content-Length or a Transfer-Encoding.")
    if len(lengths) > 1 or not all(re.fullmatch(rb"[0-9]{1,18}", value) for value in lengths):
        raise Problem(400, "Content-Length is not understood.")
    if names.count(b"host") > 1:
        raise Problem(400, "a request has one Host header.")
    encoding = header(scope, b"content-encoding")
    if encoding not in (None, b"identity"):
        raise Problem(415, "a body must not be compressed (Content-Encoding).")


def _is_foreign(scope: Scope, host: str) -> bool:
    """Returns whether a browser sends the request for a page of another site."""
    site = header(scope, b"sec-fetch-site")
    if site in (b"cross-site", b"same-origin"):
        # The browser's own word, which no page can set; behind a proxy the Host header is not the origin's.
        return site == b"cross-site"
    origin = header(scope, b"origin")
    try:
        return origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host
    except ValueError:  # brackets without an address
        return True
