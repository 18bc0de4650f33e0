"""One request and what is known of it: shared by the guard, which wraps it, and the route that answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kcv.serving.budget import Budget
from kcv.serving.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope

_KEY = "kcv"


class Gone(Exception):
    """The client has hung up: nobody waits for an answer."""


@dataclass(slots=True)
class Exchange:
    """The state of a request.

    Attributes:
        has_body: whether the headers announce a body.
        is_read: whether all of the body has been read.
        size: the bytes of the body that have been read.
        held: those of them that are counted in the budget.
        code: the status code of the answer; 0 as long as there is none.
    """

    has_body: bool
    is_read: bool = False
    size: int = 0
    held: int = 0
    code: int = 0

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """Returns the exchange of a request."""
        return cast("Exchange", scope[_KEY])

    def bind(self, scope: Scope) -> None:
        """Makes `of` return it."""
        scope[_KEY] = self


async def read_body(scope: Scope, receive: Receive, *, most: int, seconds: float, budget: Budget) -> bytes:
    """Reads the body of a request, and stops as soon as it is too large, too slow, or too much for the server.

    Args:
        scope: the request.
        receive: gives its parts.
        most: the most bytes.
        seconds: how long it may take.
        budget: counts the bytes of all requests. They are given back when the request has been answered.

    Raises:
        Problem: 413, 408 or 503.
        Gone: the client has hung up.
    """
    exchange = Exchange.of(scope)
    declared = header(scope, b"content-length")
    if declared is not None and int(declared) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    more = True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                part = message.get("body", b"")
                exchange.size += len(part)
                if exchange.size > most:
                    raise _too_large(most)
                budget.take(len(part))
                exchange.held += len(part)
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {seconds:g} seconds.") from None
    finally:
        if more:  # refused: what was read is let go at once
            budget.give_back(exchange.held)
            exchange.held = 0
    exchange.is_read = True
    return parts[0] if len(parts) == 1 else b"".join(parts)


def query_of(request: Request, *allowed: str) -> dict[str, str]:
    """Returns the parameters in the URL of a request.

    Args:
        request: the request.
        allowed: the names of those that the route has.

    Raises:
        Problem: 400, there is another one.
    """
    query = dict(request.query_params)
    unknown = next((name for name in query if name not in allowed), None)
    if unknown is not None:
        raise Problem(400, f"unknown parameter {unknown!r}; allowed: {', '.join(allowed)}.")
    return query


def header(scope: Scope, name: bytes) -> bytes | None:
    """Returns a header of a request, or None. `name` is in lower case."""
    return next((value for key, value in scope["headers"] if key == name), None)


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than the allowed {most:,} bytes.")
