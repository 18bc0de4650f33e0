"""One pass over all images: decodes each image once, in full, and keeps what the checks need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kcv.common.cores import usable_cores
from kcv.common.progress import Progress
from kcv.data.archives.members import MemberImages
from kcv.data.dataset import SPLITS, Encoded, Pixels, Samples, Source
from kcv.data.objects.images import ObjectImages
from kcv.data.row_images import RowImages
from kcv.errors import ImageError
from kcv.images import examine, resize
from kcv.quality.findings import SampleRef

THUMBNAIL = 32
"""Side, in pixels, of the grey thumbnails that similarity is measured on."""

_CHUNK = 64  # images per task of a thread
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_BLANK = 2  # levels of 255 between darkest and lightest; up to this, an image is one colour, allowing for rounding


@dataclass(frozen=True)
class ImageRecord:
    """The properties of a readable image that the checks need.

    Attributes:
        digest: hash of its RGB pixels and shape after EXIF rotation; equal for a PNG and a BMP of the same pixels.
        height: in pixels.
        width: in pixels.
        format: the actual format of the bytes, one of `kcv.images.FORMATS`; None for pixels.
        blank: whether the whole image is one colour.
        numbers: `16-bit` or `float` if its values had more than 8 bits, otherwise None.
        extent: the least and the greatest value.
    """

    digest: bytes
    height: int
    width: int
    format: str | None
    blank: bool
    numbers: str | None = None
    extent: tuple[float, float] = (0.0, 255.0)


@dataclass(frozen=True)
class Scan:
    """All images of a source, in the order train, val, test.

    Attributes:
        members: the name, split and class of each image.
        records: the record of each image, or the reason why it cannot be read.
        thumbnails: uint8 [n, THUMBNAIL, THUMBNAIL], grey; black if an image cannot be read.
        files: the path of each image that is a file, if need be in an archive; otherwise None.
    """

    members: Sequence[SampleRef]
    records: Sequence[ImageRecord | str]
    thumbnails: NDArray[np.uint8]
    files: Sequence[Path | None]

    def readable(self) -> list[tuple[SampleRef, ImageRecord]]:
        """Returns the images that could be read, each with its record."""
        pairs = zip(self.members, self.records, strict=True)
        return [(member, record) for member, record in pairs if isinstance(record, ImageRecord)]


def scan(source: Source, *, progress: bool = False) -> Scan:
    """Decodes every image of a source, in threads; holds only a few decoded images at a time."""
    members: list[SampleRef] = []
    parts: list[Sequence[Encoded]] = []
    files: list[Path | None] = []
    for split in SPLITS:
        if split in source.splits:
            samples = source.splits[split]
            encoded = samples.images
            # Rows of Parquet are read in one pass; files, and those in archives, when it is their turn.
            parts.append([*encoded] if isinstance(encoded, RowImages) else encoded)
            files += [_file(samples, i) for i in range(len(samples))]
            members += [
                SampleRef(name, split, source.class_names[label])
                for name, label in zip(samples.names, samples.labels.tolist(), strict=True)
            ]
    ends = np.cumsum([len(part) for part in parts])
    thumbnails = np.zeros((len(members), THUMBNAIL, THUMBNAIL), np.uint8)

    def examined(start: int) -> list[ImageRecord | str]:
        found: list[ImageRecord | str] = []
        here = [part.ahead() if isinstance(part, ObjectImages) else part for part in parts]
        for i in range(start, min(start + _CHUNK, len(members))):
            number = int(np.searchsorted(ends, i, side="right"))
            try:
                image = here[number][i - int(ends[number])]  # from the end of its part
                record, thumbnails[i] = _record(image, members[i].name)
            except ImageError as error:
                found.append(str(error).removeprefix(f"{members[i].name}: "))
            else:
                found.append(record)
        bar.advance(len(found))
        return found

    with (
        Progress(len(members) if progress else None, "reading images") as bar,
        ThreadPoolExecutor(usable_cores()) as pool,
    ):
        records = [one for chunk in pool.map(examined, range(0, len(members), _CHUNK)) for one in chunk]
    return Scan(members, records, thumbnails, files)


def _file(samples: Samples, index: int) -> Path | None:
    """Returns the file of an image, for its suffix; None if it has no name of its own."""
    if isinstance(samples.images, MemberImages | ObjectImages):
        return Path(samples.names[index])
    image = None if isinstance(samples.images, RowImages) else samples.images[index]
    return image if isinstance(image, Path) else None


def _record(image: Encoded, name: str) -> tuple[ImageRecord, NDArray[np.uint8]]:
    examined = examine(image, name=name)
    pixels = examined.pixels
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{height}x{width}:".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    blank = bool((np.ptp(pixels, axis=(0, 1)) <= _BLANK).all())
    record = ImageRecord(digest.digest(), height, width, examined.format, blank, examined.numbers, examined.extent)
    return record, _grey(resize(pixels, THUMBNAIL, "squash"))


def _grey(pixels: Pixels) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = np.rint(pixels @ _LUMA).astype(np.uint8)
    return grey
