"""Keeps the weights of the best epoch, in memory and in the model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


def higher_is_better(monitor: str) -> bool:
    """Whether a log entry is an accuracy, not a loss."""
    return monitor.endswith("accuracy")


class BestModel(keras.callbacks.Callback):
    """Remembers the best epoch's weights and saves each new best at once, so that a killed run leaves a model.

    Args:
        core: the model whose variables are kept.
        monitor: the log entry to compare: higher is better for an accuracy, lower for a loss.
        save: called with the epoch (from 1) when there is a new best; writes the file.

    Attributes:
        best_epoch: the epoch (from 1) of the best weights, 0 before any.
        weights: the best weights; never changed, only replaced.
    """

    def __init__(self, core: keras.Model, monitor: str, save: Callable[[int], object]) -> None:
        super().__init__()
        self.best_epoch = 0
        self._core = core
        self._monitor = monitor
        self._sign = 1.0 if higher_is_better(monitor) else -1.0
        self._save = save
        self._best = -np.inf
        self.weights: Sequence[NDArray[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares and, if better, keeps. Ties keep the earlier epoch."""
        value = self._sign * float((logs or {})[self._monitor])
        if value <= self._best:
            return
        self._best = value
        self.best_epoch = epoch + 1
        self.weights = self._core.get_weights()
        self._save(self.best_epoch)

    def restore(self) -> None:
        """Puts the best weights back into the model."""
        if self.weights:
            self._core.set_weights(list(self.weights))

    def state(self) -> dict[str, Any]:
        """Returns the best epoch and its monitor; the weights are kept apart, because they are large."""
        return {"best_epoch": self.best_epoch, "best": self._best if self.best_epoch else None}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes the best epoch back; `weights` must be set beside it."""
        self.best_epoch = state["best_epoch"]
        self._best = -np.inf if state["best"] is None else state["best"]
