"""Images at URLs that the user gives, and in object stores: fetched when they are needed, and never stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TypeAlias

from kcv import images
from kcv.common.download import fetch, is_url
from kcv.common.text import shortened
from kcv.errors import DataError, ImageError
from kcv.images.files import is_clutter, is_image_name
from kcv.stores.listing import StoredObject, below, find_object, has_pattern, matching
from kcv.stores.location import Location, is_object_url
from kcv.stores.reading import read

MOST_BYTES: Final = 256 * 2**20
MOST_SECONDS: Final = 60.0
MOST_STORED_BYTES: Final = 2**27
"""Of an object, several of which are held while they wait for their turn."""


@dataclass(frozen=True)
class Url:
    """An image on a server.

    Attributes:
        text: the URL as given.
    """

    text: str

    def __str__(self) -> str:
        """Returns the URL."""
        return self.text

    def read(self) -> bytes:
        """Fetches the file.

        Raises:
            ImageError: the file cannot be downloaded.
        """
        try:
            return fetch(self.text, most=MOST_BYTES, seconds=MOST_SECONDS)
        except DataError as error:
            raise ImageError(str(error)) from None


@dataclass(frozen=True)
class StoredImage:
    """An image in an object store.

    Attributes:
        found: the object, as it was listed.
    """

    found: StoredObject

    def __str__(self) -> str:
        """Returns its URL."""
        return str(self.found)

    def read(self) -> bytes:
        """Fetches the object.

        Raises:
            ImageError: it is too large, has changed since it was listed, or cannot be read.
        """
        if self.found.size > MOST_STORED_BYTES:
            raise ImageError(f"{self}: has {self.found.size:,} bytes; {MOST_STORED_BYTES:,} are allowed.")
        return read(self.found, error=ImageError)


Image: TypeAlias = Path | Url | StoredImage
"""An image on disk, at a URL or in an object store."""

Find: TypeAlias = Callable[[], Iterator[Image]]


def found(named: Sequence[str | Path], *, recursive: bool) -> Iterator[Image]:
    """Yields the images of files, folders, patterns and URLs, in the given order; see `kcv.images.find`.

    The URL of an object store stands for an object, or like a folder for the images below a prefix, in the order of
    their keys; or it is a pattern.

    Raises:
        DataError: a path does not exist, or contains no image.
    """
    return chain.from_iterable([_found(given, recursive) for given in named])


def _found(given: str | Path, recursive: bool) -> Iterable[Image]:
    if is_object_url(given):
        return _in_store(str(given), recursive)
    return [Url(str(given))] if is_url(given) else images.find([given], recursive=recursive)


def _in_store(url: str, recursive: bool) -> Iterable[Image]:
    place = Location.parse(url)
    if (one := find_object(place)) is not None:
        return [StoredImage(one)]
    pattern = has_pattern(place)
    found = _images(matching(place) if pattern else below(place.as_prefix, recursive=recursive), place)
    first = next(found, None)
    if first is not None:
        return chain([first], found)
    shown = shortened(url)
    if not pattern and not recursive and next(_images(below(place.as_prefix), place), None) is not None:
        raise DataError(f"{shown}: no images there, only below further prefixes; --recursive takes those.")
    raise DataError(f"{shown}: no images there ({', '.join(sorted(images.EXTENSIONS))}).")


def _images(found: Iterable[StoredObject], place: Location) -> Iterator[Image]:
    """Yields the objects that count as images by their names, like files in a folder."""
    root = len(place.folder.key)
    for one in found:
        *folders, name = one.place.key[root:].split("/")
        if is_image_name(name) and not any(map(is_clutter, folders)):
            yield StoredImage(one)
