"""How this process was started: alone, or by torchrun as one of several processes of a job."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kcv.errors import KcvError, UsageError


class SilentExit(KcvError):
    """Another process of the job has reported the error; this one exits silently."""


class Ranked:
    """The position of this process among others.

    Attributes:
        rank: rank of this process, from 0.
        world_size: number of processes.
    """

    rank: int
    world_size: int

    @property
    def is_main_process(self) -> bool:
        """Whether this is the main process, which prints and writes for all."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are other processes."""
        return self.world_size > 1


@dataclass(frozen=True)
class Launch(Ranked):
    """The environment that torchrun sets, see https://docs.pytorch.org/docs/stable/elastic/run.html.

    Attributes:
        rank: rank of this process, from 0.
        world_size: number of processes.
        local_rank: rank on this machine, from 0.
        local_world_size: number of processes on this machine.
        restarts: number of times that torchrun has restarted the group.
        job: identifies the job across restarts; None for a process that runs alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restarts: int = 0
    job: str | None = None

    @classmethod
    def current(cls, environment: Mapping[str, str] | None = None) -> Launch:
        """Reads the values from the environment. Without `WORLD_SIZE`, the process runs alone.

        Raises:
            UsageError: the variables are incomplete or inconsistent.
        """
        values = os.environ if environment is None else environment
        if values.get("WORLD_SIZE", "1") == "1" and "TORCHELASTIC_RUN_ID" not in values:
            return cls()
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            rank, size, local_rank, local_size = (int(values[name]) for name in names)
            restarts = int(values.get("TORCHELASTIC_RESTART_COUNT", "0"))
        except (KeyError, ValueError):
            found = ", ".join(f"{name}={values.get(name)!r}" for name in names)
            raise UsageError(f"the environment of several processes is not complete ({found}); use torchrun") from None
        if not (0 <= rank < size and 0 <= local_rank < local_size <= size):
            raise UsageError(f"RANK={rank}, WORLD_SIZE={size}, LOCAL_RANK={local_rank} and "
                             f"LOCAL_WORLD_SIZE={local_size} do not fit together; use torchrun")  # fmt: skip
        if values.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes"):
            raise UsageError("FSDP is not supported: with Keras' variables it runs and trains wrongly; use torchrun")
        job = values.get("TORCHELASTIC_RUN_ID", "none")
        # Without a rendezvous id, torchrun gives all jobs the same one; its process ID then distinguishes them.
        return cls(rank, size, local_rank, local_size, restarts, job if job != "none" else f"torchrun-{os.getppid()}")
