"""Decides how a training call starts: a new run, a resumed run, or a run that has already finished."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kcv import artifact
from kcv.common.launch import Launch
from kcv.common.untrusted import read, read_json, refusing
from kcv.config import AUTO, Config
from kcv.errors import ConfigError, DataError, UsageError
from kcv.inference import splits
from kcv.models.own import OwnName
from kcv.reporting.material import read_history
from kcv.tracking import open_tracker
from kcv.tracking.system_metrics import require_psutil
from kcv.training import automatic
from kcv.training.extensions import Extensions
from kcv.training.own_function import OwnFunction, load
from kcv.training.resume.checkpoint_store import CheckpointStore
from kcv.training.resume.consent import MODEL, TRACKING, require_named
from kcv.training.resume.content import Plan
from kcv.training.resume.lock import lock
from kcv.training.resume.record import Record, differences
from kcv.training.resume.state import State
from kcv.training.run_folder import Run, RunFolder
from kcv.training.run_setup import find_interrupted

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The starting point of a training call.

    Attributes:
        config: the run's configuration.
        folder: the locked folder of the run to resume; None for a new run.
        record: the record of how that run began.
        state: its last checkpoint; None if it has none.
        began_in: the folder that the data path is relative to; None for the working folder.
        own_folder: the folder that the path of the user's own model is relative to; empty for the working folder.
    """

    config: Config
    folder: RunFolder | None = None
    record: Record | None = None
    state: State | None = None
    began_in: Path | None = None
    own_folder: Path = Path()

    def own_function(self) -> OwnFunction | None:
        """Imports the function that builds the user's own model; None if the configuration names none.

        Raises:
            UsageError: it cannot be imported, or has changed since the run began.
        """
        name = OwnName.find(self.config.model.name)
        if name is None:
            return None
        if self.record is None:
            return load(name, self.own_folder)
        if self.record.own_source is None:
            raise UsageError("--resume: the run does not say which code its model was built by, so it is not imported")
        return load(name, self.own_folder, self.record.own_source.sha256)


class _Figures(BaseModel):
    """The fields of `metrics.json` that are displayed; all others pass through unchanged."""

    model_config = ConfigDict(strict=True, extra="allow")

    split: str
    accuracy: float
    accuracy_ci95: Annotated[list[float], Field(min_length=2, max_length=2)]
    n: int


def start(
    config: Config | None,
    resume: str | Path | None,
    named: Collection[str] | None,
    held: ExitStack,
    extensions: Extensions | None = None,
) -> Start | Run:
    """Opens the run to resume, if any; with several processes, called on the main process.

    Args:
        config: see `kcv.train`.
        resume: see `kcv.train`.
        named: see `kcv.train`.
        held: receives the lock of the folder.
        extensions: see `kcv.train`.

    Returns:
        What to train, or the run if it has already finished.

    Raises:
        KcvError: there is no run to resume, or it cannot be resumed with these arguments.
    """
    if resume is None:
        resume = find_interrupted(config or Config(), Launch.current())
    extensions = extensions or Extensions()
    extensions.check()
    if resume is None:
        config = extensions.fit_into(config or Config())
        _require_tracking(config, extensions)
        return Start(config)
    if named is None and config is None:
        named = ()
    if named is not None and extensions.tracker is not None:
        named = {*named, TRACKING}  # the tracker named in the folder is not used
    folder = RunFolder.existing(resume)
    own = Config.load(folder.config)
    if folder.finished:
        if config is not None:
            _require_same(automatic.as_begun(config, own.flatten()), own, folder)
        _log.info("finished   %s has come to its end before; there is nothing to go on with", folder.path)
        return finished(folder)
    held.enter_context(lock(folder.lock))
    record = Record.read(folder.record)
    record.require_extensions(extensions.described())
    asked = extensions.fit_into(config or own)
    config = automatic.as_begun(asked, record.config)
    if named is None and asked.model.name == AUTO:
        named = asked.given().keys()  # all other keys are now those of the folder
    record.require(config)
    require_named(config, record, named, folder.path)
    _require_tracking(config, extensions)
    folder.sweep()
    state = CheckpointStore(folder.resume).newest(Plan.of(config, record).check)
    named_anew = config.data.source != record.config.get("data.source")
    began_in = None if named_anew else splits.working_folder(folder.path)
    own_folder = Path() if named is None or MODEL in named else splits.working_folder(folder.path)
    return Start(config, folder, record, state, began_in, own_folder)


def _require_tracking(config: Config, extensions: Extensions) -> None:
    """Refuses a tracker that cannot be used, or whose package is missing, before the data are read."""
    if extensions.tracker is None:
        open_tracker(config.tracking)
    if config.tracking.system_metrics:
        require_psutil()


def finished(folder: RunFolder) -> Run:
    """Returns a finished run, read from its files.

    Raises:
        KcvError: one of them is missing or damaged.
    """
    rows = read_history(folder.history)
    info = artifact.read_info(folder.model)
    figures, environment = read(folder.metrics, _Figures, DataError).model_dump(), _object(folder.environment)
    with refusing(folder.history, DataError):
        seconds = sum(row["seconds"] for row in rows)
    return Run(
        directory=folder.path,
        model_path=folder.model,
        metrics=figures,
        history=rows,
        best_epoch=info.best_epoch or 0,
        seconds=seconds,
        environment=environment,
    )


def _require_same(config: Config, own: Config, folder: RunFolder) -> None:
    """Refuses to change the configuration of a finished run."""
    if problems := differences(config, own.flatten(), "the run has ended with"):
        problems.append(
            f"a finished run is not trained on; begin a new one with its weights: --model.weights={folder.model}"
        )
        raise ConfigError(problems, "--resume")


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path, DataError)
    if not isinstance(values, dict):
        raise DataError(f"{path}: is damaged: it holds no object")
    return values
