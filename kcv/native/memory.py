"""The process's memory: freed activations are kept for the next step instead of being handed back to the system."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from kcv.errors import DeviceError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST = 2**31 - 1

_TOO_LITTLE = (
    "there is too little memory: use a smaller data.batch_size or data.image_size, or a smaller data.memory_budget_mb "
    "(images beyond it stay on the disk)"
)


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


@contextmanager
def enough_memory() -> Iterator[None]:
    """Says in one line that the main memory is too small, and what needs less of it.

    Raises:
        DeviceError: what is done in the block does not fit.
    """
    try:
        yield
    except MemoryError as error:
        raise DeviceError(_TOO_LITTLE) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # all that torch says where the system gives it none
            raise
        raise DeviceError(_TOO_LITTLE) from error
