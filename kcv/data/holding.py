"""Holds the images of small sets in memory instead of reading them from their files again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from kcv.data.dataset import Encoded, Samples
from kcv.data.row_images import RowImages
from kcv.errors import DataError

Part: TypeAlias = tuple[tuple[str, ...], Samples]
"""The class names and the samples of a split."""


def held(parts: Mapping[str, Part], most: int) -> Mapping[str, Part]:
    """Reads all images into memory; returns the parts unchanged if the images are too large.

    Args:
        parts: by split, the class names and the samples, whose images are `RowImages`.
        most: the largest total size of the images, in bytes.

    Raises:
        DataError: a file is damaged, or an image is null.
    """
    total = 0
    held: dict[str, Part] = {}
    for split, (names, samples) in parts.items():
        rows = samples.images
        assert isinstance(rows, RowImages)
        everything: list[Encoded | None] = []
        for encoded in rows.groups.read_all():
            total += sum(map(len, filter(None, encoded)))
            if total > most:
                return parts
            everything += encoded
        images: list[Encoded] = []
        for row in map(int, rows.rows):
            image = everything[row]
            if image is None:
                raise DataError(f"{rows.groups.describe(row)} ({split}/{row}): the image is null; its bytes must be "
                                "in the file.")  # fmt: skip
            images.append(image)
        held[split] = names, Samples(images, samples.labels, list(samples.names))
    return held
