"""The cores that this process may use."""

from __future__ import annotations

import os

from kcv.common.launch import Launch


def usable_cores() -> int:
    """Returns the number of cores that this process may use, at least 1.

    The processes of a job on one machine share its cores. Only the cores that the process is bound to count, as in a
    batch system or with `taskset`.
    """
    return max(1, len(bound_cores()) // Launch.current().local_world_size)


def bound_cores() -> set[int]:
    """Returns the numbers of the cores that this process is bound to: all of the machine where it is not bound."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
