"""Label files in an object store, with their images beside them; a label file is fetched before it is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kcv.common.files import temporary_folder
from kcv.common.text import shortened
from kcv.data.dataset import Encoded, Source
from kcv.data.file_names import FileNames
from kcv.data.folder_tree.split_folders import split_of
from kcv.data.label_files.columns import has_named_columns
from kcv.data.label_files.places import Places
from kcv.data.label_files.recognising import METADATA
from kcv.data.label_files.source import PlacesBelow, read_files
from kcv.data.label_files.table import MOST_BYTES, TEXT_SUFFIXES, open_table
from kcv.data.objects.images import ObjectImages
from kcv.data.objects.place import ObjectPlace
from kcv.data.sources import SourceOptions
from kcv.errors import DataError
from kcv.images.files import is_image_name
from kcv.stores.listing import StoredObject
from kcv.stores.location import SCHEME, Location, is_object_url
from kcv.stores.reading import read

_PIECE: Final = 2**24


def is_label_source(place: ObjectPlace) -> bool:
    """Returns whether a URL names a label file, or a prefix that is read by its metadata files.

    The rules are those for folders on disk (`kcv.data.label_files.recognising`), but that no metadata in Parquet are
    read from a store.
    """
    if place.single:
        return place.names[0].lower().endswith(TEXT_SUFFIXES)
    found = _metadata(place)
    if not found:
        return False
    folders = {name.rpartition("/")[0] for name in found.values()}
    if any(is_image_name(name.rpartition("/")[2]) and name.rpartition("/")[0] in folders for name in place.shown):
        return True
    with _fetched(place, found) as files:
        return any(map(_has_labels, files.values()))


def open_source(place: ObjectPlace, options: SourceOptions) -> Source:
    """Opens a label file, or a prefix by its metadata files, as `kcv.data.label_files.source` does on disk.

    Paths start from the prefix of the file, or from `options.image_folder`, which is then a URL of a store, too, and
    stay below it; they may be URLs of objects there.

    Args:
        place: what the user's URL names.
        options: the columns, and the prefix of the images.

    Raises:
        DataError: as for label files on disk, or the store refuses or cannot be reached.
    """
    files: Mapping[str | None, str] = {None: place.names[0]} if place.single else _metadata(place)
    images = place
    if place.single:
        images = ObjectPlace.find(_named_folder(options.image_folder) or str(place.root))
    folder = _InStore(images, named=place.single and options.image_folder is not None)
    with _fetched(place, files) as local:
        return read_files(local, folder, place.url, options, folder=not place.single)


def _named_folder(named: str | None) -> str | None:
    if named is None:
        return None
    if not is_object_url(named):
        raise DataError(f"data.image_folder={shortened(named)}: is no URL such as s3://BUCKET/PREFIX/, where the label "
                        "file is.")  # fmt: skip
    return str(Location.parse(named).as_prefix)


def _metadata(place: ObjectPlace) -> dict[str | None, str]:
    """Returns the metadata file of a prefix (under None), or those of its folders named like splits."""
    usual = [name for name in METADATA if name.endswith(TEXT_SUFFIXES)]
    there = {name for name in place.ending(*usual) if name.rpartition("/")[2] in usual}
    for name in usual:
        if name in there:
            return {None: name}
    folders = sorted({name.partition("/")[0] for name in there if split_of(name.partition("/")[0])})
    return {folder: next(f"{folder}/{name}" for name in usual if f"{folder}/{name}" in there) for folder in folders}


def _has_labels(file: Path) -> bool:
    try:
        return has_named_columns(open_table(file))
    except DataError:
        return False


@contextmanager
def _fetched(place: ObjectPlace, names: Mapping[str | None, str]) -> Iterator[dict[str | None, Path]]:
    """Gives copies of label files for as long as the block runs; messages in it name their URLs."""
    with temporary_folder("kcv-labels-") as folder:
        try:
            files = {}
            for split, one in zip(names, place.objects(names.values()), strict=True):
                files[split] = Path(folder, split or "", Path(one.place.key).name)
                _fetch(one, files[split])
            yield files
        except DataError as error:
            raise DataError(str(error).replace(f"{folder}/", str(place.root))) from None


def _fetch(one: StoredObject, file: Path) -> None:
    if one.size > MOST_BYTES:
        raise DataError(f"{one}: is larger than {MOST_BYTES:,} bytes.")
    try:
        file.parent.mkdir(exist_ok=True)
        with file.open("wb") as stream:
            for begin in range(0, one.size, _PIECE):
                stream.write(read(one, begin, begin + _PIECE))
    except OSError as error:
        raise DataError(f"{one}: cannot be kept in {file.parent}: {error.strerror or error}; TMPDIR names another "
                        "folder.") from None  # fmt: skip


class _InStore:
    """The objects below a prefix, as what holds the images of label files."""

    def __init__(self, place: ObjectPlace, *, named: bool) -> None:
        self.root: Path | None = None
        self.shown = str(place.root)
        self._place = place
        self._named = named

    def places(self, below: str | None) -> Places:
        root = self._place.root
        if below is None:
            return _Places(root, named=self._named)
        return PlacesBelow(_Places(root.below(f"{below}/"), named=False), below)

    def missing(self, names: FileNames) -> Sequence[str]:
        rows = self._place.rows(names)
        return [names[int(i)] for i in (rows < 0).nonzero()[0]]

    def images(self, names: FileNames) -> Sequence[Encoded]:
        return ObjectImages.of(self._place, names)


class _Places(Places):
    """The paths in a label file of a store: below a prefix, or the URLs of objects there."""

    def __init__(self, root: Location, *, named: bool) -> None:
        super().__init__(Path("/", root.bucket, root.key), named=named, shown=str(root))
        self._url = str(root)

    def name(self, path: str) -> str:
        """Returns the name of an object below the prefix; see `Places.name`."""
        if path.startswith(SCHEME):
            if not path.startswith(self._url):
                raise self._outside(path)
            path = path.removeprefix(self._url)
        elif path.startswith("/"):
            raise self._outside(path)
        return super().name(path)
