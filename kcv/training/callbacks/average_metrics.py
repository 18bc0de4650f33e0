"""Makes the figures of an epoch those of all processes."""

from __future__ import annotations

from typing import Any

import keras

from kcv.data.batches import InferenceBatches
from kcv.distributed.group import Group
from kcv.training.callbacks.epoch_timer import Epochs


class CommonLogs(keras.callbacks.Callback):
    """Averages losses and accuracies over all processes, weighed by the images that each has seen.

    Must be the first callback: all others are to read the same figures in all processes. The logs of single steps stay
    those of the process's own images.

    Args:
        group: the processes.
        train: the training batches.
        val: the validation batches.
    """

    def __init__(self, group: Group, train: Epochs, val: InferenceBatches) -> None:
        super().__init__()
        self._group = group
        self._train = train
        self._val = val

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replaces the figures."""
        if logs is None:
            return
        seen = float(self._train.seen(epoch)), float(len(self._val.images))
        weights = {name: seen[name.startswith("val_")] for name in logs}
        sums = self._group.total([*(float(logs[name]) * weights[name] for name in logs), *weights.values()])
        for name, total, weight in zip(list(logs), sums, sums[len(logs) :], strict=False):
            logs[name] = total / weight
