"""An iterator whose next items a thread computes while the current ones are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")

AHEAD = 2
"""The number of items that may wait."""


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yields the items; up to `AHEAD` of them are computed before they are requested.

    An error of the iterator is raised here, at its position. The thread ends soon after the result is closed.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(AHEAD)
    left = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, waiting, left), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        left.set()
        thread.join()


def _fill(items: Iterator[Any], waiting: queue.Queue[tuple[Any, BaseException | None]], left: threading.Event) -> None:
    """Puts items into the queue, then the exception that ended them; stops early if the consumer has left."""

    def put(item: Any, error: BaseException | None) -> bool:
        while not left.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for item in items:
            if not put(item, None):
                return
        put(None, StopIteration())
    except BaseException as error:
        put(None, error)
