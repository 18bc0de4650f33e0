"""Stores very many file names in one buffer: as Python objects, a million would take hundreds of megabytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from kcv.data.order import Indices

_ITERATED = 65536  # names whose places are looked up at once
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()  # as os.fsdecode


class FileNames(Sequence[str]):
    """Paths below a folder, as text with `/`.

    Args:
        text: all names, concatenated.
        ends: int64 [m], the end of each name in `text`.
        rows: the selected names, int64 [n]; by default all.
    """

    def __init__(self, text: bytes, ends: NDArray[np.int64], rows: Indices | None = None) -> None:
        self._text = text
        self._ends = ends
        self._rows = np.arange(len(ends)) if rows is None else rows

    @classmethod
    def of(cls, names: Iterable[str]) -> FileNames:
        """Creates a sequence of the given names."""
        text, ends = bytearray(), []
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        return cls(bytes(text), np.array(ends, np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FileNames: ...
    def __getitem__(self, index: int | slice) -> str | FileNames:
        if isinstance(index, slice):
            return FileNames(self._text, self._ends, self._rows[index])
        row = int(self._rows[index])
        begin = int(self._ends[row - 1]) if row else 0
        return os.fsdecode(self._text[begin : int(self._ends[row])])

    def __iter__(self) -> Iterator[str]:
        text, ends = self._text, self._ends
        for first in range(0, len(self._rows), _ITERATED):
            rows = self._rows[first : first + _ITERATED]
            begins = np.where(rows > 0, ends[rows - 1], 0).tolist()
            for begin, end in zip(begins, ends[rows].tolist(), strict=True):
                yield text[begin:end].decode(_ENCODING, _ERRORS)

    def take(self, indices: Indices) -> FileNames:
        """Returns the names at `indices`."""
        return FileNames(self._text, self._ends, self._rows[indices])


class FilePaths(Sequence[Path]):
    """The paths of named files.

    Args:
        root: the folder that contains them.
        names: their names below the folder.
    """

    def __init__(self, root: Path, names: FileNames) -> None:
        self._root = root
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> FilePaths: ...
    def __getitem__(self, index: int | slice) -> Path | FilePaths:
        if isinstance(index, slice):
            return FilePaths(self._root, self._names[index])
        return self._root / self._names[index]

    def take(self, indices: Indices) -> FilePaths:
        """Returns the paths at `indices`."""
        return FilePaths(self._root, self._names.take(indices))
