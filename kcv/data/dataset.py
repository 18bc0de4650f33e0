"""The data of a source and of training: labelled, split images with names and a fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from kcv.common.text import shortened
from kcv.data.archives.members import MemberImages
from kcv.data.file_names import FileNames, FilePaths
from kcv.data.folder_tree.summary import Understood
from kcv.data.objects.images import ObjectImages
from kcv.data.row_images import RowImages, RowNames
from kcv.errors import DataError
from kcv.images import load as load_image

Labels: TypeAlias = NDArray[np.int64]
Pixels: TypeAlias = NDArray[np.uint8]

Encoded: TypeAlias = Path | bytes | Pixels
"""One image as stored by a source: a file, the bytes of a file, or an RGB array [height, width, 3]."""

T = TypeVar("T")

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Samples:
    """Labelled images that are not decoded yet.

    Attributes:
        images: one `Encoded` per image.
        labels: int64 [n], positions in the class names of their source.
        names: a readable name per image: the path below the source's root, or `train/17`.
    """

    images: Sequence[Encoded]
    labels: Labels
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> Samples:
        """Returns the samples at `indices`, in that order."""
        return Samples(_taken(self.images, indices), self.labels[indices], _taken(self.names, indices))


def _taken(sequence: Sequence[T], indices: NDArray[np.int64]) -> Any:
    if isinstance(sequence, RowImages | RowNames | FilePaths | FileNames | MemberImages | ObjectImages | Joined):
        return sequence.take(indices)
    return [sequence[int(i)] for i in indices]


class Joined(Sequence[T]):
    """Several sequences as one, none of which is copied; images that stay in files stay there.

    Args:
        parts: the sequences.
        rows: positions in all of them together, int64 [n]; by default all.
    """

    def __init__(self, parts: Sequence[Sequence[T]], rows: NDArray[np.int64] | None = None) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._rows = np.arange(int(self._ends[-1])) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Joined[T]: ...
    def __getitem__(self, index: int | slice) -> T | Joined[T]:
        if isinstance(index, slice):
            return Joined(self._parts, self._rows[index])
        row = int(self._rows[index])
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._parts[number][row - int(self._ends[number])]  # from the end of its part

    def take(self, indices: NDArray[np.int64]) -> Joined[T]:
        """Returns the items at `indices`."""
        return Joined(self._parts, self._rows[indices])


def join(parts: Sequence[Samples]) -> Samples:
    """Returns several samples, whose labels have the same meaning, as one."""
    if len(parts) == 1:
        return parts[0]
    images = [part.images for part in parts]
    members = [one for one in images if isinstance(one, MemberImages)]
    objects = [one for one in images if isinstance(one, ObjectImages)]
    whole: Sequence[Encoded]
    if len(members) == len(images):
        whole = MemberImages.join(members)
    else:
        whole = ObjectImages.join(objects) if len(objects) == len(images) else Joined(images)
    return Samples(whole, np.concatenate([part.labels for part in parts]), Joined([part.names for part in parts]))


@dataclass(frozen=True)
class Source:
    """A source of images, with its own splits.

    Attributes:
        name: the name or path that it was opened by.
        class_names: the class names that the labels of every split point into.
        splits: `Samples` by name, for those of `train`, `val` and `test` that the source has.
        image_size: the side of its images in pixels, if all are squares of this size; otherwise None.
        flat: whether the source has no splits; all its images are then under `train`.
        root: the folder whose files it lists, if it is a folder.
        understood: how that folder was interpreted.
    """

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, Samples]
    image_size: int | None = None
    flat: bool = False
    root: Path | None = None
    understood: Understood | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over class names and, per split, names, labels and contents.

        Bytes and arrays are hashed. Files, and those in an archive or an object store, contribute only their relative
        path and size, so that a million of them stay cheap; Parquet files whose images are not in memory contribute
        their names and row groups.
        """
        digest = hashlib.sha256()

        def add(value: bytes) -> None:
            digest.update(len(value).to_bytes(8, "little"))  # without lengths, ("ab", "c") would equal ("a", "bc")
            digest.update(value)

        for class_name in self.class_names:
            add(class_name.encode())
        for split in SPLITS:
            if split not in self.splits:
                continue
            samples = self.splits[split]
            add(split.encode())
            add(np.ascontiguousarray(samples.labels, dtype="<i8").tobytes())
            for value in self._identity(samples):
                add(value)
        return digest.hexdigest()

    @cached_property
    def versions(self) -> str | None:
        """SHA-256 (hex) over what an object store calls the versions of the contents; None if there is no store.

        A copy in another bucket may have other versions, so they do not belong to the fingerprint; but what a run
        reads must not change until it ends.
        """
        digest, any_ = hashlib.sha256(), False
        for split in sorted(self.splits):
            images = self.splits[split].images
            found: Iterable[str] = ()
            if isinstance(images, ObjectImages):
                found = images.etags
            elif isinstance(images, RowImages):
                found = images.groups.versions()
            for version in found:
                digest.update(f"{len(version)} {version}".encode())
                any_ = True
        return digest.hexdigest() if any_ else None

    def _identity(self, samples: Samples) -> Iterator[bytes]:
        """Yields values that identify the images of a split."""
        if isinstance(samples.images, RowImages):
            yield from samples.images.groups.identity()
        elif isinstance(samples.images, MemberImages | ObjectImages):
            for name, size in zip(samples.names, samples.images.sizes.tolist(), strict=True):
                yield name.encode(errors="surrogateescape")
                yield str(size).encode()
        else:
            for name, image in zip(samples.names, samples.images, strict=True):
                yield name.encode(errors="surrogateescape")
                if isinstance(image, Path):
                    yield str(self._size(image, name)).encode()
                else:
                    yield image if isinstance(image, bytes) else image.tobytes()

    def _size(self, file: Path, name: str) -> int:
        try:
            return file.stat().st_size
        except OSError as error:
            why = f"cannot be read: {error.strerror or error}"
            if file.is_symlink() and not os.path.exists(file):
                why = f"is a link to {shortened(os.readlink(file))}, which is not there; fetch the file or remove it"
            raise DataError(f"{self.name}: {shortened(name)} {why}.") from None


