"""Callbacks that time, average, write, show and track the metrics of an epoch.

All read the epoch's logs, so anything a metric or another callback adds there is written and shown as well.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import keras

from kcv.common.files import write_csv
from kcv.common.progress import Progress, duration
from kcv.data.batches import InferenceBatches
from kcv.data.dataset import Images
from kcv.distributed.group import Group
from kcv.tracking import Tracker

_log = logging.getLogger(__name__)

COLUMNS: Final = (
    "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds", "images_per_second",
)  # fmt: skip
"""The first columns of the history, in this order; additional metrics follow."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]{0,99}")
"""Metric names accepted by all files, plots and tracking stores."""


def is_figure_name(name: object) -> bool:
    """Whether a metric of this name can be stored in all files of a run."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name == name.strip()


def further_figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of an epoch's logs that are not in `COLUMNS`, in order."""
    return {
        name: float(value)
        for name, value in logs.items()
        if name not in COLUMNS and is_figure_name(name) and _is_number(value)
    }


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with several elements
        return False
    return not isinstance(value, str)


class TrainingData(Protocol):
    """Training batches with a settable epoch."""

    @property
    def images(self) -> Images:
        """The images of the batches."""
        ...

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Selects the epoch and its first step, both from 0."""
        ...

    def seen(self, epoch: int) -> int:
        """Returns how many images of an epoch this process sees."""
        ...


class AverageMetrics(keras.callbacks.Callback):
    """Averages epoch metrics over all processes, weighted by the number of images each has seen.

    Must be the first callback, so that all others read the same metrics in all processes. The logs of single steps
    still cover this process's own images only.

    Args:
        group: the processes.
        train: the training batches.
        val: the validation batches.
    """

    def __init__(self, group: Group, train: TrainingData, val: InferenceBatches) -> None:
        super().__init__()
        self._group = group
        self._train = train
        self._val = val

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Replaces the metrics with their averages."""
        if logs is None:
            return
        seen = float(self._train.seen(epoch)), float(len(self._val.images))
        weights = {name: seen[name.startswith("val_")] for name in logs}
        sums = self._group.all_reduce_floats([*(float(logs[name]) * weights[name] for name in logs), *weights.values()])
        for name, total, weight in zip(list(logs), sums, sums[len(logs) :], strict=False):
            logs[name] = total / weight


class EpochTimer(keras.callbacks.Callback):
    """Sets the epoch of the batches; adds `learning_rate`, `seconds` and `images_per_second` to the epoch's logs.

    Must come before the callbacks that read these entries. `seconds` is the wall time of the epoch including
    validation; `images_per_second` covers the training steps only.

    Args:
        batches: the training batches.
        clock: returns seconds; replaceable in tests.
    """

    def __init__(self, batches: TrainingData, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self._batches = batches
        self._clock = clock
        self._began = 0.0
        self._trained = 0.0
        self._before = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the epoch of the batches."""
        self._batches.set_epoch(epoch)
        self._began = self._trained = self._clock() - self._before
        self._before = 0.0

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Records the time at which training ended and validation began."""
        self._trained = self._clock()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the three entries."""
        if logs is None:
            return
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs["seconds"] = self._clock() - self._began
        logs["images_per_second"] = len(self._batches.images) / max(self._trained - self._began, 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """Returns the seconds elapsed in the current epoch."""
        return {"seconds": self._clock() - self._began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Adds the seconds before the interruption to the next epoch."""
        self._before = float(state["seconds"])


class CSVLogger(keras.callbacks.Callback):
    """Collects one row per epoch and rewrites the whole file after each, so that the file is never truncated.

    `keras.callbacks.CSVLogger` appends to its file, so a resumed run could not remove rows.

    Args:
        path: path of the CSV file; None writes no file.

    Attributes:
        rows: the rows of the file, as numbers; `epoch` counts from 1.
        preparation: seconds before the next epoch, for frozen features; they are part of its `seconds` in the file.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self.preparation = 0.0
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the epoch's row and writes the file."""
        logs = logs or {}
        documented = {key: float(logs[key]) for key in COLUMNS[1:]}
        # Not in the logs, from which the remaining time is predicted.
        documented["seconds"] += self.preparation
        self.preparation = 0.0
        self.rows.append({"epoch": epoch + 1, **documented, **further_figures(logs)})
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows, and the seconds that none of them contains yet."""
        return {"rows": list(self.rows), "preparation": self.preparation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the rows, and drops later rows from the file."""
        self.rows = [dict(row) for row in state["rows"]]
        self.preparation += float(state.get("preparation", 0.0))  # earlier versions had none
        if self.rows:
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            # A callback may add a metric in some epochs only.
            columns = list(dict.fromkeys([*COLUMNS, *(key for row in self.rows for key in row)]))
            write_csv(self._path, columns, [[row.get(key, math.nan) for key in columns] for row in self.rows])


class ProgressLogger(keras.callbacks.Callback):
    """Shows a progress bar during an epoch, and logs one line after it.

    Must come after the callbacks that add the log entries it shows.

    Args:
        count: images per epoch.
        steps: batches per epoch.
        epochs: number of epochs of the run.
        head_alone: number of first epochs that train the head alone; the time that is left does not follow from them.
    """

    def __init__(self, count: int, steps: int, epochs: int, head_alone: int = 0) -> None:
        super().__init__()
        self._head_alone = head_alone
        self._count = count
        self._steps = steps
        self._epochs = epochs
        self._progress: Progress | None = None
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Opens a progress bar for the epoch."""
        self._done = 0
        self._progress = Progress(self._count, self._label(epoch))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Advances the bar."""
        if self._progress is None:
            return
        # Batch sizes differ by at most one image; see TrainingBatches.
        done = round(self._count * (batch + 1) / self._steps)
        figures = logs or {}
        # Read only when the bar is drawn: computing metrics makes the host wait for the device.
        self._progress.advance(done - self._done, lambda: _running(figures))
        self._done = done

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Closes the bar and logs the epoch's line."""
        self.close()
        logs = logs or {}
        finished = epoch + 1
        # Based on the latest epoch, as machines get slower and faster.
        left = logs["seconds"] * (self._epochs - finished)
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        figures = {**{name: logs[name] for name in names}, **further_figures(logs)}
        _log.info(
            "%s  %s  lr %.2e  %.0f images/s  %s%s",
            self._label(epoch),
            "  ".join(f"{name} {value:.4f}" for name, value in figures.items()),
            logs["learning_rate"],
            logs["images_per_second"],
            duration(logs["seconds"]),
            f"  {duration(left)} left" if self._head_alone < finished < self._epochs else "",
        )

    def close(self) -> None:
        """Removes the bar; safe to call at any time."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _label(self, epoch: int) -> str:
        return f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"


def _running(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the epoch's running metrics: loss and accuracy first, as in the epoch's line."""
    return {key: logs[key] for key in ("loss", "accuracy") if key in logs} | further_figures(logs)


class TrackerCallback(keras.callbacks.Callback):
    """Logs the rows of the history to a tracker, with the epoch (from 1) as the step.

    Must come after the history's own callback.

    Args:
        tracker: receives the metrics.
        history: the rows of the run.
    """

    def __init__(self, tracker: Tracker, history: CSVLogger) -> None:
        super().__init__()
        self._tracker = tracker
        self._history = history

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch's metrics."""
        row = self._history.rows[-1]
        self._tracker.log_metrics({name: value for name, value in row.items() if name != "epoch"}, step=epoch + 1)
