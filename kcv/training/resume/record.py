"""The record of how a run began, which a resumption must match: configuration, images and machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kcv.common import seal
from kcv.common.files import write_json
from kcv.common.text import printable, shortened
from kcv.common.untrusted import read
from kcv.config import Config
from kcv.config.overrides import show, told
from kcv.data.dataset import Dataset
from kcv.errors import ConfigError, DataError, DeviceError, KcvError, UsageError, first_line
from kcv.models.own import OwnName
from kcv.tracking import Tracker, config_without_credentials

_log = logging.getLogger(__name__)

FREE = (
    "output_dir", "device", "precision", "data.source", "data.image_folder", "data.workers", "data.memory_budget_mb",
    "train.checkpoint_seconds", "train.on_divergence", "train.on_out_of_memory", "train.plots", "tracking.uri",
    "tracking.register", "tracking.alias", "tracking.system_metrics", "train.teacher",
)  # fmt: skip
"""Keys that do not affect what a run computes; resolved device, precision, data and teacher are compared separately."""

_MOST_SHOWN = 100  # characters shown of a value that someone else may have written
_MOST_DIFFERENCES = 20  # differences in the machine or in the splits
_COMPARED = ("kcv", "python", "packages", "threads", "processes", "device_name", "c_compiler")


_LATER: Mapping[str, Any] = {"own_model": None, "own_source": None, "callbacks": [], "metrics": [], "resumable": None,
                               "teacher": None, "versions": None}  # fmt: skip
"""Fields that earlier versions did not write, with defaults; checksums and signatures leave the defaults out."""

_Name = Annotated[str, Field(max_length=1000)]


class OwnSource(BaseModel):
    """What a function that `model.name` names was, and what it built, when a run began.

    Attributes:
        sha256: SHA-256 (hex) of the file of the function.
        structure: digest of the model, see `kcv.training.own_model.digest_of`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    sha256: _Name
    structure: _Name


