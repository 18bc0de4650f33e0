"""Communication between the processes of a job."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from kcv.common.launch import Ranked, SilentExit
from kcv.data.order import ProcessShard
from kcv.errors import KcvError, first_line

T = TypeVar("T")
P = ParamSpec("P")


class PeerLost(KcvError):
    """Another process of the job has ended."""


def _together(method: Callable[P, T]) -> Callable[P, T]:
    """Raises `PeerLost` in place of torch's own errors, which are plain RuntimeErrors with gloo."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with translate_peer_errors():
            return method(*args, **kwargs)

    return call


@contextmanager
def translate_peer_errors() -> Iterator[None]:
    """Turns torch's errors about a lost process into `PeerLost`.

    Raises:
        PeerLost: another process ended while the block ran.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerLost(f"another process of the job has ended ({first_line(error)})") from None
        raise


class Group(Ranked):
    """The processes of a job, or those of one machine. All of them must make the same calls in the same order.

    Args:
        rank: this process's rank, from 0.
        world_size: number of processes; with 1, every call returns immediately.
        tensors: torch process group for device tensors; by default that of the whole job.
        control: torch process group for host data.

    Attributes:
        rank: the rank passed in.
        world_size: the world size passed in.
        local: the group of this machine's processes.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        *,
        tensors: dist.ProcessGroup | None = None,
        control: dist.ProcessGroup | None = None,
        local: Group | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.local = local or self
        self._tensors = tensors
        self._control = control

    @property
    def share(self) -> ProcessShard:
        """This process's shard of shared work."""
        return ProcessShard(self.rank, self.world_size)

    @_together
    def barrier(self) -> None:
        """Waits until all processes have reached this call."""
        if self.is_distributed:
            dist.barrier(group=self._control)

    @_together
    def broadcast(self, value: T | None = None) -> T:
        """Returns the main process's value on all processes; the others need not pass one."""
        box: list[Any] = [value]
        if self.is_distributed:
            dist.broadcast_object_list(box, group=self._control, group_src=0)
        result: T = box[0]
        return result

    def run_on_main_process(self, work: Callable[[], T]) -> T:
        """Runs `work` on the main process and returns its result on all; the others wait.

        Raises:
            KcvError: raised by `work`; the other processes exit without a message.
        """
        if not self.is_distributed:
            return work()
        result: Any
        problem: str | None
        if not self.is_main_process:
            result, problem = self.broadcast(None)
            if problem is not None:
                raise SilentExit(problem)
        else:
            try:
                result = work()
            except KcvError as error:
                self.broadcast((None, str(error)))
                raise
            self.broadcast((result, None))
        found: T = result
        return found

    @contextmanager
    def local_main_process_first(self) -> Iterator[None]:
        """Lets the first process of each machine run the block before the others, so that it fills the caches."""
        if not self.local.is_main_process:
            self.local.barrier()
        yield
        if self.local.is_main_process:
            self.local.barrier()

    def agrees_at(self, step: int) -> bool:
        """Whether the hosts synchronise after this step: after each step, or less often with many processes."""
        return step % (1 + self.world_size // _MANY) == 0

    @_together
    def all_reduce_or(self, flags: int) -> int:
        """Returns the bitwise OR of all processes' flags; only the hosts wait for each other, not the devices."""
        if not self.is_distributed:
            return flags
        bits = torch.tensor([flags >> bit & 1 for bit in range(_FLAGS)], dtype=torch.uint8)
        dist.all_reduce(bits, dist.ReduceOp.MAX, group=self._control)
        return sum(int(value) << bit for bit, value in enumerate(bits))

    @_together
    def all_gather_object(self, value: T) -> list[T]:
        """Returns the values of all processes, ordered by rank."""
        values: list[Any] = [value] * self.world_size
        if self.is_distributed:
            dist.all_gather_object(values, value, group=self._control)
        return values

    def all_gather_rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the rows of all processes, concatenated by rank."""
        return np.concatenate(self.all_gather_object(rows)) if self.is_distributed else rows

    @_together
    def all_reduce_floats(self, values: Sequence[float]) -> list[float]:
        """Returns the sums over all processes, computed in double precision."""
        sums = torch.tensor(values, dtype=torch.float64)
        if self.is_distributed:
            dist.all_reduce(sums, group=self._control)
        return [float(value) for value in sums]

    @_together
    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Replaces a device tensor with its sum over all processes."""
        if self.is_distributed:
            dist.all_reduce(tensor, group=self._tensors)
        return tensor

    @_together
    def start_all_reduce_mean(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Starts averaging tensors over all processes in the background; call the result to store the means."""
        if not (self.is_distributed and tensors):
            return lambda: None
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        work = dist.all_reduce(flat, group=self._tensors, async_op=True)

        def finish() -> None:
            with translate_peer_errors(), torch.no_grad():
                work.wait()
                means = torch.split(flat.div_(self.world_size), [tensor.numel() for tensor in tensors])
                for tensor, mean in zip(tensors, means, strict=True):
                    tensor.copy_(mean.view(tensor.shape))

        return finish

    @_together
    def data_parallel(self, parameters: Sequence[torch.nn.Parameter], run: Callable[..., Any]) -> Callable[..., Any]:
        """Returns `run` with the gradients of `parameters` averaged over all processes in its backward pass.

        All processes start with the main process's parameters.
        """
        return torch.nn.parallel.DistributedDataParallel(_Forward(parameters, run), gradient_as_bucket_view=True)


_FLAGS = 8
_MANY = 64  # for every 64 processes, one more step passes between two synchronisations
SINGLE_PROCESS = Group()
"""The group of a process that works alone."""


class _Forward(torch.nn.Module):
    """The module wrapped by DistributedDataParallel: Keras' parameters and the model's forward function."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], run: Callable[..., Any]) -> None:
        super().__init__()
        self.shared = torch.nn.ParameterList(parameters)
        object.__setattr__(self, "_run", run)  # hidden from torch's module search: `shared` already has all parameters

    def forward(self, *tensors: Tensor) -> Any:
        run: Any = self._run
        return run(*tensors)
