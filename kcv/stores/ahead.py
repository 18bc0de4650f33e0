"""Fetches ahead what one thread reads in order, over several connections."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Final

PARALLEL: Final = 16
"""Objects that a process fetches at a time: an answer takes some ten milliseconds, however small the object."""
_AHEAD: Final = 2 * PARALLEL
_AHEAD_BYTES: Final = 2**26


class FetchedAhead:
    """Objects that are read in order by one thread, and fetched by several.

    Args:
        read: returns the content of an object by its position; called in other threads.
        sizes: the sizes of the objects, in bytes.
    """

    def __init__(self, read: Callable[[int], bytes], sizes: Sequence[int]) -> None:
        self._read = read
        self._sizes = sizes
        self._waiting: dict[int, Future[bytes]] = {}
        self._bytes = 0
        self._next = 0
        weakref.finalize(self, _cancel, self._waiting)

    def __getitem__(self, index: int) -> bytes:
        """Returns the content of an object, or raises what `read` raises for it."""
        self._next = max(self._next, index)
        while self._next < len(self._sizes) and self._has_room():
            self._waiting[self._next] = _fetchers(os.getpid()).submit(self._read, self._next)
            self._bytes += self._sizes[self._next]
            self._next += 1
        begun = self._waiting.pop(index, None)
        if begun is None:  # read out of order
            return self._read(index)
        self._bytes -= self._sizes[index]
        return begun.result()

    def _has_room(self) -> bool:
        return not self._waiting or (len(self._waiting) < _AHEAD and self._bytes < _AHEAD_BYTES)


def _cancel(waiting: dict[int, Future[bytes]]) -> None:
    for begun in waiting.values():
        begun.cancel()


@lru_cache(maxsize=1)
def _fetchers(process: int) -> ThreadPoolExecutor:
    """Returns the threads of this process; those of its parent are not in a forked one."""
    return ThreadPoolExecutor(PARALLEL, thread_name_prefix="kcv-fetch")
