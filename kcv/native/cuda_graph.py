"""Records a training step as a CUDA graph, and replays it: one call of the host instead of hundreds.

A step of a convolutional network starts some hundred small kernels, and on a fast GPU starting them takes longer than
running them. See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kcv.errors import first_line

_log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps that run as they are: in them libraries choose their kernels, and optimizers make their state."""

MOST_RECORDINGS = 2
"""An epoch is divided into batches of two sizes; batches of any further size run as they are."""

Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Recording:
    """A recorded step.

    Attributes:
        inputs: the tensors that it reads.
        output: the tensor that it writes; each replay of any recording may overwrite it.
        replay: performs the step.
    """

    inputs: Sequence[Tensor]
    output: Tensor
    replay: Callable[[], None]


class Recorder:
    """Records steps as CUDA graphs, which share their memory: they must not run at the same time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run, tensors: Sequence[Tensor]) -> Recording:
        """Records a step on copies of its inputs, without performing it."""
        inputs = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy a checkpoint from the device at the same time, which the default mode forbids.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run(*inputs)
        return Recording(inputs, output, graph.replay)


class Replayed:
    """Performs a step, at first as it is and then by replaying a recording of it.

    Each size of batch has a recording, up to `MOST_RECORDINGS`. If a step cannot be recorded, all run as they are.

    Args:
        run: the step. It must not read what is on the device, and its numbers must not change from step to step.
        state: returns the tensors that the step reads or changes, other than its inputs. A recording holds their
            addresses: where one has moved, the step is recorded again.
        recorder: returns what makes the recordings.
    """

    def __init__(
        self,
        run: Run,
        state: Callable[[], Sequence[Tensor]],
        recorder: Callable[[], Callable[[Run, Sequence[Tensor]], Recording]] = Recorder,
    ) -> None:
        self._run = run
        self._state = state
        self._recorder = recorder
        self._record = recorder()
        self._performed: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, Recording] = {}
        self._addresses: list[int] = []
        self._possible = True

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Performs the step; its output is valid until the next one."""
        kind = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        recording = self._recording(kind, tensors) if self._possible else None
        if recording is None:
            return self._run(*tensors)
        for kept, tensor in zip(recording.inputs, tensors, strict=True):
            kept.copy_(tensor, non_blocking=True)
        recording.replay()
        return recording.output

    def _recording(self, kind: Hashable, tensors: Sequence[Tensor]) -> Recording | None:
        """Returns the recording for batches of a kind, made when its time has come; None if there is none."""
        if kind not in self._performed and len(self._performed) == MOST_RECORDINGS:
            return None
        self._performed[kind] += 1
        if self._performed[kind] <= WARM_UP:
            return None
        addresses = [tensor.data_ptr() for tensor in self._state()]
        if addresses != self._addresses:
            self._recordings.clear()
            self._record, self._addresses = self._recorder(), addresses
        if kind not in self._recordings:
            try:
                self._recordings[kind] = self._record(self._run, tensors)
            except Exception as error:  # a library may refuse to be recorded in ways of its own
                self._possible = False
                self._recordings.clear()
                _log.warning("a training step could not be recorded (%s); steps run as they are", first_line(error))
                return None
        return self._recordings[kind]
