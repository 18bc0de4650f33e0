"""Stops when no epoch has been better for some time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kcv.metrics.standing import UNKNOWN, Standing, higher_is_better, standing


class Patience(keras.callbacks.Callback):
    """Ends a training after some epochs in a row of which none was better than the best before.

    `keras.callbacks.EarlyStopping` compares one figure, and takes an epoch that is no better in it for a lost one.

    Args:
        monitor: see `kcv.metrics.standing.standing`.
        patience: how many epochs, 1 or more.

    Attributes:
        wait: epochs since the best.
        best: what that one is compared by; None before any.
    """

    def __init__(self, monitor: str, patience: int) -> None:
        super().__init__()
        self.wait = 0
        self.best: Standing | None = None
        self._monitor = monitor
        self._patience = patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts, and stops the model's `fit` where it has been long enough."""
        found = standing(logs or {}, self._monitor)
        # One that is equal in all is no progress: else a training that stands still would never end.
        if found is not None and (self.best is None or found > self.best):
            self.wait, self.best = 0, found
            return
        self.wait += 1
        if self.wait >= self._patience:
            self.model.stop_training = True

    def state(self) -> dict[str, Any]:
        """Returns how long it has waited for what."""
        return {"wait": self.wait, "standing": self.best}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on waiting."""
        self.wait = state["wait"]
        if "standing" in state:
            self.best = None if state["standing"] is None else tuple(state["standing"])
        elif state["best"] is not None:  # a checkpoint of kcv 0.1.0, which compared the monitor alone
            self.best = (state["best"] if higher_is_better(self._monitor) else -state["best"], UNKNOWN)
