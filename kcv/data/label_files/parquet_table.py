"""Reads Parquet files whose rows hold the paths of images instead of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kcv.common.untrusted import refusing
from kcv.data.parquet import bounded_rows
from kcv.data.parquet.shards import Shard
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_TEXT_BYTES: Final = 16_384
"""The most bytes of a value."""


def columns(path: Path) -> tuple[tuple[str, ...], Callable[[Sequence[int]], Iterator[tuple[int, Sequence[Any]]]]]:
    """Returns the columns of texts and whole numbers of a Parquet file, and a function that reads some of them.

    Raises:
        DataError: the file is missing or damaged.
    """
    shard = Shard(str(path), str(path))
    file = shard.open()
    try:
        with refusing(path, DataError, bounded_rows.NOT_PARQUET):
            names = tuple(field.name for field in file.schema_arrow if is_plain(field.type))
    finally:
        file.close()

    def read(chosen: Sequence[int]) -> Iterator[tuple[int, Sequence[Any]]]:
        file = shard.open()
        try:
            with refusing(path, DataError, bounded_rows.NOT_PARQUET):
                leaves = [bounded_rows.leaf_of(shard, file, names[column]) for column in chosen]
                bounded_rows.check_rows(shard, file.metadata, leaves)
                values = [_values(bounded_rows.labels(shard, file, names[column]), path) for column in chosen]
                yield from enumerate(zip(*values, strict=True))
        finally:
            file.close()

    return names, read


def is_plain(kind: pa.DataType) -> bool:
    """Returns whether a column is one of texts or whole numbers."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))


def _values(parts: Iterator[pa.Array], path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for part in parts:
        texts = part.dictionary if pa.types.is_dictionary(part.type) else part
        if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
            longest = pc.max(pc.binary_length(texts)).as_py() or 0
            if longest > MOST_TEXT_BYTES:
                raise DataError(f"{path}: holds a text of {longest:,} bytes; {MOST_TEXT_BYTES:,} are allowed.")
        yield from part.to_pylist()