class Record(BaseModel):
    """How a run began; `resume/run.json`.

    Attributes:
        config: the configuration as dotted keys and plain values.
        fingerprint: fingerprint of the data.
        counts: number of images per split.
        by_row_group: whether training images are read in the order of Parquet files larger than memory.
        device: the device type.
        precision: the dtype policy.
        surroundings: versions, thread count and device name; if they differ, the run resumes, but not bit for bit.
            (This is the environment; the field keeps its name in the file.)
        tracking: the tracker's state, needed to resume tracking.
        own_model: digest of the model passed to `kcv.train`; None if there was none.
        own_source: the function that built a model of the user's own; None if there was none.
        callbacks: class names of the callbacks passed.
        metrics: names of the metrics passed.
        resumable: why the run cannot be resumed bit for bit; None if it can.
        teacher: SHA-256 (hex) of the weights of the model that is learned from; None if there is none.
        versions: digest of the versions of the data in an object store; None if they are elsewhere.
        sha256: SHA-256 of all other fields, in hex; None in records of earlier versions.
        signature: proves that this user wrote the record; None if no key could be stored, and in earlier versions.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    config: dict[str, Any]
    fingerprint: str
    counts: dict[str, Annotated[int, Field(ge=0)]]
    by_row_group: bool = False
    device: str
    precision: str
    surroundings: dict[str, Any]
    tracking: dict[str, str | None] = {}
    own_model: _Name | None = None
    own_source: OwnSource | None = None
    callbacks: Annotated[list[_Name], Field(max_length=1000)] = []
    metrics: Annotated[list[_Name], Field(max_length=1000)] = []
    resumable: _Name | None = None
    teacher: _Name | None = None
    versions: _Name | None = None
    sha256: str | None = None
    signature: str | None = None

    @classmethod
    def of(
        cls,
        config: Config,
        dataset: Dataset,
        environment: Mapping[str, Any],
        tracker: Tracker,
        extensions: Mapping[str, Any] | None = None,
    ) -> Record:
        """Returns the record of a new run whose tracker has started.

        Args:
            config: the run's configuration, without credentials.
            dataset: the run's images.
            environment: the content of `environment.json`.
            tracker: the started tracker.
            extensions: the fields from `own_model` to `resumable`, if the model is the user's own, or anything was
                passed to `kcv.train`.
        """
        return cls(
            config=config.flatten(),
            fingerprint=dataset.fingerprint,
            counts=_counts(dataset),
            by_row_group=dataset.train.by_row_group,
            device=environment["device"],
            precision=environment["precision"],
            surroundings={key: environment[key] for key in _COMPARED},
            tracking=tracker.state_dict(),
            versions=dataset.versions,
            **(extensions or {}),
        )

    @classmethod
    def read(cls, path: Path) -> Record:
        """Reads a record.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            found = read(path, cls, DataError)
        except KcvError as error:
            reason = first_line(KcvError(str(error).removeprefix(f"{path}: ")))
            raise DataError(f"{path}: is missing or damaged, so the run cannot be continued ({reason}).") from None
        if found.sha256 is not None and found.sha256 != seal.checksum(found._content()):
            raise DataError(
                f"{path}: is missing or damaged, so the run cannot be continued (its checksum is of other content)."
            )
        return found

    def write(self, path: Path) -> None:
        """Writes the record with a checksum and this user's signature.

        Raises:
            OutputError: it cannot be written.
        """
        content = self._content()
        write_json(path, {**content, "sha256": seal.checksum(content), "signature": seal.signature(content)})

    @property
    def own(self) -> bool:
        """Whether this user began the run on this machine, and the record is unchanged since."""
        return seal.is_own(self._content(), self.signature)

    def _content(self) -> dict[str, Any]:
        """Returns the content covered by checksum and signature."""
        content = self.model_dump(exclude={"sha256", "signature"})
        return {key: value for key, value in content.items() if key not in _LATER or value != _LATER[key]}

    def require(self, config: Config) -> None:
        """Refuses a different configuration.

        Raises:
            ConfigError: names each key that differs.
        """
        if problems := differences(config, self.config, "the run began with"):
            raise ConfigError(problems, "--resume")

    def require_extensions(self, extensions: Mapping[str, Any]) -> None:
        """Refuses extensions other than the original ones, and warns if the run cannot be resumed bit for bit.

        Args:
            extensions: as for `of`.

        Raises:
            UsageError: names what has to be passed again.
        """
        if self.own_model != extensions["own_model"]:
            what = (
                "without a model of your own; pass none"
                if self.own_model is None
                else "with a model that was passed to kcv.train; pass it again (model=...)"
                if extensions["own_model"] is None
                else "with a model of another structure; pass that one"
            )
            raise UsageError(f"--resume: the run began {what}")
        for key in ("callbacks", "metrics"):
            then = getattr(self, key)
            if then != extensions[key]:
                names = _shown(", ".join(then))
                what = f"with {key}=[{names}]; pass the same to kcv.train" if then else f"without {key}; pass none"
                raise UsageError(f"--resume: the run began {what}")
        if extensions["resumable"]:
            _log.warning("the run goes on, but %s", extensions["resumable"])

    def require_structure(self, digest: str) -> None:
        """Refuses another model than the user's function built when the run began.

        Raises:
            UsageError: its structure differs; the checkpoint would not fit.
        """
        if self.own_source is not None and self.own_source.structure != digest:
            raise UsageError(
                f"--resume: {printable(self.config.get('model.name'))} returns a model of another structure than when "
                "the run began; what it imports, or reads, has changed"
            )

    def require_machine(self, environment: Mapping[str, Any]) -> None:
        """Refuses another device type or precision, and warns about other differences in the environment.

        Raises:
            DeviceError: the device or the precision differs.
        """
        for key, then in (("device", self.device), ("precision", self.precision)):
            if environment[key] != then:
                shown = _shown(then)
                raise DeviceError(
                    f"the run began with {key}={shown}, here it would be {environment[key]}; use --{key}={shown}."
                )
        if differences := _changed(self.surroundings, environment):
            _log.warning("the run goes on, but not bit for bit: %s", "; ".join(_few(differences)))

    def require_data(self, dataset: Dataset) -> None:
        """Refuses different images.

        Raises:
            DataError: names what differs.
        """
        if dataset.train.by_row_group != self.by_row_group:
            then = "were read from disk" if self.by_row_group else "were all in memory"
            raise DataError(
                f"{dataset.name}: the training images {then} when the run began, and their order follows from that; "
                "use the same data.memory_budget_mb."
            )
        # A copy in another bucket may have other versions.
        moved = self.versions is None or dataset.name != self.config.get("data.source")
        if dataset.fingerprint == self.fingerprint and (moved or dataset.versions == self.versions):
            return
        found = _counts(dataset)
        differences = [
            f"{found.get(split, 0):,} {_shown(split)} images, {_shown(f'{count:,}')} then"
            for split, count in self.counts.items()
            if found.get(split, 0) != count
        ]
        what = "; ".join(_few(differences)) or "as many images, but others"
        raise DataError(
            f"{dataset.name} has changed since the run began: {what}. A run goes on only with the same data."
        )


def differences(config: Config, before: Mapping[str, Any], then: str) -> list[str]:
    """Returns one line per key whose value differs, except keys that do not affect results (`FREE`).

    The run may be a stranger's: long keys and values are cut, and so is a long list.

    Args:
        config: the requested configuration.
        before: the run's dotted keys and plain values.
        then: how to introduce the run's value, such as `the run began with`.
    """
    asked = config_without_credentials(config).flatten()
    before = {**Config().flatten(), **before}  # a key that an earlier version lacked means what its default means
    differing = (
        key
        for key in dict.fromkeys([*asked, *before])
        if key not in FREE and asked.get(key) != before.get(key) and not _has_moved(key, asked, before)
    )
    return told(
        [f"{_shown(key)}: received {show(asked.get(key))}, but {then} {show(before.get(key))}." for key in differing]
    )


def _has_moved(key: str, asked: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a key names the same function in a file elsewhere; its content is compared when it is loaded."""
    now, then = (OwnName.find(values.get(key)) if key == "model.name" else None for values in (asked, before))
    return (
        now is not None
        and then is not None
        and now.is_file
        and then.is_file
        and (Path(now.place).name, now.function) == (Path(then.place).name, then.function)
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns a description of each difference in the environment."""
    differences = []
    for key, value in before.items():
        found = now.get(key)
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            differences += _changed(value, found)
        elif found != value:
            differences.append(f"{_shown(key)} {found} instead of {_shown(value)}")
    return differences


def _shown(value: object) -> str:
    return printable(shortened(value, _MOST_SHOWN))


def _few(differences: list[str]) -> list[str]:
    more = len(differences) - _MOST_DIFFERENCES
    return differences if more <= 0 else [*differences[:_MOST_DIFFERENCES], f"and {more:,} more"]


def _counts(dataset: Dataset) -> dict[str, int]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: len(images) for name, images in splits.items() if images is not None}
