"""How this process was started: alone, or by torchrun as one of several that do one job together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kcv.errors import KcvError, UsageError


class SilentExit(KcvError):
    """What is wrong has been said by another process of the job; this one ends without a word."""


@dataclass(frozen=True)
class Launch:
    """What torchrun tells its processes, see https://docs.pytorch.org/docs/stable/elastic/run.html.

    Attributes:
        rank: the process's number, from 0.
        world_size: of how many.
        local_rank: its number on this machine, from 0.
        local_world_size: how many there are on this machine.
        restarts: how often torchrun has started the group anew.
        job: what is the same for all starts of one job, and no other's; None where nothing is.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restarts: int = 0
    job: str | None = None

    @classmethod
    def current(cls, environment: Mapping[str, str] | None = None) -> Launch:
        """Reads it from the environment; without `WORLD_SIZE` the process is alone.

        Raises:
            UsageError: the variables do not fit together.
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
        # Without a rendezvous id, torchrun gives all its jobs the same; its own process is then what tells them apart.
        return cls(rank, size, local_rank, local_size, restarts, job if job != "none" else f"torchrun-{os.getppid()}")

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1
