"""Opens a new or resumed run: its folder, lock, record and tracker."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras

from kcv.common.files import write_json, write_text
from kcv.common.launch import Launch
from kcv.common.untrusted import read_json
from kcv.config import Config
from kcv.data.dataset import Dataset
from kcv.distributed.group import Group
from kcv.errors import KcvError, OutputError
from kcv.exporting.mlflow_folder import mlflow_files
from kcv.inference.choice import signed_choice
from kcv.native.memory import enough_memory
from kcv.tracking import NoTracker, Status, Tracker, config_without_credentials, open_tracker
from kcv.tracking.system_metrics import SystemMetrics
from kcv.training.callbacks.control import Diverged
from kcv.training.data_records import data_records, describe_briefly
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.lock import lock
from kcv.training.resume.record import Record
from kcv.training.resume.writer import Writer
from kcv.training.run_folder import RunFolder

_log = logging.getLogger(__name__)

PARENT_TAG = "mlflow.parentRunId"
"""The tag by which MLflow shows a run below another one."""

_COPIES = 5
"""Checkpoint size relative to the model's variables: weights, two moments, a moving average, the best weights."""


@dataclass(frozen=True)
class ActiveRun:
    """A run in progress.

    Attributes:
        folder: the run folder.
        tracker: tracks the run.
        config: the run's configuration.
        extended: whether resuming needs the objects that were passed to `kcv.train`.
        before: seconds from the beginning of the run to the beginning of this process's part.
    """

    folder: RunFolder
    tracker: Tracker
    config: Config
    extended: bool = False
    before: float = 0.0

    def writer(self) -> Writer | None:
        """Returns the checkpoint writer, or None if the configuration disables checkpoints."""
        seconds = self.config.train.checkpoint_seconds
        return None if seconds is None else Writer(CheckpointStore(self.folder.resume), seconds)

    def log_model(self) -> None:
        """Logs the finished model to the tracker, as a model of MLflow."""
        log = getattr(self.tracker, "log_model", None)  # a tracker of the caller's own may have none
        if log is None or isinstance(self.tracker, NoTracker):
            return
        tracking = self.config.tracking
        log(mlflow_files(self.folder.model), register=tracking.register, alias=tracking.alias)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Reports the outcome of the block to the tracker, and logs how to resume if it failed."""
        status: Status = "FAILED"
        try:
            with enough_memory(), self._measured():
                yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            _log.info("interrupted; %s", self._way_on())
            raise
        except Diverged:
            raise  # resuming would end in the same way
        except KcvError:
            _log.info("stopped; %s", self._way_on())
            raise
        finally:
            self.tracker.finish(status)

    def _measured(self) -> AbstractContextManager[object]:
        """Returns a context in which the use of CPU and memory is recorded, if that is asked for."""
        if not self.config.tracking.system_metrics or isinstance(self.tracker, NoTracker):
            return nullcontext()
        return SystemMetrics(self.tracker, self.before)

    def _way_on(self) -> str:
        if self.config.train.checkpoint_seconds is None:
            return f"what there is, the best model among it, stays in {self.folder.path}"
        if self.extended:
            return f"to go on: kcv.train(resume={str(self.folder.path)!r}, ...) with what was passed to it"
        program = "torchrun ... -m kcv" if Launch.current().is_distributed else "python -m kcv"
        return f"to go on: {program} train --resume={shlex.quote(str(self.folder.path))}"


def open_run(
    config: Config,
    dataset: Dataset,
    environment: Mapping[str, Any],
    held: ExitStack,
    folder: RunFolder | None,
    record: Record | None,
    *,
    tracker: Tracker | None = None,
    extensions: Mapping[str, Any] | None = None,
) -> ActiveRun:
    """Creates a run's folder and record, or reopens those of the run to resume.

    Args:
        config: the run's configuration.
        dataset: the run's images.
        environment: the content of `environment.json`.
        held: receives the lock of a new folder.
        folder: the locked folder of the run to resume; None for a new run.
        record: the record of the run to resume.
        tracker: replaces the configured tracker; None uses the configured one.
        extensions: see `Record.of`.

    Raises:
        OutputError: the folder cannot be created, or is in use.
        TrackingError: the tracking store cannot be used. A new folder is then removed.
    """
    tracker = open_tracker(config.tracking) if tracker is None else tracker
    shown = config_without_credentials(config)
    parent = config.tracking.parent
    tags = {**environment, "note": describe_briefly(dataset, config.model.name)}
    if parent is not None:
        tags[PARENT_TAG] = parent
    extended = any((extensions or {}).get(key) for key in ("own_model", "callbacks", "metrics"))
    if folder is not None and record is not None:
        tracker.load_state_dict(record.tracking)
        tracker.start(folder.path.name, shown.flatten(), tags)
        _note_resumption(folder.environment, environment)
        _log_beginning(tracker, folder, dataset, shown)
        _log.info("run        %s, continued", folder.path)
        return ActiveRun(folder, tracker, config, extended, _seconds_since(folder.environment))
    folder = RunFolder.create(config)
    held.enter_context(lock(folder.lock))
    try:
        tracker.start(folder.path.name, shown.flatten(), tags)
    except KcvError:
        folder.discard()
        raise
    write_text(folder.config, shown.to_yaml())
    # Useful on this machine only, and private: not passed to trackers.
    write_json(folder.environment, {**environment, **signed_choice(shown, dataset.fingerprint, Path.cwd())})
    Record.of(shown, dataset, environment, tracker, extensions).write(folder.record)
    _log_beginning(tracker, folder, dataset, shown)
    _log.info("run        %s", folder.path)
    return ActiveRun(folder, tracker, config, extended)


def _log_beginning(tracker: Tracker, folder: RunFolder, dataset: Dataset, shown: Config) -> None:
    """Logs what is known before the first step, so that a run that is killed has it."""
    if type(tracker) is NoTracker:
        return
    log = getattr(tracker, "log_datasets", None)  # a tracker of the caller's own may have none
    if log is not None:
        log(data_records(dataset, shown.data.source))
    for path in (folder.config, folder.environment):
        tracker.log_artifacts(path)


def open_on_main_process(group: Group, begin: Callable[[], ActiveRun], config: Config) -> ActiveRun:
    """Opens a run on the main process and returns it on all; the other processes track nothing.

    Raises:
        KcvError: as raised by `begin`.
    """
    opened: list[ActiveRun] = []

    def first() -> RunFolder:
        opened.append(begin())
        return opened[0].folder

    folder = group.run_on_main_process(first)
    return opened[0] if opened else ActiveRun(folder, NoTracker(), config)


def find_interrupted(config: Config, launch: Launch) -> Path | None:
    """Returns the run that this job started before torchrun restarted its processes; None otherwise."""
    if launch.restarts == 0:
        return None
    runs = (Path("runs") / config.name).glob("*") if config.output_dir is None else [Path(config.output_dir)]
    for folder in sorted(map(RunFolder, runs), key=lambda run: run.path, reverse=True):
        environment = _read_environment(folder.environment)
        if environment.get("job") == launch.job and (folder.finished or os.path.isfile(folder.record)):
            _log.info("restarted  %s goes on", folder.path)
            return folder.path
    return None


def _note_resumption(path: Path, environment: Mapping[str, Any]) -> None:
    """Adds the time of resumption to the environment file. Damage to that file does not stop the run."""
    known = _read_environment(path)
    if not known:
        _log.warning("%s is missing or damaged; it is written again", path)
        known = dict(environment)
    before = known.get("resumed", [])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {**known, "resumed": [*(before if isinstance(before, list) else []), now]})


def _seconds_since(path: Path) -> float:
    """Returns the seconds since a run began, as its environment file tells; 0 if it does not."""
    try:
        began = datetime.fromisoformat(str(_read_environment(path).get("started")))
        return max(0.0, (datetime.now(UTC) - began).total_seconds())
    except (TypeError, ValueError):  # no time, or one without a zone
        return 0.0


def _read_environment(path: Path) -> dict[str, Any]:
    """Returns the content of the environment file, or an empty dict if it cannot be read."""
    try:
        values = read_json(path, OutputError)
    except KcvError:
        return {}
    return values if isinstance(values, dict) else {}


def require_space(folder: Path, model: keras.Model, config: Config) -> None:
    """Checks that a run's files fit on the disk before training starts.

    Args:
        folder: the run folder; it need not exist yet.
        model: the model whose weights are saved.
        config: the run's configuration.

    Raises:
        OutputError: the files do not fit.
    """
    weights = 4 * model.count_params()
    # Two checkpoints plus the one being written; the model file plus its replacement.
    needed = weights * (2 + (3 * _COPIES if config.train.checkpoint_seconds is not None else 0))
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.exists(place))
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 1e6:,.0f} MB are free on the disk, and the run needs up to {needed / 1e6:,.0f} MB for "
            "its model and checkpoints; make room, or use --train.checkpoint_seconds=none"
        )
