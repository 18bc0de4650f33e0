"""Images that are one object each, fetched when they are needed, several at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from kcv.data.file_names import FileNames
from kcv.data.objects.place import ObjectPlace
from kcv.data.order import Indices
from kcv.images.urls import StoredImage
from kcv.stores.ahead import FetchedAhead
from kcv.stores.listing import StoredObject
from kcv.stores.location import Location


class ObjectImages(Sequence[bytes]):
    """Images in an object store, each read when it is requested; usable from several threads and processes.

    Args:
        root: the prefix that the names start from.
        names: the name of each image.
        sizes: int64 [n], the number of bytes of each image.
        etags: the version of each image.

    Attributes:
        sizes: as given.
        etags: as given.
    """

    def __init__(self, root: Location, names: FileNames, sizes: NDArray[np.int64], etags: FileNames) -> None:
        self._root = root
        self._names = names
        self.sizes = sizes
        self.etags = etags

    @classmethod
    def of(cls, place: ObjectPlace, names: FileNames) -> ObjectImages:
        """Returns the images of the given names, which are all in `place`."""
        rows = place.rows(names)
        return cls(place.root, names, place.sizes[rows], place.etags.take(rows))

    @classmethod
    def join(cls, parts: Sequence[ObjectImages]) -> ObjectImages:
        """Returns the images of several sequences below the same prefix as one."""
        names = FileNames.of(name for part in parts for name in part._names)
        etags = FileNames.of(etag for part in parts for etag in part.etags)
        return cls(parts[0]._root, names, np.concatenate([part.sizes for part in parts]), etags)

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> ObjectImages: ...
    def __getitem__(self, index: int | slice) -> bytes | ObjectImages:
        """Returns the bytes of an image; raises ImageError if they cannot be read."""
        if isinstance(index, slice):
            return ObjectImages(self._root, self._names[index], self.sizes[index], self.etags[index])
        one = StoredObject(self._root.below(self._names[index]), int(self.sizes[index]), self.etags[index])
        return StoredImage(one).read()

    def take(self, indices: Indices) -> ObjectImages:
        """Returns the images at `indices`."""
        names, etags = self._names.take(indices), self.etags.take(indices)
        return ObjectImages(self._root, names, self.sizes[indices], etags)

    def ahead(self) -> InOrder:
        """Returns the same images, to be read in order: those that come next are being fetched meanwhile."""
        return InOrder(self)


class InOrder(Sequence[bytes]):
    """Images that one thread reads in order, while others fetch the next ones.

    Args:
        images: the images.
    """

    def __init__(self, images: ObjectImages) -> None:
        self._images = images
        self._fetched = FetchedAhead(images.__getitem__, images.sizes.tolist())

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> InOrder: ...
    def __getitem__(self, index: int | slice) -> bytes | InOrder:
        """Returns the bytes of an image; raises ImageError if they cannot be read."""
        return InOrder(self._images[index]) if isinstance(index, slice) else self._fetched[index]
