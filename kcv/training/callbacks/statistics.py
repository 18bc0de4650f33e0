"""Keeps short trainings from being judged by the moving statistics that they began with."""

from __future__ import annotations

from typing import Any

import keras

from kcv.data.batches import TrainingBatches
from kcv.distributed.group import Group
from kcv.native.statistics import re_estimate, share_of_beginning

_FADED = 1e-3
"""The part of the beginning that no longer matters: momentum 0.9 comes below it after 66 steps, 0.99 after 688."""

_IMAGES = 1_024
"""How many the statistics are estimated from; each has many positions, and more images hardly change the mean."""


class FreshStatistics(keras.callbacks.Callback):
    """Estimates the moving statistics of batch normalisation anew before a validation, for as long as steps are few.

    After an epoch in which they have caught up on their own it does nothing, so that a long training is as it would be
    without it. It must come after the callback that puts averaged weights in place: the statistics are to be theirs.

    Args:
        core: the model that is fitted.
        batches: the training batches.
        group: the processes.
    """

    def __init__(self, core: keras.Model, batches: TrainingBatches, group: Group) -> None:
        super().__init__()
        self._core = core
        self._batches = batches
        self._group = group
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers which epoch it is."""
        self._epoch = epoch

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Estimates, if need be, from the first batches of the epoch that is over."""
        # The optimizer's own count: that of the stage, which a continued run has again.
        if share_of_beginning(self._core, int(self.model.optimizer.iterations)) <= _FADED:
            return
        batches = self._batches
        size = -(-len(batches.images) // len(batches))
        batches.set_epoch(self._epoch, 0, min(len(batches), -(-_IMAGES // size)))
        re_estimate(self.model, (batch[0] for batch in batches), self._group)
        batches.set_epoch(self._epoch)
