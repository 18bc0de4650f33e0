"""A run that begins or goes on: its folder, its lock, its record, its tracker."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from kcv.inference.choice import signed_choice
from kcv.native.memory import enough_memory
from kcv.tracking import NoTracker, Status, Tracker, config_without_credentials, open_tracker
from kcv.training.callbacks.control import Diverged
from kcv.training.resume.lock import lock
from kcv.training.resume.record import Record
from kcv.training.resume.store import CheckpointStore
from kcv.training.resume.writer import Writer
from kcv.training.run_folder import RunFolder

_log = logging.getLogger(__name__)

_COPIES = 5
"""Variables of a checkpoint over those of the model: weights, two moments, a moving average, the best weights."""


@dataclass(frozen=True)
class ActiveRun:
    """A run under way.

    Attributes:
        folder: its files.
        tracker: records it.
        config: of the run.
        extended: whether it needs what was passed to `kcv.train` to go on.
    """

    folder: RunFolder
    tracker: Tracker
    config: Config
    extended: bool = False

    def writer(self) -> Writer | None:
        """Returns what writes its checkpoints; None where the configuration wants none."""
        seconds = self.config.train.checkpoint_seconds
        return None if seconds is None else Writer(CheckpointStore(self.folder.resume), seconds)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Tells the tracker how the block ends, and the user how to go on where it does not end well."""
        status: Status = "FAILED"
        try:
            with enough_memory():
                yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            _log.info("interrupted; %s", self._way_on())
            raise
        except Diverged:
            raise  # on the same way it would end the same
        except KcvError:
            _log.info("stopped; %s", self._way_on())
            raise
        finally:
            self.tracker.finish(status)

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
    """Makes a run's folder and record, or takes up those of the run to continue.

    Args:
        config: of the run.
        dataset: its images.
        environment: for `environment.json`.
        held: gets the lock of a new folder.
        folder: of the run to continue, locked; None for a new one.
        record: of the run to continue.
        tracker: in place of the configured one; None for that one.
        extensions: see `Record.of`.

    Raises:
        OutputError: the folder cannot be made, or is in use.
        TrackingError: the store cannot be used. A new folder is then removed.
    """
    tracker = open_tracker(config.tracking) if tracker is None else tracker
    shown = config_without_credentials(config)
    extended = any((extensions or {}).get(key) for key in ("own_model", "callbacks", "metrics"))
    if folder is not None and record is not None:
        tracker.load_state_dict(record.tracking)
        tracker.start(folder.path.name, shown.flatten(), environment)
        _note_resumption(folder.environment, environment)
        _log.info("run        %s, continued", folder.path)
        return ActiveRun(folder, tracker, config, extended)
    folder = RunFolder.create(config)
    held.enter_context(lock(folder.lock))
    try:
        tracker.start(folder.path.name, shown.flatten(), environment)
    except KcvError:
        folder.discard()
        raise
    write_text(folder.config, shown.to_yaml())
    # Of use on this machine alone, and nobody else's business: trackers are not told.
    write_json(folder.environment, {**environment, **signed_choice(shown, dataset.fingerprint, Path.cwd())})
    Record.of(shown, dataset, environment, tracker, extensions).write(folder.record)
    _log.info("run        %s", folder.path)
    return ActiveRun(folder, tracker, config, extended)


def open_on_main_process(group: Group, begin: Callable[[], ActiveRun], config: Config) -> ActiveRun:
    """Returns a run that the first process begins or takes up; the others track nothing.

    Raises:
        KcvError: as `begin` raises it.
    """
    opened: list[ActiveRun] = []

    def first() -> RunFolder:
        opened.append(begin())
        return opened[0].folder

    folder = group.run_on_main_process(first)
    return opened[0] if opened else ActiveRun(folder, NoTracker(), config)


def find_interrupted(config: Config, launch: Launch) -> Path | None:
    """Returns the run that this job has begun, where torchrun has started its processes anew; else None."""
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
    """Adds to what a run was made with that it goes on now. Damage to that file is no reason to lose the run."""
    known = _read_environment(path)
    if not known:
        _log.warning("%s is missing or damaged; it is written anew", path)
        known = dict(environment)
    before = known.get("resumed", [])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(path, {**known, "resumed": [*(before if isinstance(before, list) else []), now]})


def _read_environment(path: Path) -> dict[str, Any]:
    """Returns what a run was made with; nothing where that cannot be read."""
    try:
        values = read_json(path, OutputError)
    except KcvError:
        return {}
    return values if isinstance(values, dict) else {}


def require_space(folder: Path, model: keras.Model, config: Config) -> None:
    """Checks that a run's files fit on the disk, before hours are spent on them.

    Args:
        folder: of the run; it need not be there yet.
        model: whose weights are kept.
        config: of the run.

    Raises:
        OutputError: they do not.
    """
    weights = 4 * model.count_params()
    # Two checkpoints and the one that is being written; the model file, and the one that replaces it.
    needed = weights * (2 + (3 * _COPIES if config.train.checkpoint_seconds is not None else 0))
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.exists(place))
    free = shutil.disk_usage(there).free
    if free < needed:
        raise OutputError(
            f"{folder}: {free / 1e6:,.0f} MB are free on the disk, and the run needs up to {needed / 1e6:,.0f} MB for "
            "its model and checkpoints; make room, or use --train.checkpoint_seconds=none"
        )
