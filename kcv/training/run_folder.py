"""The run folder, which holds everything that one training run writes."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kcv.common import leftovers
from kcv.common.files import expand_user, make_folder, require_absent
from kcv.common.untrusted import inside
from kcv.config import Config
from kcv.errors import OutputError, UsageError

_NAMES = (
    "config.yaml", "environment.json", "evaluation", "history.csv", "metrics.json", "model.keras", "MODEL_CARD.md",
    "report.html", "resume",
)  # fmt: skip
"""Names that training reads and writes in the run folder."""

_TEMPORARY = re.compile(r"\.(model|history|metrics|config|environment|report|MODEL_CARD)\.\w{8}\.\w+")
"""Temporary names that earlier versions gave to files while writing them."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run's files."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Creates the folder: `output_dir`, or `runs/<name>/<time>`.

        Raises:
            OutputError: the folder cannot be created, or already holds a run, or a file that one would write over.
        """
        if config.output_dir is not None:
            folder = cls(Path(config.output_dir))
            if os.path.lexists(folder.config):
                raise OutputError(f"{folder.path} already holds a run; choose another --output_dir or remove it")
            folder._make(exist_ok=True)
            folder.require_no_links()
            folder._require_free()
            return folder
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        parent = Path("runs") / config.name
        for number in range(1, 100):
            # Two runs may start in the same second; mkdir fails if the folder exists, so each run gets its own.
            folder = cls(parent / (stamp if number == 1 else f"{stamp}_{number}"))
            if folder._make(exist_ok=False):
                return folder
        raise OutputError(f"cannot find a free name for the run below {parent}")

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Returns the folder of an existing run.

        Raises:
            UsageError: there is no run that can be resumed.
            OutputError: the folder contains links that would be followed.
        """
        folder = cls(expand_user(path))
        folder.require_no_links()
        if not os.path.isfile(folder.config):
            raise UsageError(f"--resume={path}: no run there; a run folder holds config.yaml")
        if not folder.finished and not os.path.isfile(folder.record):
            raise UsageError(f"--resume={path}: the run left nothing to go on from")
        return folder

    @property
    def config(self) -> Path:
        """The resolved configuration, which can be passed to `kcv train` again."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The model with the weights of the kept epoch."""
        return self.path / "model.keras"

    @property
    def history(self) -> Path:
        """The training history, one row per epoch."""
        return self.path / "history.csv"

    @property
    def metrics(self) -> Path:
        """Metrics of these weights, computed once at the end."""
        return self.path / "metrics.json"

    @property
    def evaluation(self) -> Path:
        """Tables and plots of the split evaluated at the end; `kcv evaluate` writes the same files to this folder."""
        return self.path / "evaluation"

    @property
    def environment(self) -> Path:
        """The environment of the run: versions, device and command."""
        return self.path / "environment.json"

    @property
    def resume(self) -> Path:
        """The files that an unfinished run is resumed from."""
        return self.path / "resume"

    @property
    def record(self) -> Path:
        """The record of how the run began."""
        return self.resume / "run.json"

    @property
    def lock(self) -> Path:
        """The file that locks the run folder against other training processes."""
        return self.resume / "lock"

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return os.path.isfile(self.metrics) and not os.path.isfile(self.record)

    def require_no_links(self) -> None:
        """Refuses a folder in which a path that training reads or writes is a link.

        Someone else may have created the folder. A link could expose files that are read or overwrite files elsewhere.

        Raises:
            OutputError: names the link.
        """
        for name in _NAMES:
            inside(self.path, name, error=OutputError)
        for place in (self.evaluation, self.resume):
            for root, folders, names in os.walk(place):
                for name in (*folders, *names):
                    inside(Path(root), name, error=OutputError)

    def _require_free(self) -> None:
        """Refuses a folder in which a run would write over something, or remove it.

        Raises:
            OutputError: names it.
        """
        names = list(_NAMES)
        with suppress(OSError):
            leftovers.remove_from(self.resume)
            if set(os.listdir(self.resume)) <= {self.lock.name}:  # of a run that was killed before it could begin
                names.remove(self.resume.name)
        require_absent(self.path, names)

    def close(self) -> None:
        """Removes the files that only an unfinished run needs."""
        shutil.rmtree(self.resume, ignore_errors=True)

    def sweep(self) -> None:
        """Removes the hidden partial files that a killed process left behind."""
        leftovers.remove_from(self.path)
        for path in self.path.glob(".*"):
            if os.path.isfile(path) and _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes the folder if it contains nothing but its lock."""
        self.close()
        try:
            self.path.rmdir()
        except OSError:
            return  # not empty, or not ours to remove: it stays

    def _make(self, *, exist_ok: bool) -> bool:
        try:
            make_folder(self.path, exist_ok=exist_ok)
        except FileExistsError:
            if exist_ok:
                raise OutputError(f"{self.path} is a file; the run needs a folder") from None
            return False
        except OSError as error:
            shown = str(self.path) if len(str(self.path)) <= 200 else f"{str(self.path)[:197]}..."
            raise OutputError(f"cannot make the run folder {shown}: {error.strerror or error}") from None
        return True


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        directory: the run folder.
        model_path: the model file with the weights of the kept epoch.
        metrics: the content of `metrics.json`.
        history: the rows of `history.csv`.
        best_epoch: the epoch (from 1) whose weights were kept.
        seconds: wall time of the whole training call.
        tracking: a description of where the tracker keeps the run, or None.
    """

    directory: Path
    model_path: Path
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    tracking: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
