"""The row groups of Parquet files, from which images are read when they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kcv.data.objects.files import versions_of
from kcv.data.parquet import bounded_rows
from kcv.data.parquet.shards import Shard
from kcv.data.row_images import RowGroups


@dataclass(frozen=True)
class ParquetGroups(RowGroups):
    """The row groups of all files of a split, in order.

    Attributes:
        shards: the files.
        shard: int64 [g], the position in `shards` of each group's file.
        number: int64 [g], the index of each group within its file.
        ends: int64 [g], the number of rows of the split up to and including each group.
        column: the path of the leaf column with the images, per file.
        encoded_bytes: the total size of all images, according to the files.
    """

    shards: Sequence[Shard]
    shard: NDArray[np.int64]
    number: NDArray[np.int64]
    ends: NDArray[np.int64]
    column: Sequence[str]
    encoded_bytes: int

    def read(self, group: int) -> Iterator[list[bytes | None]]:
        """Yields the images of a group, as many at a time as `kcv.data.parquet.bounded_rows` allows.

        Raises:
            DataError: the file is missing or damaged, or needs too much memory.
        """
        shard = self.shards[int(self.shard[group])]
        column = self.column[int(self.shard[group])]
        file = shard.open()
        try:
            yield from bounded_rows.images(shard, file, int(self.number[group]), column)
        finally:
            file.close()

    def read_all(self) -> Iterator[list[bytes | None]]:
        """Yields the images of all groups, in order; each file is opened once.

        Raises:
            DataError: as for `read`.
        """
        for number, shard in enumerate(self.shards):
            file = shard.open()
            try:
                for group in map(int, self.number[self.shard == number]):
                    yield from bounded_rows.images(shard, file, group, self.column[number])
            finally:
                file.close()

    def identity(self) -> Iterator[bytes]:
        """Yields values that identify these rows without reading them: file names and sizes of row groups."""
        for shard in self.shards:
            yield shard.names[0].encode(errors="surrogateescape")
        for sizes in (self.shard, self.ends):
            yield np.ascontiguousarray(sizes, dtype="<i8").tobytes()
        yield str(self.encoded_bytes).encode()

    def versions(self) -> Iterator[str]:
        """Yields what a store calls the versions of the files."""
        return versions_of(self.shards)

    def describe(self, row: int) -> str:
        """Returns the name of a row for messages: its file and its number in the file."""
        group = int(self.of(np.array([row]))[0])
        shard = int(self.shard[group])
        first = int(np.searchsorted(self.shard, shard))
        return f"{self.shards[shard].name}: row {row - self.begin(first)}"
