"""How many cores this process may use."""

from __future__ import annotations

import os

from kcv.common.launch import Launch


def usable_cores() -> int:
    """Returns how many cores this process may use, at least 1.

    Those of a machine are shared by its processes of the job. A process may be bound to some cores, as in a batch
    system or by `taskset`; the others are not its own.
    """
    known = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return max(1, cores // Launch.current().local_world_size)
