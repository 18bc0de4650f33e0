"""The run folder: where everything that one training leaves behind lies."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kcv.common import leftovers
from kcv.common.files import expand_user, make_folder
from kcv.common.untrusted import inside
from kcv.config import Config
from kcv.errors import OutputError, UsageError

_NAMES = (
    "config.yaml", "environment.json", "evaluation", "history.csv", "metrics.json", "model.keras", "MODEL_CARD.md",
    "report.html", "resume",
)  # fmt: skip
"""What training reads and writes in its folder."""

_TEMPORARY = re.compile(r"\.(model|history|metrics|config|environment|report|MODEL_CARD)\.\w{8}\.\w+")
"""What earlier versions called a file that is being written."""


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of one run."""

    path: Path

    @classmethod
    def create(cls, config: Config) -> RunFolder:
        """Makes the folder: `output_dir`, or `runs/<name>/<time>`.

        Raises:
            OutputError: when it cannot be made or already holds a run.
        """
        if config.output_dir is not None:
            folder = cls(Path(config.output_dir))
            if os.path.lexists(folder.config):
                raise OutputError(f"{folder.path} already holds a run; choose another --output_dir or remove it")
            folder._make(exist_ok=True)
            folder.require_no_links()
            return folder
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        parent = Path("runs") / config.name
        for number in range(1, 100):
            # Two runs may start in the same second; the folder that mkdir makes is nobody else's.
            folder = cls(parent / (stamp if number == 1 else f"{stamp}_{number}"))
            if folder._make(exist_ok=False):
                return folder
        raise OutputError(f"cannot find a free name for the run below {parent}")

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Returns the folder of a run that is there.

        Raises:
            UsageError: there is none that could be continued.
            OutputError: it holds links that would be followed.
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
        """The resolved configuration; `kcv train` takes it again."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """The model with the best weights."""
        return self.path / "model.keras"

    @property
    def history(self) -> Path:
        """A row an epoch."""
        return self.path / "history.csv"

    @property
    def metrics(self) -> Path:
        """Metrics of the best weights, measured once at the end."""
        return self.path / "metrics.json"

    @property
    def evaluation(self) -> Path:
        """Tables and plots of the split that was measured at the end; `kcv evaluate` writes the same ones there."""
        return self.path / "evaluation"

    @property
    def environment(self) -> Path:
        """What the run was made with."""
        return self.path / "environment.json"

    @property
    def resume(self) -> Path:
        """What an unfinished run is continued from."""
        return self.path / "resume"

    @property
    def record(self) -> Path:
        """What the run began with."""
        return self.resume / "run.json"

    @property
    def lock(self) -> Path:
        """The file that keeps other trainings out."""
        return self.resume / "lock"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return os.path.isfile(self.metrics) and not os.path.isfile(self.record)

    def require_no_links(self) -> None:
        """Refuses a folder in which something that training reads or writes is a link.

        Somebody else may have made it: what is read would be sent or shown, and what is written lost.

        Raises:
            OutputError: naming the link.
        """
        for name in _NAMES:
            inside(self.path, name, error=OutputError)
        for place in (self.evaluation, self.resume):
            for root, folders, names in os.walk(place):
                for name in (*folders, *names):
                    inside(Path(root), name, error=OutputError)

    def close(self) -> None:
        """Removes what only an unfinished run needs."""
        shutil.rmtree(self.resume, ignore_errors=True)

    def sweep(self) -> None:
        """Removes the files that a killed process was writing, of which only hidden pieces are there."""
        leftovers.remove_from(self.path)
        for path in self.path.glob(".*"):
            if os.path.isfile(path) and _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes the folder if nothing but its lock has been put into it."""
        self.close()
        try:
            self.path.rmdir()
        except OSError:
            return  # not empty, or not ours to remove: then it stays

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
    """A finished training.

    Attributes:
        directory: the run folder.
        model_path: the model file with the best weights.
        metrics: as in `metrics.json`.
        history: the rows of `history.csv`.
        best_epoch: the epoch (from 1) whose weights were kept.
        seconds: wall time of the whole training call.
        tracking: where the tracker keeps the run, in words, or None.
    """

    directory: Path
    model_path: Path
    metrics: dict[str, Any]
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float
    tracking: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
