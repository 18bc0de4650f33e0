"""Objects as files, for the readers of Parquet and WebDataset: what they use of an fsspec file system."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Protocol, cast

from kcv.data.objects.place import ObjectPlace
from kcv.stores.listing import StoredObject, find_object
from kcv.stores.location import Location
from kcv.stores.reading import ObjectFile, read


class ObjectFiles:
    """The objects of a place.

    Args:
        objects: those that were listed. Others are looked up.
        root: the prefix that names start from.
    """

    def __init__(self, objects: Iterable[StoredObject], root: Location) -> None:
        self._known = {one.place.key: one for one in objects}
        self._root = root

    @classmethod
    def of(cls, place: ObjectPlace, names: Iterable[str]) -> ObjectFiles:
        """Returns the objects of the given names, which are all in `place`."""
        return cls(place.objects(names), place.root)

    def open(self, key: str, mode: str = "rb") -> BinaryIO:
        """Opens an object.

        Raises:
            FileNotFoundError: there is none of this key.
            DataError: the store refuses or cannot be reached.
        """
        return cast(BinaryIO, ObjectFile(self._object(key)))

    def cat_file(self, key: str, start: int, end: int) -> bytes:
        """Returns a part of an object.

        Raises:
            FileNotFoundError: there is none of this key.
            DataError: it has changed since it was listed, or cannot be read.
        """
        return read(self._object(key), start, end)

    def version(self, key: str) -> str:
        """Returns what the store calls the version of a listed object."""
        return self._known[key].etag

    def _object(self, key: str) -> StoredObject:
        if key not in self._known:
            found = find_object(Location(self._root.bucket, key))
            if found is None:
                raise FileNotFoundError(key)
            self._known[key] = found
        return self._known[key]


class _Stored(Protocol):
    @property
    def place(self) -> str: ...
    @property
    def system(self) -> Any: ...


def versions_of(shards: Iterable[_Stored]) -> Iterator[str]:
    """Yields the versions of those files that are objects of a store."""
    return (shard.system.version(shard.place) for shard in shards if isinstance(shard.system, ObjectFiles))
