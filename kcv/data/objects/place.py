"""What a URL of an object store names: one object, those that match a pattern, or all below a prefix."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kcv.common.text import shortened
from kcv.data.file_names import FileNames
from kcv.data.webdataset.shards import expand
from kcv.errors import DataError
from kcv.images.files import is_clutter
from kcv.stores.listing import StoredObject, before_pattern, below, find_object, has_pattern, matching
from kcv.stores.location import Location


@dataclass(frozen=True)
class ObjectPlace:
    """The objects that a URL names.

    Attributes:
        url: the URL, as the user named it.
        root: the prefix that their names start from.
        names: their names, in the order of their keys.
        sizes: int64 [n], their sizes in bytes.
        etags: what the store calls the versions of their contents, or empty texts.
        single: whether the URL names one object.
    """

    url: str
    root: Location
    names: FileNames
    sizes: NDArray[np.int64]
    etags: FileNames
    single: bool = False

    @classmethod
    def find(cls, url: str) -> ObjectPlace:
        """Asks the store what a URL names.

        Raises:
            DataError: it names nothing, or the store refuses or cannot be reached.
            UsageError: botocore is not installed, or the configuration of AWS cannot be used.
        """
        place = Location.parse(url)
        names = expand(place.key)
        if names != [place.key]:
            return _of_range(url, place, names)
        if (one := find_object(place)) is not None:
            return _collected(url, place.folder, [one], single=True)
        if has_pattern(place):
            found = _collected(url, before_pattern(place).folder, matching(place))
        else:
            found = _collected(url, place.as_prefix, below(place.as_prefix))
        if not len(found.names):
            what = "no object matches" if has_pattern(place) else "there is no such object, and none below that prefix"
            raise DataError(f"{shortened(url)}: {what}.")
        return found

    @cached_property
    def shown(self) -> list[str]:
        """The names without hidden ones."""
        return [name for name in self.names if not any(map(is_clutter, name.split("/")))]

    def ending(self, *suffixes: str, most_depth: int = 1) -> list[str]:
        """Returns the names, but hidden ones, with one of some suffixes, sorted.

        Args:
            suffixes: in lower case.
            most_depth: the most folders on the way to it.
        """
        ours = (name for name in self.shown if name.lower().endswith(suffixes))
        return sorted((name for name in ours if name.count("/") <= most_depth), key=lambda name: name.split("/"))

    def objects(self, names: Iterable[str]) -> Iterator[StoredObject]:
        """Yields the objects of some names.

        Raises:
            KeyError: there is no object of a name.
        """
        rows = self._rows
        for name in names:
            row = rows[name]
            yield StoredObject(self.root.below(name), int(self.sizes[row]), self.etags[row])

    def rows(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Returns the positions of names, int64 [m]; -1 for those that are not there."""
        rows = self._rows
        return np.fromiter((rows.get(name, -1) for name in names), np.int64)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}


def _collected(url: str, root: Location, found: Iterable[StoredObject], *, single: bool = False) -> ObjectPlace:
    """Holds many objects in little memory."""
    names, sizes, etags = bytearray(), array("q"), bytearray()
    name_ends, etag_ends = array("q"), array("q")
    for one in found:
        names += one.place.key[len(root.key) :].encode()
        etags += one.etag.encode()
        name_ends.append(len(names))
        etag_ends.append(len(etags))
        sizes.append(one.size)
    return ObjectPlace(
        url,
        root,
        FileNames(bytes(names), np.array(name_ends, np.int64)),
        np.array(sizes, np.int64),
        FileNames(bytes(etags), np.array(etag_ends, np.int64)),
        single,
    )


def _of_range(url: str, place: Location, keys: Sequence[str]) -> ObjectPlace:
    """Returns the objects of a pattern such as `shard-{000..127}.tar`, all of which must be there."""
    begin = replace(place, key=place.key[: place.key.find("{")])
    wanted = set(keys)
    found = {one.place.key: one for one in below(begin) if one.place.key in wanted}
    missing = next((key for key in keys if key not in found), None)
    if missing is not None:
        raise DataError(f"{replace(place, key=missing)}: there is no such object.")
    return _collected(url, begin.folder, (found[key] for key in keys))
