"""Figures of an epoch on their way to people and files: measured, averaged, written, shown and tracked.

All read them from the logs of the epoch. Whatever a metric or another callback puts there is written and shown as well.
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
"""Of every row of the history, in this order; those of further metrics come after them."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]{0,99}")
"""Of a figure: what files, plots and tracking stores all take."""


def is_figure_name(name: object) -> bool:
    """Whether a figure of this name can stand in all files of a run."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and name == name.strip()


def further_figures(logs: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of an epoch's logs that are none of `COLUMNS`, in their order."""
    return {
        name: float(value)
        for name, value in logs.items()
        if name not in COLUMNS and is_figure_name(name) and _is_number(value)
    }


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        return False
    return not isinstance(value, str)


class TrainingData(Protocol):
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


class AverageMetrics(keras.callbacks.Callback):
    """Averages the figures of an epoch over all processes, weighted by the images that each has seen.

    Must be the first callback: all others are to read the same figures in all processes. The logs of single steps stay
    those of the process's own images.

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
        """Replaces the figures."""
        if logs is None:
            return
        seen = float(self._train.seen(epoch)), float(len(self._val.images))
        weights = {name: seen[name.startswith("val_")] for name in logs}
        sums = self._group.all_reduce_floats([*(float(logs[name]) * weights[name] for name in logs), *weights.values()])
        for name, total, weight in zip(list(logs), sums, sums[len(logs) :], strict=False):
            logs[name] = total / weight


class EpochTimer(keras.callbacks.Callback):
    """Sets the epoch of the batches; adds `learning_rate`, `seconds` and `images_per_second` to the epoch's logs.

    Must come before the callbacks that read what it adds. `seconds` is the wall time of the epoch, validation included;
    `images_per_second` is of the training steps alone.

    Args:
        batches: the training batches.
        clock: returns seconds; replaceable so that tests need no real time.
    """

    def __init__(self, batches: TrainingData, clock: Callable[[], float] = time.perf_counter) -> None:
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

    def state_dict(self) -> dict[str, Any]:
        """Returns the seconds of the epoch so far."""
        return {"seconds": self._clock() - self._began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Counts the seconds before the interruption to the next epoch that begins."""
        self._before = float(state["seconds"])


class CSVLogger(keras.callbacks.Callback):
    """Collects one row per epoch and rewrites the file whole after each, so that it is never cut in the middle.

    `keras.callbacks.CSVLogger` appends to its file as it goes, and a continued run could not take rows back.

    Args:
        path: of the CSV file; None for none.

    Attributes:
        rows: what the file holds, as numbers; `epoch` counts from 1.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the epoch's row and writes the file."""
        logs = logs or {}
        documented = {key: float(logs[key]) for key in COLUMNS[1:]}
        self.rows.append({"epoch": epoch + 1, **documented, **further_figures(logs)})
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows."""
        return {"rows": list(self.rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes the rows back, and out of the file what came after them."""
        self.rows = [dict(row) for row in state["rows"]]
        if self.rows:
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            # A callback may add a figure in some epochs only.
            columns = list(dict.fromkeys([*COLUMNS, *(key for row in self.rows for key in row)]))
            write_csv(self._path, columns, [[row.get(key, math.nan) for key in columns] for row in self.rows])


class ProgressLogger(keras.callbacks.Callback):
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
        self._progress.advance(done - self._done, lambda: _running(figures))
        self._done = done

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the bar and logs the epoch's line."""
        self.close()
        logs = logs or {}
        finished = epoch + 1
        # By the latest epoch: where a backbone is frozen at first, the ones before it say nothing of the rest.
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
            f"  {duration(left)} left" if finished < self._epochs else "",
        )

    def close(self) -> None:
        """Takes the bar away; safe to call at any time."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _label(self, epoch: int) -> str:
        return f"epoch {epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"


def _running(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of the epoch so far: loss and accuracy first, as in the epoch's line."""
    return {key: logs[key] for key in ("loss", "accuracy") if key in logs} | further_figures(logs)


class TrackerCallback(keras.callbacks.Callback):
    """Logs the columns of `history.csv` to a tracker, with the epoch (from 1) as the step."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Logs the epoch's figures."""
        logs = logs or {}
        documented = {key: float(logs[key]) for key in COLUMNS[1:]}
        self._tracker.log_metrics({**documented, **further_figures(logs)}, step=epoch + 1)
