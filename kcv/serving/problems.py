"""Answers that refuse a request: a status code and one line."""

from __future__ import annotations

from collections.abc import Mapping

from kcv.common.text import printable, shortened
from kcv.errors import FormatError, KcvError

_LONGEST = 500


class Problem(Exception):
    """A request that is refused.

    Args:
        code: the HTTP status code.
        reason: one line for the client.
        headers: further headers of the answer.
    """

    def __init__(self, code: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.code = code
        # It may quote the request, and end in a terminal.
        self.reason = shortened(printable(reason), _LONGEST)
        self.headers = dict(headers or {})


def busy(reason: str, seconds: int = 1) -> Problem:
    """Returns the refusal of a server that has too much to do, with the time after which to try again."""
    return Problem(503, reason, {"Retry-After": str(seconds)})


def unreadable(error: KcvError) -> Problem:
    """Returns the refusal of an image: 415 if its format is none that kcv reads, otherwise 422."""
    return Problem(415 if isinstance(error, FormatError) else 422, str(error))
