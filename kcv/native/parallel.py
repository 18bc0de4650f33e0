"""A native model trained by several processes, each on its own part of every batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
from torch import Tensor

from kcv.distributed.group import Group, translate_peer_errors
from kcv.errors import DeviceError
from kcv.native.layers.lowered import Target
from kcv.native.model import NativeModel
from kcv.native.statistics import learning


class ParallelModel(NativeModel):
    """A `NativeModel` whose gradients and moving statistics are combined over all processes.

    A batch is (images, targets, weight): this process's part and its weight, the number of its images relative to the
    average part. The average of the weighted gradients over the processes is then the gradient of the whole batch.
    In every step the moving statistics follow the average over all parts, so weights and statistics are identical in
    all processes, bit for bit, at any time.

    Args:
        core: as for `NativeModel`.
        group: the processes.
        target: as for `NativeModel`.
        compile_on_gpu: as for `NativeModel`.

    Raises:
        DeviceError: the parameters are sharded (FSDP), which Keras' optimizers would update incorrectly.
    """

    _group: Group
    _moving: Sequence[Tensor]
    _through_all: Callable[..., Any] | None

    def __init__(self, core: keras.Model, group: Group, *, target: Target, compile_on_gpu: bool = False) -> None:
        # Imported here, as a run of one process, which imports this module too, does without it and what it brings.
        from torch.distributed.tensor import DTensor

        if any(isinstance(variable.value, DTensor) for variable in core.variables):
            raise DeviceError("the model's parameters are sharded (FSDP), which trains Keras variables wrongly")
        super().__init__(core, target=target, compile_on_gpu=compile_on_gpu)
        self.on_device = False  # the processes exchange their gradients within a step
        self._keep("_group", group)
        self._weight = 1.0
        self._keep("_through_all", None)
        # With shared batch statistics all processes already move theirs identically.
        self._keep("_moving", () if target.all_reduce_sum is not None else moving_statistics(core))

    def train_step(self, data: Any) -> Any:
        """Performs one optimizer step, the same in all processes; None stands for a step already completed."""
        if data is None:
            return super().train_step(None)
        images, targets, weight = data
        self._weight = float(weight)
        return super().train_step((images, targets))

    def _training_pass(self, x: Any) -> Any:
        through_all = self._through_all
        if through_all is None:
            parameters = [variable.value for variable in self.trainable_variables]
            through_all = self._group.data_parallel(parameters, super()._training_pass)
            self._keep("_through_all", through_all)
        return through_all(x)

    def _keep(self, name: str, value: object) -> None:
        """Sets an attribute without Keras and torch tracking the parameters in it a second time."""
        object.__setattr__(self, name, value)

    def _differentiate(self, loss: Tensor) -> None:
        finish = self._group.start_all_reduce_mean(self._moving)
        with translate_peer_errors():
            super()._differentiate(loss * self._weight)
        finish()

    def _make_room(self, batch: Any, count: int) -> None:
        """Reports that a part does not fit into device memory.

        Raises:
            DeviceError: always, because smaller parts would need the other processes to take part.
        """
        raise DeviceError(
            f"{count} images a process do not fit into the device's memory; use a smaller batch_size, or more processes"
        )


def moving_statistics(core: keras.Model) -> list[Tensor]:
    """Returns the moving means and variances that training updates."""
    return [variable.value for layer in learning(core) for variable in (layer.moving_mean, layer.moving_variance)]


def parallel_target(target: Target, group: Group, *, sync_batchnorm: bool) -> Target:
    """Returns the lowering target for training with several processes.

    Args:
        target: the target for one process.
        group: the processes.
        sync_batchnorm: whether batch normalisation uses the statistics of the whole batch.
    """
    all_reduce_sum = group.all_reduce_sum if sync_batchnorm else None
    return replace(target, all_reduce_sum=all_reduce_sum, rank=group.rank)