@dataclass(frozen=True)
class Images:
    """One split, at the size of the model.

    Attributes:
        samples: the images as stored by the source.
        size: side of the decoded images, in pixels.
        resize: how they are resized, one of `kcv.images.RESIZE_MODES`.
        pixels: uint8 [n, size, size, 3], or None if the images are decoded one by one when they are needed.
    """

    samples: Samples
    size: int
    resize: str
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def by_row_group(self) -> bool:
        """Whether the images are read sequentially from Parquet files, in an order that suits that."""
        return self.pixels is None and isinstance(self.samples.images, RowImages)

    @property
    def labels(self) -> Labels:
        """Class positions, int64 [n]."""
        return self.samples.labels

    @property
    def names(self) -> Sequence[str]:
        """A readable name per image."""
        return self.samples.names

    def read(self, index: int) -> Pixels:
        """Returns one image, uint8 [size, size, 3].

        Raises:
            ImageError: the image cannot be read; the message names it.
        """
        if self.pixels is not None:
            image: Pixels = self.pixels[index]
            return image
        return load_image(self.samples.images[index], self.size, self.resize, name=self.samples.names[index])


@dataclass(frozen=True)
class Dataset:
    """The data of a training run.

    Attributes:
        name: the source, as the user named it.
        class_names: the class names that the labels of every split point into.
        image_size: side of the images, in pixels.
        resize: one of `kcv.images.RESIZE_MODES`.
        fingerprint: the fingerprint of the source, see `Source.fingerprint`.
        train: the images that the weights are fitted to.
        val: the images for choices (best epoch, early stopping).
        test: the images for the final measurement; None if the user wants no test split.
        in_memory: whether the pixels of all splits are in memory.
        understood: how the folder of the source was interpreted, in readable lines.
        versions: see `Source.versions`.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    resize: str
    fingerprint: str
    train: Images
    val: Images
    test: Images | None
    in_memory: bool
    understood: tuple[str, ...] = ()
    versions: str | None = None
