"""The process's memory: freed activations are kept for the next step instead of being handed back to the system."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep what is freed, for the rest of the process.

    By default it hands large blocks back to the system and gets them again, page by page and zeroed, in the next
    training step: a third of a bfloat16 step of the custom CNN on two cores. What a process holds then stays at its
    peak. Elsewhere than on Linux with glibc nothing is done.

    Returns:
        Whether the allocator took it.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(libc.mallopt(_TRIM_THRESHOLD, _LARGEST))
