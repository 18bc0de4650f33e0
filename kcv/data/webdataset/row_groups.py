"""The images of shards, in groups that are read with one request each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kcv.data.file_names import FileNames
from kcv.data.objects.files import versions_of
from kcv.data.row_images import RowGroups
from kcv.data.webdataset.shards import TarShard

MOST_ROWS: Final = 256
MOST_BYTES: Final = 2**24
"""Of a group, unless one image alone has more."""


@dataclass(frozen=True)
class TarGroups(RowGroups):
    """Neighbouring images of shards.

    Attributes:
        shards: the shards.
        shard: int64 [g], the position in `shards` of each group's shard.
        ends: int64 [g], the number of images up to and including each group.
        offsets: int64 [n], where the bytes of each image begin in its shard.
        sizes: int64 [n], the number of its bytes.
        names: the name of each image.
        encoded_bytes: the total size of all images.
    """

    shards: Sequence[TarShard]
    shard: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    names: FileNames
    encoded_bytes: int

    def read(self, group: int) -> Iterator[list[bytes | None]]:
        """Yields the images of a group, all at once.

        Raises:
            DataError: the shard is missing, has changed, or cannot be reached.
        """
        rows = slice(self.begin(group), int(self.ends[group]))
        offsets, sizes = self.offsets[rows].tolist(), self.sizes[rows].tolist()
        begin = offsets[0]
        content = self.shards[int(self.shard[group])].read(begin, offsets[-1] + sizes[-1])
        yield [content[at - begin : at - begin + size] for at, size in zip(offsets, sizes, strict=True)]

    def read_all(self) -> Iterator[list[bytes | None]]:
        """Yields the images of all groups, in order.

        Raises:
            DataError: as for `read`.
        """
        for group in range(len(self.ends)):
            yield from self.read(group)

    def identity(self) -> Iterator[bytes]:
        """Yields the names and sizes of the images."""
        for name, size in zip(self.names, self.sizes.tolist(), strict=True):
            yield name.encode(errors="surrogateescape")
            yield str(size).encode()

    def versions(self) -> Iterator[str]:
        """Yields what a store calls the versions of the files."""
        return versions_of(self.shards)

    def describe(self, row: int) -> str:
        """Returns the name of an image for messages."""
        return self.names[row]


def grouped(counts: Sequence[int], offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Divides the images of shards into groups of neighbours.

    Args:
        counts: the number of images of each shard.
        offsets: int64 [n], where the bytes of each image begin in its shard.
        sizes: int64 [n], the number of its bytes.

    Returns:
        The shard of each group, and the number of images up to and including it.
    """
    shards: list[int] = []
    ends: list[int] = []
    begin = 0
    for shard, count in enumerate(counts):
        end = begin + count
        while begin < end:
            reach = np.searchsorted(offsets[begin:end] + sizes[begin:end], offsets[begin] + MOST_BYTES, side="right")
            begin += min(max(int(reach), 1), MOST_ROWS)
            shards.append(shard)
            ends.append(begin)
    return shards, ends
