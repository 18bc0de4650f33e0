"""Process memory: freed activations are kept for the next step instead of being returned to the system."""

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
    """Tells glibc's allocator to keep freed memory for the rest of the process.

    By default it returns large blocks to the system and requests them again, page by page and zeroed, in the next
    training step, which takes a third of a bfloat16 step of the custom CNN on two cores. The process then stays at its
    peak memory. Does nothing except on Linux with glibc.

    Returns:
        Whether the allocator accepted the settings.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(libc.mallopt(_TRIM_THRESHOLD, _LARGEST))


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turns running out of main memory into a one-line error that says what needs less of it.

    Raises:
        DeviceError: the block does not fit into memory.
    """
    try:
        yield
    except MemoryError as error:
        raise DeviceError(_TOO_LITTLE) from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # the only hint in torch's error message
            raise
        raise DeviceError(_TOO_LITTLE) from error
