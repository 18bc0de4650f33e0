"""Opens a label file, or a folder of images with metadata files, as a source of images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from kcv.common.files import expand_user
from kcv.common.text import shortened
from kcv.data.classes import align
from kcv.data.dataset import SPLITS, Encoded, Samples, Source
from kcv.data.file_names import FileNames, FilePaths
from kcv.data.folder_tree.split_folders import splits_of
from kcv.data.folder_tree.summary import Understood
from kcv.data.label_files.columns import columns_of
from kcv.data.label_files.listing import Listing, without_repeats
from kcv.data.label_files.missing import missing_files
from kcv.data.label_files.places import Places
from kcv.data.label_files.recognising import metadata_files
from kcv.data.label_files.table import open_table
from kcv.data.sources import NO_OPTIONS, SourceOptions
from kcv.errors import DataError

_NAMED_MISSING = 3


def open_source(path: Path, name: str | None = None, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens a label file, or a folder by its metadata files.

    Each row names an image and its label, and perhaps its split. Paths start from the folder of the file, or from
    `options.image_folder`, and stay in it. Rows without a label (empty, null or -1) are left out, and so are rows that
    repeat another one. No image is opened.

    Args:
        path: a file with one of `kcv.data.label_files.table.SUFFIXES`, or a folder with metadata files.
        name: the name of the source; by default the path.
        options: the columns, and the folder of the images.

    Raises:
        DataError: a file is damaged or too large, a column is missing, a row cannot be used, a path leads out of the
            folder, images are missing, or one has two labels.
    """
    folder = os.path.isdir(path)
    files: Mapping[str | None, Path] = metadata_files(path) if folder else {None: path}
    root = path if folder else path.parent
    if options.image_folder is not None and not folder:
        root = _named_folder(options.image_folder)
    return read_files(files, _OnDisk(root, named=root != path.parent), name or str(path), options, folder=folder)


class ImageFolder(Protocol):
    """What holds the images that label files name.

    Attributes:
        shown: its name in messages.
        root: its path, if it is a folder.
    """

    shown: str
    root: Path | None

    def places(self, below: str | None) -> Places:
        """Returns what turns the paths of a label file, of the folder `below` or of this one, into names."""

    def missing(self, names: FileNames) -> Sequence[str]:
        """Returns the names of images that are not there."""

    def images(self, names: FileNames) -> Sequence[Encoded]:
        """Returns the images of the given names."""


class _OnDisk:
    """A folder on this machine."""

    def __init__(self, root: Path, *, named: bool) -> None:
        self.root: Path | None = root
        self.shown = str(root)
        self._root = root
        self._named = named

    def places(self, below: str | None) -> Places:
        if below is None:
            return Places(self._root, named=self._named)
        return PlacesBelow(Places(self._root / below, named=False), below)

    def missing(self, names: FileNames) -> Sequence[str]:
        return missing_files(self._root, names)

    def images(self, names: FileNames) -> Sequence[Encoded]:
        return FilePaths(self._root, names)


def read_files(
    files: Mapping[str | None, Path], images: ImageFolder, name: str, options: SourceOptions, *, folder: bool
) -> Source:
    """Reads label files as a source, as `open_source` does.

    Args:
        files: a file under None, or metadata files by the folders of the splits.
        images: what holds the images.
        name: the name of the source.
        options: the columns.
        folder: whether the user named a folder with metadata files.

    Raises:
        DataError: as for `open_source`.
    """
    listing, facts = Listing(), []
    for split, file in files.items():
        table = open_table(file)
        if not table.names:
            raise DataError(f"{file}: is empty.")
        columns = columns_of(table, options)
        here = [columns.path, columns.label, *([] if columns.split is None else [columns.split])]
        facts = [f"columns: {', '.join(table.names[column] for column in here)}"]
        listing.add(table, columns, images.places(split), split)
    if not len(listing):
        raise DataError(f"{name}: {'no row has a label' if listing.unlabelled else 'has no rows'}.")
    if folder and listing.splits == ("",):
        listing.split_by_folder()
    source = _source(listing, images, name)
    if listing.unlabelled:
        facts.append(f"left out: {_rows(listing.unlabelled)} without a label")
    if listing.repeated:
        facts.append(f"left out: {_rows(listing.repeated)} that repeat{'s' * (listing.repeated == 1)} another one")
    listed = ", ".join(f"{split}/{file.name}" if split else file.name for split, file in files.items())
    counts = {split: len(samples) for split, samples in source.splits.items()}
    shown = {} if source.flat else {split: listed for split in SPLITS if split in counts}
    understood = Understood(source.class_names, shown, counts, listed=listed, facts=facts)
    return replace(source, understood=understood)


class PlacesBelow(Places):
    """The paths in the metadata file of a split's folder, as names below the folder with the splits."""

    def __init__(self, places: Places, folder: str) -> None:
        super().__init__(places.root, named=False)
        self._places = places
        self._folder = folder

    def name(self, path: str) -> str:
        """Returns the name of a file; see `Places.name`."""
        return f"{self._folder}/{self._places.name(path)}"


def _named_folder(named: str) -> Path:
    folder = expand_user(named)
    if not os.path.isdir(folder):
        raise DataError(f"data.image_folder={shortened(named)}: is no folder, or may not be read.")
    return folder


def _source(listing: Listing, images: ImageFolder, name: str) -> Source:
    """Returns the images of a listing as a source."""
    names, codes = listing.names(), listing.split_codes()
    class_names, labels = listing.labels()
    try:
        kept = without_repeats(names, labels, class_names, codes)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    listing.repeated = len(names) - len(kept)
    _require_files(images, names, name)
    split_of = _splits(listing.splits, names, name)
    parts = {}
    for split in SPLITS:
        mine = np.array([split_of[written] == split for written in listing.splits])
        rows = kept[mine[codes[kept]]]
        if len(rows):
            of_split = names.take(rows)
            parts[split] = class_names, Samples(images.images(of_split), labels[rows], of_split)
    return align(name, parts, flat=listing.splits == ("",), root=images.root)


def _splits(written: Sequence[str], names: FileNames, name: str) -> Mapping[str, str]:
    """Returns the split that each written name of a split stands for; all of train if there are none."""
    if tuple(written) == ("",):
        return {"": "train"}
    if "" in written:
        raise DataError(f"{name}: some rows have no split, others {_quoted([each for each in written if each])}.")
    found = splits_of(written)
    if unknown := [each for each in written if each not in found]:
        raise DataError(f"{name}: {_quoted(unknown)} is no split; use train, val and test.")
    return found


def _require_files(images: ImageFolder, names: FileNames, name: str) -> None:
    """Refuses images that are not there: the message counts them and names the first ones."""
    missing = images.missing(names)
    if not missing:
        return
    shown = ", ".join(shortened(each, 100) for each in missing[:_NAMED_MISSING])
    more = ", ..." if len(missing) > _NAMED_MISSING else ""
    hint = "" if any("." in each for each in missing) else " The names have no suffix, such as .jpg."
    raise DataError(
        f"{name}: {len(missing):,} of {len(names):,} images are not in {shortened(images.shown)}: {shown}{more}. "
        f"Paths start from there; data.image_folder names another folder.{hint}"
    )


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(shortened(each, 60)) for each in names[:4]) + (", ..." if len(names) > 4 else "")
