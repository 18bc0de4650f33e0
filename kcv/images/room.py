"""Memory for decoded images: large ones wait for each other, where several threads decode."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MOST_BYTES: Final = 2**30
"""Of large images that are decoded at the same time; a larger one is decoded alone."""
SMALL: Final = 32 * 2**20
"""Bytes up to which an image need not wait: as many as there are threads do no harm."""

_changed = threading.Condition()
_held = 0
_own = threading.local()


@contextmanager
def room(size: int) -> Iterator[None]:
    """Waits until the images that other threads decode leave room for another one, for as long as the block runs.

    Args:
        size: bytes that it will take.
    """
    global _held
    if size <= SMALL or getattr(_own, "waits", False):  # a thread must not wait for itself
        yield
        return
    size = min(size, MOST_BYTES)
    with _changed:
        _changed.wait_for(lambda: _held + size <= MOST_BYTES)
        _held += size
    _own.waits = True
    try:
        yield
    finally:
        _own.waits = False
        with _changed:
            _held -= size
            _changed.notify_all()


def _forget() -> None:
    """What other threads held is none of a forked process's business: they are not in it."""
    global _changed, _held
    _changed, _held = threading.Condition(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
