"""What the processes of a job tell each other."""

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

from kcv.common.launch import SilentExit
from kcv.data.order import ProcessShard
from kcv.errors import KcvError, first_line

T = TypeVar("T")
P = ParamSpec("P")


class PeerLost(KcvError):
    """Another process of the job has ended."""


def _together(method: Callable[P, T]) -> Callable[P, T]:
    """Tells of a process that is gone in place of torch's own errors, which are plain RuntimeErrors with gloo."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with translate_peer_errors():
            return method(*args, **kwargs)

    return call


@contextmanager
def translate_peer_errors() -> Iterator[None]:
    """Turns torch's errors about a process that is gone into `PeerLost`.

    Raises:
        PeerLost: the block found that another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerLost(f"another process of the job has ended ({first_line(error)})") from None
        raise


class Group:
    """The processes of a job, or of a machine's part of it. All must make the same calls in the same order.

    Args:
        rank: this process's number, from 0.
        world_size: how many there are; with 1, every call returns at once.
        tensors: connects the devices; of the whole job by default.
        control: connects the hosts.

    Attributes:
        rank: as given.
        world_size: as given.
        local: those of them on this machine.
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
    def is_main_process(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    @property
    def share(self) -> ProcessShard:
        """This process's part of a common work."""
        return ProcessShard(self.rank, self.world_size)

    @_together
    def barrier(self) -> None:
        """Waits until all have come here."""
        if self.is_distributed:
            dist.barrier(group=self._control)

    @_together
    def broadcast(self, value: T | None = None) -> T:
        """Returns the first process's value, which the others need not name."""
        box: list[Any] = [value]
        if self.is_distributed:
            dist.broadcast_object_list(box, group=self._control, group_src=0)
        result: T = box[0]
        return result

    def run_on_main_process(self, work: Callable[[], T]) -> T:
        """Returns what `work` gives in the first process; the others wait for it.

        Raises:
            KcvError: as `work` raises it; in the other processes without a message.
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
        """Lets the first process of each machine through the block before the others: it fills the caches."""
        if not self.local.is_main_process:
            self.local.barrier()
        yield
        if self.local.is_main_process:
            self.local.barrier()

    def agrees_at(self, step: int) -> bool:
        """Whether the hosts agree after a step: after each among few processes; among many the ring takes too long."""
        return step % (1 + self.world_size // _MANY) == 0

    @_together
    def all_reduce_or(self, flags: int) -> int:
        """Returns the bits that any process has set: the hosts wait for each other, their devices do not."""
        if not self.is_distributed:
            return flags
        bits = torch.tensor([flags >> bit & 1 for bit in range(_FLAGS)], dtype=torch.uint8)
        dist.all_reduce(bits, dist.ReduceOp.MAX, group=self._control)
        return sum(int(value) << bit for bit, value in enumerate(bits))

    @_together
    def all_gather_object(self, value: T) -> list[T]:
        """Returns every process's value, by rank."""
        values: list[Any] = [value] * self.world_size
        if self.is_distributed:
            dist.all_gather_object(values, value, group=self._control)
        return values

    def all_gather_rows(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the rows of all processes one after the other, by rank."""
        return np.concatenate(self.all_gather_object(rows)) if self.is_distributed else rows

    @_together
    def all_reduce_floats(self, values: Sequence[float]) -> list[float]:
        """Returns sums over all processes, computed in double precision."""
        sums = torch.tensor(values, dtype=torch.float64)
        if self.is_distributed:
            dist.all_reduce(sums, group=self._control)
        return [float(value) for value in sums]

    @_together
    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor on the device by its sum over all processes."""
        if self.is_distributed:
            dist.all_reduce(tensor, group=self._tensors)
        return tensor

    @_together
    def start_all_reduce_mean(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begins to average tensors over all processes beside what follows; call the result to put the means there."""
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
        """Returns `run` such that the gradients of `parameters` are averaged over all processes in its backward pass.

        All begin with the parameters of the first.
        """
        return torch.nn.parallel.DistributedDataParallel(_Forward(parameters, run), gradient_as_bucket_view=True)


_FLAGS = 8
_MANY = 64  # processes, for each of which one step more passes between two agreements
SINGLE_PROCESS = Group()
"""The group of a process that nobody else works with."""


class _Forward(torch.nn.Module):
    """What DistributedDataParallel is put around: Keras' parameters, and the way through the model."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], run: Callable[..., Any]) -> None:
        super().__init__()
        self.shared = torch.nn.ParameterList(parameters)
        object.__setattr__(self, "_run", run)  # not to be searched for modules: the parameters are all there is

    def forward(self, *tensors: Tensor) -> Any:
        run: Any = self._run
        return run(*tensors)
