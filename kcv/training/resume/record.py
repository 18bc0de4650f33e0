"""What a run must find again to be continued: the same configuration, the same pictures, the same machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kcv.config import Config
from kcv.data.dataset import Dataset
from kcv.errors import ConfigError, DataError, DeviceError
from kcv.files import write_json
from kcv.tracking import Tracker, config_without_credentials

_log = logging.getLogger(__name__)

FREE = (
    "output_dir", "device", "precision", "data.workers", "data.memory_budget_mb", "train.checkpoint_seconds",
    "train.on_divergence", "train.on_out_of_memory", "train.plots", "tracking.uri",
)  # fmt: skip
"""Keys that change nothing in what a run computes; what device and precision come to is compared on its own."""


_SURROUNDINGS = ("kcv", "python", "packages", "threads", "processes", "device_name")


class Record(BaseModel):
    """What a run began with; `resume/run.json`.

    Attributes:
        config: dotted keys and plain values.
        fingerprint: of the data.
        counts: pictures by split.
        by_row_group: whether training pictures come in the order of Parquet files larger than memory.
        device: the kind of device.
        precision: the dtype policy.
        surroundings: versions, threads and the device's name: where they differ, the run goes on, but not to the bit.
        tracking: what the tracker needs to go on.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    config: dict[str, Any]
    fingerprint: str
    counts: dict[str, int]
    by_row_group: bool = False
    device: str
    precision: str
    surroundings: dict[str, Any]
    tracking: dict[str, str | None] = {}

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
            tracking={"location": tracker.location, "run": tracker.run_id or tracker.spool},
        )

    @classmethod
    def read(cls, path: Path) -> Record:
        """Reads it back.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError) as error:
            raise DataError(
                f"{path}: is missing or damaged, so the run cannot be continued ({type(error).__name__})."
            ) from None

    def write(self, path: Path) -> None:
        """Writes it.

        Raises:
            OutputError: that is not possible.
        """
        write_json(path, self.model_dump())

    def tracked_by(self, tracker: Tracker) -> str | None:
        """Returns what a tracker of this run continues it by; None where it was kept elsewhere, or nowhere."""
        return self.tracking.get("run") if self.tracking.get("location") == tracker.location else None

    def require(self, config: Config) -> None:
        """Refuses another configuration.

        Raises:
            ConfigError: naming each key that differs.
        """
        asked = config_without_credentials(config).flatten()
        problems = [
            f"{key}: received {asked.get(key)!r}, but the run began with {self.config.get(key)!r}."
            for key in dict.fromkeys([*self.config, *asked])
            if key not in FREE and asked.get(key) != self.config.get(key)
        ]
        if problems:
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
        """Refuses other pictures.

        Raises:
            DataError: naming what differs.
        """
        if dataset.train.by_row_group != self.by_row_group:
            then = "were read from disk" if self.by_row_group else "were all in memory"
            raise DataError(
                f"{dataset.name}: the training pictures {then} when the run began, and their order follows from that; "
                "use the same data.memory_budget_mb."
            )
        if dataset.fingerprint == self.fingerprint:
            return
        found = _counts(dataset)
        differences = [
            f"{found.get(split, 0):,} {split} pictures, {count:,} then"
            for split, count in self.counts.items()
            if found.get(split, 0) != count
        ]
        what = "; ".join(differences) or "as many pictures, but others"
        raise DataError(
            f"{dataset.name} has changed since the run began: {what}. A run goes on only with the same data."
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs in the surroundings, in words."""
    differences = []
    for key, value in before.items():
        if isinstance(value, Mapping):
            differences += _changed(value, now.get(key, {}))
        elif now.get(key) != value:
            differences.append(f"{key} {now.get(key)} instead of {value}")
    return differences


def _counts(dataset: Dataset) -> dict[str, int]:
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return {name: len(pictures) for name, pictures in splits.items() if pictures is not None}
