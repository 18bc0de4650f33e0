"""What a person sees while a model trains: a bar on a terminal, a line an epoch everywhere."""

from __future__ import annotations

import logging
from typing import Any

import keras

from kcv.common.progress import Progress, duration

_log = logging.getLogger(__name__)


class Report(keras.callbacks.Callback):
    """Shows a progress bar during an epoch, and logs one line after it.

    Must come after the callbacks whose log entries the line shows.

    Args:
        count: images in an epoch.
        steps: batches in an epoch.
        epochs: epochs of the run.
    """

    def __init__(self, count: int, steps: int, epochs: int) -> None:
        super().__init__()
        self._count = count
        self._steps = steps
        self._epochs = epochs
        self._progress: Progress | None = None
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the epoch's bar."""
        self._done = 0
        self._progress = Progress(self._count, self._label(epoch))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        if self._progress is None:
            return
        # The parts of an epoch are equal but for one image; see TrainingBatches.
        done = round(self._count * (batch + 1) / self._steps)
        figures = logs or {}
        # Read only when the bar is drawn: computing them makes the host wait for the device.
        self._progress.advance(
            done - self._done, lambda: {key: figures[key] for key in ("loss", "accuracy") if key in figures}
        )
        self._done = done

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the bar and logs the epoch's line."""
        self.close()
        logs = logs or {}
        finished = epoch + 1
        # By the latest epoch: where a backbone is frozen at first, the ones before it say nothing of the rest.
        left = logs["seconds"] * (self._epochs - finished)
        _log.info(
            "%s  loss %.4f  accuracy %.4f  val_loss %.4f  val_accuracy %.4f  lr %.2e  %.0f images/s  %s%s",
            self._label(epoch),
            logs["loss"],
            logs["accuracy"],
            logs["val_loss"],
            logs["val_accuracy"],
            logs["learning_rate"],
            logs["images_per_second"],
            duration(logs["seconds"]),
            f"  {duration(left)} left" if finished < self._epochs else "",
        )

    def close(self) -> None:
        """Takes the bar away; safe to call at any time."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _label(self, epoch: int) -> str:
        return f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"
