"""JSON and base64 from clients: parsed beside the event loop, in bounded memory, and refused in one line."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kcv.common.untrusted import parse_json
from kcv.errors import UsageError
from kcv.serving.problems import Problem

T = TypeVar("T")

_INLINE_BYTES = 32 * 1024
"""A smaller body is parsed at once: another thread would take longer to start than it takes to parse."""
_DATA_URL = re.compile(r"data:[\w.+/-]{0,100}(;[\w=.+-]{0,100}){0,5},", re.ASCII)

# One thread: as Python objects JSON takes up to twenty times its size, so that one is parsed at a time.
_parser = ThreadPoolExecutor(1, "kcv-json")


async def parsed(body: bytes, read: Callable[[bytes], T]) -> T:
    """Returns what a function makes of a body; a long body is read beside the event loop.

    Args:
        body: the body of a request.
        read: parses it, keeps what is needed, and raises Problem for what it cannot use.
    """
    if len(body) <= _INLINE_BYTES:
        return read(body)
    return await asyncio.get_running_loop().run_in_executor(_parser, read, body)


def json_object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object in a body.

    Raises:
        Problem: 400, it is none: no JSON, infinite numbers or NaN, a key that stands twice, nested too deeply.
    """
    try:
        found = parse_json(body, "the body", UsageError)
    except UsageError as error:
        raise Problem(400, str(error)) from None
    if not isinstance(found, dict):
        raise Problem(400, "the body holds no JSON object.")
    return found


def from_base64(text: object, where: str) -> bytes:
    """Returns the bytes of an image that was sent as base64, plain or as a `data:` URL.

    Raises:
        Problem: 400, the text is no base64.
    """
    if not isinstance(text, str):
        raise Problem(400, f"{where}: an image must be text in base64, not {type(text).__name__}.")
    if text.startswith("data:"):
        text = _DATA_URL.sub("", text, count=1)
    try:
        return base64.b64decode(re.sub(r"[\r\n\t ]+", "", text), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, f"{where}: is no base64.") from None


def whole_number(value: object, name: str, most: int = 10**6) -> int:
    """Returns a whole number of at least 1 from a query or from JSON.

    Raises:
        Problem: 400, it is none.
    """
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= most:
        raise Problem(400, f"{name}: received {str(value)[:50]!r}, allowed: a whole number from 1 to {most}.")
    return int(text)
