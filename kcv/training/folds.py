"""The folder of a training in folds: its plan, and the run folders in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from kcv.common import seal
from kcv.common.files import remove, require_absent, write_json, write_text
from kcv.common.untrusted import inside, read
from kcv.config import Config
from kcv.data.fold import FEWEST_FOLDS, MOST_FOLDS, Fold
from kcv.errors import ConfigError, DataError, OutputError, UsageError
from kcv.inference.out_of_fold import FILE as OUT_OF_FOLD
from kcv.reporting.label_errors import CSV, PAGE
from kcv.tracking import config_without_credentials
from kcv.training.automatic import as_begun
from kcv.training.resume.record import differences
from kcv.training.run_folder import RunFolder

PLAN: Final = "folds.json"
FINAL: Final = "final"
ENSEMBLE: Final = "ensemble.onnx"

_Text = Annotated[str, Field(max_length=10_000)]


def is_folds_folder(folder: Path) -> bool:
    """Returns whether a folder is one of a training in folds."""
    return os.path.isfile(folder / PLAN)


@dataclass(frozen=True)
class Folds:
    """A finished training in folds.

    Attributes:
        directory: its folder.
        model_path: the model to use.
        metrics: the content of its `metrics.json`, of the out-of-fold predictions: as for `kcv.metrics.summarize`, with
            `folds`, a list of the figures of each fold, and `final`, the metrics of the final model.
        seconds: wall time of the whole call.
    """

    directory: Path
    model_path: Path
    metrics: dict[str, Any]
    seconds: float


class Plan(BaseModel):
    """How a training in folds began; `folds.json`.

    Attributes:
        folds: the number of folds.
        digest: of the assignment of the images, see `kcv.data.folds.digest_of`.
        fingerprint: of the data.
        ensemble: whether the models of the folds become one file, in place of a final model.
        config: the configuration that all runs share, as dotted keys and plain values.
        working_folder: the folder that relative paths start from.
        sha256: SHA-256 (hex) of all other fields.
        signature: proves that this user wrote the plan; None if no key could be stored.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    folds: Annotated[int, Field(ge=FEWEST_FOLDS, le=MOST_FOLDS)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    fingerprint: _Text
    ensemble: bool
    config: dict[str, Any]
    working_folder: _Text
    sha256: _Text | None = None
    signature: _Text | None = None

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """Reads the plan of a folder.

        Raises:
            DataError: it is missing or damaged.
        """
        path = inside(folder, PLAN, error=DataError)
        found = read(path, cls, DataError)
        if found.sha256 != seal.checksum(found._content()):
            raise DataError(f"{path}: is damaged: its checksum is of other content")
        return found

    def write(self, folder: Path) -> None:
        """Writes the plan with a checksum and this user's signature.

        Raises:
            OutputError: it cannot be written.
        """
        content = self._content()
        signed = {"sha256": seal.checksum(content), "signature": seal.signature(content)}
        write_json(folder / PLAN, {**content, **signed})

    @property
    def own(self) -> bool:
        """Whether this user began the training on this machine, and the plan is unchanged since."""
        return seal.is_own(self._content(), self.signature)

    def _content(self) -> dict[str, Any]:
        return self.model_dump(exclude={"sha256", "signature"})

    def require(self, config: Config, folds: int | None, *, ensemble: bool) -> Config:
        """Returns the configuration to go on with: the given one, with what was chosen at the start.

        Raises:
            ConfigError: names each key that differs.
            UsageError: another number of folds, or another kind of model.
        """
        if folds not in (None, self.folds):
            raise UsageError(f"--resume: received --folds={folds}, but the training began with {self.folds} folds.")
        if ensemble and not self.ensemble:
            raise UsageError("--resume: received --ensemble, but the training began without it.")
        config = as_begun(config, self.config)
        if problems := differences(config, self.config, "the folds began with"):
            raise ConfigError(problems, "--resume")
        return config


class _FoldFigures(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    fold: int
    n: int
    accuracy: float


class _RunFigures(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    split: _Text
    accuracy: float
    accuracy_ci95: Annotated[list[float], Field(min_length=2, max_length=2)]
    n: int


class _FinalFigures(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    file: _Text
    metrics: _RunFigures | None


class _LabelErrors(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    suspects: int
    estimated: float


class _Figures(_RunFigures):
    """The fields of `metrics.json` that are displayed; all others pass through unchanged."""

    folds: Annotated[list[_FoldFigures], Field(max_length=MOST_FOLDS)]
    final: _FinalFigures
    label_errors: _LabelErrors


def read_figures(path: Path) -> dict[str, Any]:
    """Returns the content of the `metrics.json` of a training in folds.

    Raises:
        DataError: it is missing or damaged.
    """
    return read(path, _Figures, DataError).model_dump()


@dataclass(frozen=True)
class FoldsFolder:
    """The folder of a training in folds.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def create(cls, config: Config) -> FoldsFolder:
        """Creates the folder: `output_dir`, or `runs/<name>/<time>`.

        Raises:
            OutputError: it cannot be created, or already holds a run.
        """
        if config.output_dir is not None:
            place = Path(config.output_dir)
            folds = (path.name for path in place.glob("fold-*"))
            require_absent(place, (PLAN, OUT_OF_FOLD, FINAL, ENSEMBLE, CSV, PAGE, *folds))
        return cls(RunFolder.create(config).path)

    @classmethod
    def existing(cls, path: Path) -> FoldsFolder:
        """Returns an existing folder of a training in folds.

        Raises:
            UsageError: it is none.
            OutputError: it contains links that would be followed.
        """
        if not is_folds_folder(path):
            raise UsageError(f"--resume={path}: no training in folds there; its folder holds {PLAN}")
        folder = cls(path)
        folder.whole.require_no_links()
        for name in (PLAN, OUT_OF_FOLD, FINAL, ENSEMBLE, CSV, PAGE):
            inside(path, name, error=OutputError)
        return folder

    @property
    def whole(self) -> RunFolder:
        """The folder as one that holds a configuration, metrics and a lock, as run folders do."""
        return RunFolder(self.path)

    @property
    def ensemble(self) -> Path:
        """The models of the folds as one file."""
        return self.path / ENSEMBLE

    def run(self, number: int) -> RunFolder:
        """Returns the run folder of a fold, from 1; 0 is that of the final model."""
        return RunFolder(inside(self.path, f"fold-{number}" if number else FINAL, error=OutputError))

    def begin(self, plan: Plan, config: Config) -> None:
        """Writes the configuration and the plan.

        Raises:
            OutputError: they cannot be written.
        """
        write_text(self.whole.config, config_without_credentials(config).to_yaml())
        plan.write(self.path)

    def discard(self) -> None:
        """Removes what `begin` has written, and the folder if it is then empty."""
        for path in (self.path / PLAN, self.whole.config):
            remove(path)
        self.whole.discard()

    def is_begun(self, number: int) -> bool:
        """Returns whether a run can be continued; removes one that was killed before it could be."""
        run = self.run(number)
        if run.finished or os.path.isfile(run.record):
            return True
        if os.path.isfile(run.config) and not os.path.lexists(run.model):
            for path in (run.environment, run.config):  # nothing was trained: the record comes before the first step
                remove(path)
        return False


def config_of(config: Config, folder: FoldsFolder, fold: Fold) -> Config:
    """Returns the configuration of one run: that of all, with its fold and folder.

    Only the final model may get a name in a registry of models.
    """
    tracking = config.tracking
    if fold.number:
        tracking = tracking.model_copy(update={"register": None, "alias": None})
    updates: Mapping[str, Any] = {
        "data": config.data.model_copy(update={"fold": str(fold)}),
        "output_dir": folder.run(fold.number).path,
        "tracking": tracking,
    }
    return config.model_copy(update=dict(updates))
