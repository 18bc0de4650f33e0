"""The number of cores that this process may use."""

from __future__ import annotations

import os

from kcv.common.launch import Launch


def usable_cores() -> int:
    """Returns the number of cores that this process may use, at least 1.

    The processes of a job on one machine share its cores. Only the cores that the process is bound to count, as in a
    batch system or with `taskset`.
    """
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, cores // Launch.current().local_world_size)
