"""Images that stay in large files, such as Parquet, and are read a few rows at a time, sequentially if possible."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kcv.data.order import Indices
from kcv.errors import DataError

_ITERATED_ROWS = 8  # at a time
_CURSORS = 8
_MOST_HELD = 2**30  # the maximum of encoded images, in bytes, that are read before they are needed,
_MOST_ABOVE_MEAN = 8  # or this many times what the metadata of their files suggests


class RowGroups(ABC):
    """The rows of a split in the order of their files, in groups that are read at once.

    Attributes:
        ends: int64 [g], the number of rows of the split up to and including each group.
        encoded_bytes: the total size of all images, according to the files.
    """

    ends: NDArray[np.int64]
    encoded_bytes: int

    def of(self, rows: Indices) -> Indices:
        """Returns the group of each row."""
        return np.searchsorted(self.ends, rows, side="right").astype(np.int64)

    def begin(self, group: int) -> int:
        """Returns the first row of a group."""
        return int(self.ends[group - 1]) if group else 0

    @abstractmethod
    def read(self, group: int) -> Iterator[list[bytes | None]]:
        """Yields the images of a group, in order, some at a time.

        Raises:
            DataError: the file is missing or damaged, or needs too much memory.
        """

    @abstractmethod
    def read_all(self) -> Iterator[list[bytes | None]]:
        """Yields the images of all groups, in order.

        Raises:
            DataError: as for `read`.
        """

    @abstractmethod
    def identity(self) -> Iterator[bytes]:
        """Yields values that identify these rows without reading their images."""

    def versions(self) -> Iterator[str]:
        """Yields what a store calls the versions of the files, if they are in one that has versions (ETag)."""
        return iter(())

    @abstractmethod
    def describe(self, row: int) -> str:
        """Returns the name of a row for messages."""


class RowImages(Sequence[bytes]):
    """The encoded images of some rows, read when they are requested.

    It may be used from several threads. Sequential reading is fast; a distant jump reads a row group from its
    beginning.

    Args:
        groups: the row groups of the split.
        rows: the selected rows, int64 [n]; ascending for speed.

    Attributes:
        groups: as given.
        rows: as given.
    """

    def __init__(self, groups: RowGroups, rows: Indices) -> None:
        self.groups = groups
        self.rows = rows
        self._lock = threading.Lock()
        self._cursors: list[_Cursor] = []

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> RowImages: ...
    def __getitem__(self, index: int | slice) -> bytes | RowImages:
        if isinstance(index, slice):
            return RowImages(self.groups, self.rows[index])
        row = int(self.rows[index])
        with self._lock:
            return checked(self.groups, row, self._cursor(row).at(row))

    def __iter__(self) -> Iterator[bytes]:
        for encoded in self.batches(np.array_split(np.arange(len(self)), max(1, len(self) // _ITERATED_ROWS))):
            yield from encoded

    def take(self, indices: Indices) -> RowImages:
        """Returns the images at `indices`."""
        return RowImages(self.groups, self.rows[indices])

    @property
    def mean_bytes(self) -> float:
        """The average size of an encoded image."""
        return self.groups.encoded_bytes / max(1, int(self.groups.ends[-1]))

    def batches(self, parts: Sequence[Indices]) -> Iterator[list[bytes]]:
        """Yields the images at each part's positions; reads every row group at most once, sequentially.

        Groups are read in the order in which they are first needed. Images that are read too early are held in memory:
        about one window in the order of `kcv.data.order.window_shuffle`, none in ascending order.

        Raises:
            DataError: a file cannot be read, or has no image in a row.
        """
        # Half the width of other positions, because these are the largest arrays that grow with the data set.
        wanted: Any = (
            self.rows[np.concatenate(parts)].astype(_kind(self.groups)) if len(parts) else np.zeros(0, np.int32)
        )
        group_of = self.groups.of(wanted).astype(np.int32)
        _, first_need = np.unique(group_of, return_index=True)
        order: Any = group_of[np.sort(first_need)]
        rank = np.empty(int(order.max(initial=-1)) + 1, np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        # The order in which rows are read from the files, and how far to read for each batch.
        arrival = np.lexsort((wanted, rank[group_of])).astype(wanted.dtype)
        del group_of
        arrives = np.empty_like(arrival)
        arrives[arrival] = np.arange(len(wanted), dtype=wanted.dtype)
        source = self._rows_of(order, wanted[arrival])
        del arrival
        held: dict[int, bytes] = {}
        held_bytes = 0
        done, read = 0, 0
        for part in parts:
            mine = wanted[done : done + len(part)]
            until = int(arrives[done : done + len(part)].max(initial=-1)) + 1
            while read < until:
                row, data = next(source)
                held[row] = data
                held_bytes += len(data)
                read += 1
                if held_bytes > max(_MOST_HELD, _MOST_ABOVE_MEAN * len(held) * self.mean_bytes):
                    raise DataError(
                        f"{self.groups.describe(row)}: the images before it need {held_bytes:,} bytes, many times "
                        "what their files say, which is refused."
                    )
            encoded = [held.pop(int(row)) for row in mine]
            held_bytes -= sum(map(len, encoded))
            yield encoded
            done += len(part)

    def _rows_of(self, order: Indices, wanted: Indices) -> Iterator[tuple[int, bytes]]:
        """Yields the wanted rows, which are sorted by the groups of `order`."""
        at = 0
        for group in map(int, order):
            begin, end = self.groups.begin(group), int(self.groups.ends[group])
            row = begin
            for values in self.groups.read(group):
                while at < len(wanted) and row <= wanted[at] < row + len(values):
                    yield int(wanted[at]), checked(self.groups, int(wanted[at]), values[int(wanted[at]) - row])
                    at += 1
                row += len(values)
                if at == len(wanted) or not row <= wanted[at] < end:
                    break

    def _cursor(self, row: int) -> _Cursor:
        """Returns the cursor closest before a row, or a new one."""
        group = int(self.groups.of(np.array([row]))[0])
        usable = [cursor for cursor in self._cursors if cursor.group == group and cursor.begin <= row]
        if usable:
            cursor = max(usable, key=lambda cursor: cursor.begin)
            self._cursors.remove(cursor)
        else:
            cursor = _Cursor(self.groups, group)
        self._cursors = [*self._cursors[-_CURSORS + 1 :], cursor]
        return cursor

    def __reduce__(self) -> Any:
        return RowImages, (self.groups, self.rows)


class _Cursor:
    """A position in a row group that moves forward."""

    def __init__(self, groups: RowGroups, group: int) -> None:
        self.group = group
        self.begin = groups.begin(group)
        self._values: list[Any] = []
        self._batches = groups.read(group)

    def at(self, row: int) -> Any:
        while row >= self.begin + len(self._values):
            self.begin += len(self._values)
            self._values = next(self._batches)
        return self._values[row - self.begin]


def _kind(groups: RowGroups) -> type[np.integer[Any]]:
    return np.int32 if groups.ends[-1] < 2**31 else np.int64


def checked(groups: RowGroups, row: int, value: Any) -> bytes:
    """Returns the bytes of an image.

    Raises:
        DataError: the image is null.
    """
    if value is None:
        raise DataError(f"{groups.describe(row)}: the image is null; its bytes must be in the file.")
    data: bytes = value
    return data


class RowNames(Sequence[str]):
    """The names of some rows of a split, such as `train/17`."""

    def __init__(self, split: str, rows: Indices) -> None:
        self._split = split
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> RowNames: ...
    def __getitem__(self, index: int | slice) -> str | RowNames:
        if isinstance(index, slice):
            return RowNames(self._split, self._rows[index])
        return f"{self._split}/{int(self._rows[index])}"

    def take(self, indices: Indices) -> RowNames:
        """Returns the names at `indices`."""
        return RowNames(self._split, self._rows[indices])
