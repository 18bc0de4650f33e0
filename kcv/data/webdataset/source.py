"""Opens WebDataset shards as a source: an index of each shard is read first, its images when they are needed."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.redaction import data_without_credentials
from kcv.data.classes import MOST_CLASSES, align
from kcv.data.dataset import Samples, Source
from kcv.data.file_names import FileNames
from kcv.data.holding import held
from kcv.data.row_images import RowImages
from kcv.data.sources import NO_OPTIONS, SourceOptions
from kcv.data.webdataset.classes import class_names_beside, class_names_of
from kcv.data.webdataset.row_groups import TarGroups, grouped
from kcv.data.webdataset.samples import holds_samples, samples
from kcv.data.webdataset.shards import TarShard, first_of, local_shards, object_shards, remote_shards
from kcv.errors import DataError

if TYPE_CHECKING:
    from kcv.data.objects.place import ObjectPlace

EAGER_BYTES: Final = 2**28
"""Local shards up to this total size are read at once; the images of larger and of remote ones stay in them."""

_PEEKED: Final = 1000  # members of the first shard that it is recognised by


def is_webdataset(path: Path) -> bool:
    """Returns whether a path is a tar file of samples, a pattern of such, or a folder with them and no image."""
    if os.path.isdir(path):
        shards = local_shards(path)
    else:
        shards = [TarShard(str(first_of(path)), str(first_of(path)))] if path.suffix.lower() == ".tar" else []
    if not shards or not os.path.isfile(shards[0].place):
        return False
    try:
        return holds_samples(shards[0], _PEEKED)
    except DataError:  # the reader of archives reports it
        return first_of(path) != path


def open_source(path: Path, name: str | None = None, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens the shards of a tar file, a pattern such as `shard-{000..127}.tar`, or a folder.

    Each image has its label beside it in the shard: `key.jpg` and `key.cls`, or `key.json` with a key `label` or
    `cls`. A label is a name, or the number of a class; `classes.txt` or `labels.json` beside the shards name those. A
    shard belongs to the split that its name, or otherwise that of its folder, stands for; if none does, all shards form
    one source without splits.

    Args:
        path: the file, pattern or folder.
        name: the name of the source; by default the path.
        options: the extension of the images and the key of the labels.

    Raises:
        DataError: a shard is missing or damaged, an image has no label, or a label is not one of the classes.
    """
    return _open(local_shards(path), name or str(path), options)


def open_url(url: str, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens the shards behind a URL like `open_source`; the images stay there until they are needed.

    Raises:
        DataError: as for `open_source`, or the URL cannot be reached.
    """
    return _open(remote_shards(url), data_without_credentials(url), options)


def open_objects(place: ObjectPlace, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens the shards in an object store like `open_source`; the images stay there until they are needed.

    Raises:
        DataError: as for `open_source`, or the store refuses or cannot be reached.
    """
    return _open(object_shards(place), place.url, options)


class _Index:
    """Collects the images of a split."""

    def __init__(self, shards: Sequence[TarShard]) -> None:
        self.shards = shards
        self.counts: list[int] = []
        self.offsets, self.sizes, self.codes = array("q"), array("q"), array("i")
        self.text, self.ends = bytearray(), array("q")

    def read(self, labels: dict[str, int], options: SourceOptions) -> None:
        """Reads the index of each shard; `labels` gets the position of each new label."""
        for shard in self.shards:
            before = len(self.codes)
            stem = shard.stem
            for sample in samples(shard, options):
                code = labels.setdefault(sample.label, len(labels))
                if code >= MOST_CLASSES:
                    raise DataError(f"{shard.name}: its labels name more than {MOST_CLASSES:,} classes.")
                self.codes.append(code)
                self.offsets.append(sample.image.offset)
                self.sizes.append(sample.image.size)
                self.text += os.fsencode(f"{stem}/{sample.key}")
                self.ends.append(len(self.text))
            self.counts.append(len(self.codes) - before)

    def samples(self, classes: NDArray[np.int64]) -> Samples:
        """Returns the images, whose labels are looked up in `classes`."""
        names = FileNames(bytes(self.text), np.array(self.ends, np.int64))
        offsets, sizes = np.array(self.offsets, np.int64), np.array(self.sizes, np.int64)
        shards, ends = grouped(self.counts, offsets, sizes)
        groups = TarGroups(
            self.shards,
            np.array(shards, np.int64),
            np.array(ends, np.int64),
            offsets,
            sizes,
            names,
            int(sizes.sum()),
        )
        return Samples(RowImages(groups, np.arange(len(names))), classes[np.array(self.codes, np.int64)], names)


def _open(shards: Sequence[TarShard], name: str, options: SourceOptions) -> Source:
    by_split: dict[str | None, list[TarShard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    if None in by_split and len(by_split) > 1:
        stray = by_split[None][0].name
        raise DataError(f"{name}: {stray} belongs to no split; begin its name with train-, val- or test-.")
    labels: dict[str, int] = {}
    found: dict[str, _Index] = {}
    for split, files in by_split.items():
        index = found[split or "train"] = _Index(files)
        index.read(labels, options)
        if not len(index.codes):
            raise DataError(f"{name}: no images with a label in the shards{f' of {split}' if split else ''}.")
    class_names, classes = class_names_of(list(labels), class_names_beside(shards[0]), name)
    table = np.array(classes, np.int64)
    parts: Mapping[str, tuple[tuple[str, ...], Samples]] = {
        split: (class_names, index.samples(table)) for split, index in found.items()
    }
    if all(shard.system is None for shard in shards) and sum(shard.size for shard in shards) <= EAGER_BYTES:
        parts = held(parts, 2 * EAGER_BYTES)
    return align(name, parts, flat=None in by_split)
