"""What a run must find again to be continued: the same configuration, the same images, the same machine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kcv.common.files import write_json
from kcv.common.untrusted import read
from kcv.config import Config
from kcv.data.dataset import Dataset
from kcv.errors import ConfigError, DataError, DeviceError, KcvError, first_line
from kcv.tracking import Tracker, config_without_credentials
from kcv.training.resume import seal

_log = logging.getLogger(__name__)

FREE = (
    "output_dir", "device", "precision", "data.source", "data.workers", "data.memory_budget_mb",
    "train.checkpoint_seconds", "train.on_divergence", "train.on_out_of_memory", "train.plots", "tracking.uri",
)  # fmt: skip
"""Keys that change nothing in what a run computes; what device, precision and data come to is compared on its own."""

_MOST_SHOWN = 100  # characters of a value that somebody else may have written
_SURROUNDINGS = ("kcv", "python", "packages", "threads", "processes", "device_name")


class Record(BaseModel):
    """What a run began with; `resume/run.json`.

    Attributes:
        config: dotted keys and plain values.
        fingerprint: of the data.
        counts: images by split.
        by_row_group: whether training images come in the order of Parquet files larger than memory.
        device: the kind of device.
        precision: the dtype policy.
        surroundings: versions, threads and the device's name: where they differ, the run goes on, but not to the bit.
        tracking: the tracker's state: what it needs to go on.
        sha256: of all of this, in hex; None in those of earlier versions.
        signature: shows that this user wrote it; None where no key could be kept, and in those of earlier versions.
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
    sha256: str | None = None
    signature: str | None = None

    @classmethod
    def of(cls, config: Config, dataset: Dataset, environment: Mapping[str, Any], tracker: Tracker) -> Record:
        """Describes a run that begins, with its tracker started."""
        return cls(
            config=config.flatten(),
            fingerprint=dataset.fingerprint,
            counts=_counts(dataset),
            by_row_group=dataset.train.by_row_group,
            device=environment["device"],
            precision=environment["precision"],
            surroundings={key: environment[key] for key in _SURROUNDINGS},
            tracking=tracker.state_dict(),
        )

    @classmethod
    def read(cls, path: Path) -> Record:
        """Reads it back.

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
        """Writes it, with a checksum and this user's signature.

        Raises:
            OutputError: that is not possible.
        """
        content = self._content()
        write_json(path, {**content, "sha256": seal.checksum(content), "signature": seal.signature(content)})

    @property
    def own(self) -> bool:
        """Whether this user began the run, on this machine, and nobody has changed the record since."""
        return seal.is_own(self._content(), self.signature)

    def _content(self) -> dict[str, Any]:
        """Returns what checksum and signature are of."""
        return self.model_dump(exclude={"sha256", "signature"})

    def require(self, config: Config) -> None:
        """Refuses another configuration.

        Raises:
            ConfigError: naming each key that differs.
        """
        if problems := differences(config, self.config, "the run began with"):
            raise ConfigError(problems, "--resume")

    def require_machine(self, environment: Mapping[str, Any]) -> None:
        """Refuses another kind of device or number format, and warns of what else is not as it was.

        Raises:
            DeviceError: the device or the precision differs.
        """
        for key, then in (("device", self.device), ("precision", self.precision)):
            if environment[key] != then:
                raise DeviceError(
                    f"the run began with {key}={then}, here it would be {environment[key]}; use --{key}={then}."
                )
        if differences := _changed(self.surroundings, environment):
            _log.warning("the run goes on, but not to the bit: %s", "; ".join(differences))

    def require_data(self, dataset: Dataset) -> None:
        """Refuses other images.

        Raises:
            DataError: naming what differs.
        """
        if dataset.train.by_row_group != self.by_row_group:
            then = "were read from disk" if self.by_row_group else "were all in memory"
            raise DataError(
                f"{dataset.name}: the training images {then} when the run began, and their order follows from that; "
                "use the same data.memory_budget_mb."
            )
        if dataset.fingerprint == self.fingerprint:
            return
        found = _counts(dataset)
        differences = [
            f"{found.get(split, 0):,} {split} images, {count:,} then"
            for split, count in self.counts.items()
            if found.get(split, 0) != count
        ]
        what = "; ".join(differences) or "as many images, but others"
        raise DataError(
            f"{dataset.name} has changed since the run began: {what}. A run goes on only with the same data."
        )


def differences(config: Config, before: Mapping[str, Any], then: str) -> list[str]:
    """Returns one line for each key that another value is asked for, those apart that change nothing (`FREE`).

    Args:
        config: what is asked for.
        before: dotted keys and plain values of the run.
        then: what the run did with its values, such as `the run began with`.
    """
    asked = config_without_credentials(config).flatten()
    return [
        f"{key}: received {asked.get(key)!r}, but {then} {before.get(key)!r}."
        for key in dict.fromkeys([*before, *asked])
        if key not in FREE and asked.get(key) != before.get(key)
    ]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs in the surroundings, in words."""
    differences = []
    for key, value in before.items():
        found = now.get(key)
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            differences += _changed(value, found)
        elif found != value:
            differences.append(f"{key} {found} instead of {str(value)[:_MOST_SHOWN]}")
    return differences


def _counts(dataset: Dataset) -> dict[str, int]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: len(images) for name, images in splits.items() if images is not None}
