"""Tables of images and classes in parts: what is computed of a row needs no copy of all rows."""

from __future__ import annotations

from collections.abc import Iterator

_CELLS = 2**22  # of a part, at least a row


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices that cover all rows of a table, in order."""
    step = max(1, _CELLS // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
