"""Connects the processes started by torchrun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from kcv.common.launch import Launch, SilentExit
from kcv.distributed.group import SINGLE_PROCESS, Group, PeerLost, translate_peer_errors


@contextmanager
def connect() -> Iterator[Group]:
    """Connects the processes started by torchrun while the block runs.

    Raises:
        UsageError: the environment variables were not set by torchrun.
        PeerLost: another process has ended. Only the main process reports it; the others raise `SilentExit`.
    """
    launch = Launch.current()
    if not launch.is_distributed:
        yield SINGLE_PROCESS
        return
    try:
        with translate_peer_errors():
            if torch.cuda.is_available():
                torch.cuda.set_device(launch.local_rank)
            store, rank, size = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
            # torchrun keeps its store when it restarts the processes, including the addresses of dead ones.
            store = dist.PrefixStore(f"kcv/{launch.restarts}", store)  # type: ignore[attr-defined]
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        try:
            with translate_peer_errors():
                group = _groups(launch)
            yield group
        finally:
            dist.destroy_process_group()
    except PeerLost as error:
        if launch.is_main_process:
            raise
        raise SilentExit(str(error)) from None


def _groups(launch: Launch) -> Group:
    control: Any = dist.new_group(backend="gloo")
    tensors: Any = dist.new_group()  # not the gradients' group, whose order of calls DistributedDataParallel controls
    machines: list[tuple[int, ...]] = [()] * launch.world_size
    dist.all_gather_object(machines, (launch.rank - launch.local_rank, launch.local_world_size), group=control)
    local = None
    for begin, count in sorted(set(machines)):
        members: Any = dist.new_group(list(range(begin, begin + count)), backend="gloo")
        if begin <= launch.rank < begin + count:
            local = Group(launch.local_rank, launch.local_world_size, tensors=members, control=members)
    return Group(launch.rank, launch.world_size, tensors=tensors, control=control, local=local)
