"""Describes the splits of a run's data for trackers, without reading an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from kcv.common.download import is_url
from kcv.common.text import printable, shortened
from kcv.data import sources
from kcv.data.dataset import Dataset, Images
from kcv.data.places import place_of
from kcv.errors import DataError
from kcv.tracking import DataRecord

_MOST_NAME = 200  # characters
_MOST_CLASSES = 10_000
"""The most classes whose numbers of images are recorded."""
_HASHED = 65536  # names per call of the hash
_DIGEST = 16  # characters; MLflow takes 36, and shows them in a narrow column


def data_records(dataset: Dataset, source: str) -> list[DataRecord]:
    """Returns one record per split of a data set.

    Args:
        dataset: the images of a run.
        source: `data.source`, without credentials.

    Example:
        >>> [(one.split, one.images) for one in data_records(dataset, "photos")]
        [('train', 1200), ('val', 150), ('test', 150)]
    """
    place, kind = _place(source)
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    return [
        DataRecord(
            name=_short_name(source, kind),
            split=split,
            digest=_digest(split, images, dataset.fingerprint),
            source=place,
            source_kind=kind,
            images=len(images),
            image_size=dataset.image_size,
            fingerprint=dataset.fingerprint,
            classes=_class_counts(images, dataset.class_names),
        )
        for split, images in splits.items()
        if images is not None
    ]


def describe_briefly(dataset: Dataset, model_name: str) -> str:
    """Returns one line that says what is trained on what."""
    splits = (("train", dataset.train), ("val", dataset.val), ("test", dataset.test))
    counts = ", ".join(f"{len(images):,} {split}" for split, images in splits if images is not None)
    what, size = printable(model_name), dataset.image_size
    name = shortened(printable(dataset.name), _MOST_NAME)
    return f"{what} on {name}: {counts} images of {len(dataset.class_names)} classes at {size} px"


def _place(source: str) -> tuple[str, str]:
    """Returns where the data are, and what kind of a place that is."""
    if sources.find(source) is not None:
        return source, "name"
    if is_url(source):
        return source, "url"
    try:
        return os.path.abspath(place_of(source, sources.names())), "path"
    except (DataError, OSError, ValueError):  # a resumed run that began in another folder
        return source, "path"


def _short_name(source: str, kind: str) -> str:
    last = PurePosixPath(source.replace(os.sep, "/").partition("::")[0]).name
    name = source if kind == "name" or source.startswith("hf:") else last
    return shortened(printable(name or source), _MOST_NAME)


def _digest(split: str, images: Images, fingerprint: str) -> str:
    """Returns a digest of the names and labels of a split, and of the fingerprint, which covers the contents."""
    digest = hashlib.sha256(f"{split}\n{fingerprint}\n{images.size}\n".encode())
    digest.update(np.ascontiguousarray(images.labels, dtype="<i8").tobytes())
    names: Sequence[str] = images.names
    for first in range(0, len(names), _HASHED):
        digest.update("".join(f"{name}\0" for name in names[first : first + _HASHED]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:_DIGEST]


def _class_counts(images: Images, class_names: Sequence[str]) -> dict[str, int]:
    if len(class_names) > _MOST_CLASSES:
        return {}
    counts = np.bincount(images.labels, minlength=len(class_names)).tolist()
    return {printable(name): int(count) for name, count in zip(class_names, counts, strict=True)}
