"""The folder of a study: what was asked for, the trials, and what came of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from kcv.common import seal, untrusted
from kcv.common.files import make_folder, require_absent, write_json, write_text
from kcv.common.redaction import data_without_credentials
from kcv.config import SHORT_FLAGS, Config
from kcv.config.keys import specify
from kcv.config.overrides import nest
from kcv.config.sections import TrainConfig
from kcv.data.fold import FEWEST_FOLDS, MOST_FOLDS
from kcv.errors import ConfigError, OutputError, UsageError
from kcv.tracking import uri_without_credentials
from kcv.tuning.trials import Trial

_OWN = ("output_dir", "train.final_split", "tracking.register", "tracking.alias", "tracking.parent")
"""Keys of a trial that the study sets, and the user's configuration keeps."""


CREDENTIALS: Final[Mapping[str, Callable[[str], str]]] = {
    "data.source": data_without_credentials,
    "tracking.uri": uri_without_credentials,
}
"""The keys that may hold a user and a password, and what removes these; no file of a study has them."""


class Settings(BaseModel):
    """`study.json`: everything that decides a search, so that it can be continued.

    Attributes:
        values: what the user's file holds, by section; without credentials.
        given: what the user gave as flags, by dotted key; without credentials.
        chosen: what kcv chose where the configuration left it open, by dotted key.
        space: the space, as in a space file.
        pruner: which trials are stopped early.
        earliest: the first epoch, or fold, after which trials are compared.
        trials: the number of trials; None for any number.
        minutes: the time of the search; None for any.
        workers: trials at the same time.
        threads: threads of each; None for all.
        seeds: trainings of the winner and of the user's configuration whose test accuracies are compared.
        folds: the number of folds that each trial is trained in; None for a single training.
        division: digest of the assignment of the images to the folds; None without folds.
        storage: the shared database without credentials; None for the one in the folder.
        study: the name of the study in the database.
        owner: the name of this folder's coordinator.
        working_folder: where relative paths start from.
        tracking: the state of the tracker.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    values: dict[str, Any]
    given: dict[str, Any]
    chosen: dict[str, Any]
    space: dict[str, Any]
    pruner: Literal["asha", "median", "none"]
    earliest: Annotated[int, Field(ge=1)] = 1
    trials: Annotated[int, Field(ge=1)] | None
    minutes: Annotated[float, Field(gt=0)] | None
    workers: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)] | None
    seeds: Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=FEWEST_FOLDS, le=MOST_FOLDS)] | None = None
    division: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = None
    storage: str | None
    study: str
    owner: str
    working_folder: str
    tracking: dict[str, str | None] = {}


class _Signed(Settings):
    """The settings as they are stored."""

    signature: str | None = None


@dataclass(frozen=True)
class StudyFolder:
    """The paths of a study's files."""

    path: Path

    @classmethod
    def create(cls, name: str, output_dir: Path | None) -> StudyFolder:
        """Creates the folder: `output_dir`, or `studies/<name>/<time>`.

        Raises:
            OutputError: it cannot be created, or holds a study already, or what a study would write over or remove.
        """
        folder = cls(output_dir or Path("studies") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
        if os.path.lexists(folder.settings):
            raise OutputError(f"{folder.path} already holds a study; go on with it (--resume={folder.path}), or choose "
                              "another --output_dir")  # fmt: skip
        require_absent(folder.path, (path.name for path in folder.all))
        try:
            make_folder(folder.path)
        except OSError as error:
            raise OutputError(f"cannot make the folder {folder.path}: {error.strerror or error}") from None
        return folder

    @property
    def all(self) -> tuple[Path, ...]:
        """All that a study writes in the folder."""
        files = (self.settings, self.database, self.comparison, self.best, self.table, self.page)
        return (*files, self.trials, self.final, self.lock.parent)

    @property
    def settings(self) -> Path:
        """What was asked for."""
        return self.path / "study.json"

    @property
    def database(self) -> Path:
        """The trials, as Optuna stores them."""
        return self.path / "study.db"

    @property
    def trials(self) -> Path:
        """The folder of the trials' run folders."""
        return self.path / "trials"

    def trial(self, number: int) -> Path:
        """Returns the folder of a trial: its run folder, or with folds the one that holds those of the folds."""
        return self.trials / f"{number:03}"

    @property
    def final(self) -> Path:
        """The folder of the runs that are compared at the end."""
        return self.path / "final"

    @property
    def comparison(self) -> Path:
        """The test accuracies of the winner and of the user's configuration."""
        return self.path / "test.json"

    @property
    def best(self) -> Path:
        """The configuration of the best trial, which `kcv train` takes."""
        return self.path / "best.yaml"

    @property
    def table(self) -> Path:
        """A row per trial."""
        return self.path / "trials.csv"

    @property
    def page(self) -> Path:
        """The page of the study."""
        return self.path / "study.html"

    @property
    def lock(self) -> Path:
        """Locks the folder against a second coordinator."""
        return self.path / "resume" / "lock"

    def write(self, settings: Settings) -> None:
        """Writes the settings with this user's signature.

        Raises:
            OutputError: they cannot be written.
        """
        content = settings.model_dump(mode="json")
        write_json(self.settings, {**content, "signature": seal.signature(content)})

    def read(self, named: str) -> Settings:
        """Returns the settings of a study that this user began.

        Args:
            named: the folder as the user named it.

        Raises:
            UsageError: there is no study, or nothing shows that this user began it on this machine.
        """
        path = untrusted.inside(self.path, "study.json", error=UsageError)
        if not os.path.isfile(path):
            raise UsageError(f"--resume={named}: no study there; its folder holds study.json")
        found = untrusted.read(path, _Signed, UsageError)
        content = found.model_dump(mode="json", exclude={"signature"}, exclude_unset=True)  # what was signed
        if not seal.is_own(content, found.signature):
            raise UsageError(
                f"--resume={named}: nothing shows that you began this study on this machine, so it is not continued"
            )
        return Settings(**content)


@dataclass(frozen=True)
class Configurations:
    """Builds the configurations of trials: the user's, with other values for the searched keys.

    Attributes:
        values: what the user's file holds, by section.
        given: what the user gave as flags, by dotted key.
        chosen: what kcv chose, by dotted key.
    """

    values: Mapping[Any, Any]
    given: Mapping[str, Any]
    chosen: Mapping[str, Any]

    def __call__(self, params: Mapping[str, Any]) -> Config:
        """Returns the user's configuration with other values for some keys, as flags of `kcv train` would set them.

        Raises:
            ConfigError: they do not fit.
        """
        return Config.of_values(self.values, {**self.chosen, **self.given, **params})

    def trial(self, params: Mapping[str, Any], *, parent: str | None, seed: int | None = None) -> Config:
        """Returns the configuration of a trial: its test split is not read, and nothing is drawn or registered.

        Args:
            params: the searched values; empty for the user's own.
            parent: ID of the study's run in MLflow, if there is one.
            seed: replaces the configured seed.
        """
        config = self(params)
        seconds = config.train.checkpoint_seconds
        usual = TrainConfig.model_fields["checkpoint_seconds"].default
        train = {"final_split": "val", "plots": False, "checkpoint_seconds": usual if seconds is None else seconds}
        tracking = {"register": None, "alias": None, "parent": parent}
        return config.model_copy(
            update={
                "seed": config.seed if seed is None else seed,
                "train": config.train.model_copy(update=train),
                "tracking": config.tracking.model_copy(update=tracking),
            }
        )

    def without_credentials(self) -> Configurations:
        """Returns the same without users and passwords in the data and the tracking store."""
        values = {key: dict(value) if isinstance(value, Mapping) else value for key, value in self.values.items()}
        given = dict(self.given)
        for key, clean in CREDENTIALS.items():
            section, _, leaf = key.partition(".")
            for place, name in ((values.get(section), leaf), (given, key)):
                if isinstance(place, dict) and isinstance(place.get(name), str):
                    place[name] = clean(place[name])
        return Configurations(values, given, self.chosen)


def flags(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns flags by dotted key.

    Raises:
        ConfigError: one is unknown, or given twice.
    """
    spec = specify(Config, SHORT_FLAGS)
    found: dict[str, Any] = {}
    for typed, value in overrides.items():
        key = spec.resolve(typed)
        if key is None or key in found:
            raise ConfigError([f"{typed}: unknown key." if key is None else f"{key}: given twice; give it once."])
        found[key] = value
    return found


def write_best(folder: StudyFolder, config: Config) -> None:
    """Writes the configuration of the best trial as a file for `kcv train`: what was given, and the searched values."""
    from kcv.config.yaml12 import dump

    write_text(folder.best, dump(nest({key: value for key, value in config.given().items() if key not in _OWN})))


def of_trial(trial: Trial) -> Mapping[str, Any]:
    """Returns the values that a trial sets; none for the user's own configuration."""
    return {} if trial.default else trial.params
