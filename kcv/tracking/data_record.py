"""The record of one split of a run's data, as trackers store it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KIND = "dataset"
"""The kind of its entry in an outbox."""


@dataclass(frozen=True)
class DataRecord:
    """What a run used one split for, and which images that were. It holds no image and no name of one.

    Attributes:
        name: a short name of the data, the same for all splits.
        split: `train`, `val` or `test`.
        digest: 16 hexadecimal characters, which change with the names, labels and order of its images and the
            fingerprint.
        source: a path, URL or name of the data, without credentials.
        source_kind: `path`, `url` or `name`.
        images: number of images.
        image_size: side of the images, in pixels.
        fingerprint: the fingerprint of all the data, SHA-256 (hex).
        classes: number of images by class.
    """

    name: str
    split: str
    digest: str
    source: str
    source_kind: str
    images: int
    image_size: int
    fingerprint: str
    classes: Mapping[str, int]

    def entry(self) -> dict[str, Any]:
        """Returns its entry in an outbox."""
        return {"kind": KIND, **vars(self), "classes": dict(self.classes)}

    @classmethod
    def parse(cls, entry: Mapping[str, Any]) -> DataRecord | None:
        """Returns the record of an entry; None if the entry is not one."""
        match entry:
            case {
                "kind": "dataset", "name": str(), "split": str(), "digest": str(), "source": str(),
                "source_kind": str(), "images": int(), "image_size": int(), "fingerprint": str(),
                "classes": dict() as classes,
            } if all(isinstance(count, int) for count in classes.values()):  # fmt: skip
                return cls(**{name: entry[name] for name in cls.__dataclass_fields__})
        return None
