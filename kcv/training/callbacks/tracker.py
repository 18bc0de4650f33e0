"""Sends each epoch's figures to the tracker."""

from __future__ import annotations

from typing import Any

import keras

from kcv.tracking import Tracker
from kcv.training.resume.content import COLUMNS


class Track(keras.callbacks.Callback):
    """Logs the columns of `history.csv` to a tracker, with the epoch (from 1) as the step."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch's figures."""
        logs = logs or {}
        self._tracker.log_metrics({key: float(logs[key]) for key in COLUMNS[1:]}, step=epoch + 1)
