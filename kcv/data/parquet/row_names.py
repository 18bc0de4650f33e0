"""Names of rows, made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from kcv.data.order import Indices


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
        """Returns those at `indices`."""
        return RowNames(self._split, self._rows[indices])
