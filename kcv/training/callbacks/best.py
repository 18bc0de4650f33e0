"""Keeps the weights of the best epoch, in memory and in the model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from numpy.typing import NDArray

from kcv.metrics.standing import UNKNOWN, Standing, standing


class BestModel(keras.callbacks.Callback):
    """Remembers the best epoch's weights and saves each new best at once, so that a killed run leaves a model.

    Args:
        core: the model whose variables are kept.
        monitor: the log entry that decides first; see `kcv.metrics.standing.standing`.
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
        self._save = save
        self._best: Standing | None = None
        self.weights: Sequence[NDArray[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Compares and, if no worse, keeps: of equal epochs the later one, which has learned longer."""
        found = standing(logs or {}, self._monitor)
        if found is None or (self._best is not None and found < self._best):
            return
        self._best = found
        self.best_epoch = epoch + 1
        self.weights = self._core.get_weights()
        self._save(self.best_epoch)

    def restore(self) -> None:
        """Puts the best weights back into the model."""
        if self.weights:
            self._core.set_weights(list(self.weights))

    def state(self) -> dict[str, Any]:
        """Returns the best epoch and its figures; the weights are kept apart, because they are large."""
        return {"best_epoch": self.best_epoch, "standing": self._best}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes the best epoch back; `weights` must be set beside it."""
        self.best_epoch = state["best_epoch"]
        if "standing" in state:
            self._best = None if state["standing"] is None else tuple(state["standing"])
        else:  # a checkpoint of kcv 0.1.0, which compared the monitor alone, losses with their sign changed
            self._best = None if state["best"] is None else (state["best"], UNKNOWN)
