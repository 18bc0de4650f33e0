"""Tells the batches which epoch it is, and adds to the epoch's logs what only the clock and the optimizer know."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import keras

from kcv.data.dataset import Images


class Epochs(Protocol):
    """Training batches that are told which epoch it is."""

    @property
    def images(self) -> Images:
        """What they are made of."""
        ...

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Chooses the epoch and its first step, both from 0."""
        ...

    def seen(self, epoch: int) -> int:
        """Returns how many images of an epoch this process gets."""
        ...


class EpochClock(keras.callbacks.Callback):
    """Sets the epoch of the batches; adds `learning_rate`, `seconds` and `images_per_second` to the epoch's logs.

    Must be the first callback: the others read what it adds. `seconds` is the wall time of the epoch, validation
    included; `images_per_second` is of the training steps alone.

    Args:
        batches: the training batches.
        clock: returns seconds; replaceable so that tests need no real time.
    """

    def __init__(self, batches: Epochs, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._batches = batches
        self._clock = clock
        self._began = 0.0
        self._trained = 0.0
        self._before = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the batches to this epoch."""
        self._batches.set_epoch(epoch)
        self._began = self._trained = self._clock() - self._before
        self._before = 0.0

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Notes when training ended and validation began."""
        self._trained = self._clock()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the three entries."""
        if logs is None:
            return
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["seconds"] = self._clock() - self._began
        logs["images_per_second"] = len(self._batches.images) / max(self._trained - self._began, 1e-9)

    def state(self) -> dict[str, Any]:
        """Returns the seconds of the epoch so far."""
        return {"seconds": self._clock() - self._began}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Counts the seconds before the interruption to the next epoch that begins."""
        self._before = float(state["seconds"])
