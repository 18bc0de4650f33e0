"""Limits the memory of decoded images: when several threads decode, large images wait for each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MOST_BYTES: Final = 2**30
"""The most bytes of large images decoded at the same time; a larger image is decoded alone."""
SMALL: Final = 32 * 2**20
"""Bytes up to which an image need not wait; one such image per thread is harmless."""

_changed = threading.Condition()
_held = 0
_own = threading.local()


@contextmanager
def room(size: int) -> Iterator[None]:
    """Waits until the images in other threads leave enough memory, and reserves it for the duration of the block.

    Args:
        size: bytes that the image will need.
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
    """Resets the reservations in a forked process, which does not contain the other threads."""
    global _changed, _held
    _changed, _held = threading.Condition(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
