"""Reads the labels of a Parquet file: numbers or texts, with or without declared names, possibly with gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv.data.classes import MOST_CLASSES, MOST_NAME
from kcv.data.parquet import bounded_rows
from kcv.data.parquet.schema import Columns
from kcv.data.parquet.shards import Shard
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

UNLABELLED = -1
"""The value that Hugging Face uses in splits with withheld labels."""


@dataclass(frozen=True)
class Labels:
    """The labels of one file.

    Attributes:
        codes: int64 [n], positions in `names`; `UNLABELLED` for rows without a label.
        names: the class names that occur in the file, or that it declares.
        declared: whether the schema declares them, in a fixed order.
        numeric: whether the names are numbers.
    """

    codes: NDArray[np.int64]
    names: tuple[str, ...]
    declared: bool
    numeric: bool


Row = Callable[[int], str]
"""Returns the name of a row for messages."""


def read(shard: Shard, file: pq.ParquetFile, columns: Columns, row: Row, *, required: bool) -> Labels:
    """Reads the labels of a file.

    Args:
        shard: the location of the file.
        file: the opened file, accepted by `bounded_rows.check_rows`.
        columns: the columns to read.
        row: returns the name of a row of the file for messages.
        required: whether each row must have a label. If not, nulls and, if the schema declares names, -1 mean that a
            row has no label.

    Raises:
        DataError: a label is missing or is not one of the declared classes; the file is damaged; or it has too many
            classes or too long names.
    """
    if columns.labels is None:
        return Labels(np.full(file.metadata.num_rows, UNLABELLED), (), False, True)
    parts = bounded_rows.labels(shard, file, columns.labels)
    if not columns.numeric:
        return _texts(parts, shard.name, row, required=required)
    if columns.class_names is not None:
        return _declared(parts, columns.class_names, row, required=required)
    return _numbers(parts, shard.name, row, required=required)


def _declared(parts: Iterator[pa.Array], names: tuple[str, ...], row: Row, *, required: bool) -> Labels:
    codes: list[NDArray[np.int64]] = []
    begin = 0
    for values, missing in map(_values, parts):
        if required and missing.any():
            raise DataError(f"{row(begin + int(missing.argmax()))}: the label is null.")
        # Compared before the conversion to int64, which would make the largest uint64 values negative.
        lost = missing | (np.zeros_like(missing) if required else values == UNLABELLED)
        wrong = ~lost & ((values < 0) | (values >= len(names)))
        if wrong.any():
            i = int(wrong.argmax())
            raise DataError(
                f"{row(begin + i)}: label {values[i]} is not one of 0 to {len(names) - 1}, the classes that the schema "
                "names."
            )
        codes.append(np.where(lost, UNLABELLED, values.astype(np.int64)))
        begin += len(values)
    return Labels(_joined(codes), names, True, False)


def _numbers(parts: Iterator[pa.Array], file: str, row: Row, *, required: bool) -> Labels:
    """Reads numbers without declared names; each number is its own class name."""
    position: dict[int, int] = {}
    codes: list[NDArray[np.int64]] = []
    begin = 0
    for values, missing in map(_values, parts):
        if required and missing.any():
            raise DataError(f"{row(begin + int(missing.argmax()))}: the label is null.")
        distinct, places = np.unique(values[~missing], return_inverse=True)
        table = np.array([position.setdefault(int(value), len(position)) for value in distinct], np.int64)
        _check_count(len(position), file)
        code = np.full(len(values), UNLABELLED, np.int64)
        code[~missing] = table[places]
        codes.append(code)
        begin += len(values)
    return Labels(_joined(codes), tuple(map(str, position)), False, True)


def _texts(parts: Iterator[pa.Array], file: str, row: Row, *, required: bool) -> Labels:
    import pyarrow as pa
    import pyarrow.compute as pc

    position: dict[str, int] = {}
    codes: list[NDArray[np.int64]] = []
    begin = 0
    for part in parts:
        array = part if pa.types.is_dictionary(part.type) else part.dictionary_encode()
        indices = array.indices
        missing = pc.is_null(array).to_numpy(zero_copy_only=False)  # the dictionary may contain a null as well
        if required and missing.any():
            raise DataError(f"{row(begin + int(missing.argmax()))}: the label is null.")
        _check_count(len(array.dictionary), file)
        longest = pc.max(pc.binary_length(array.dictionary)).as_py() or 0
        if longest > 4 * MOST_NAME:  # a character has at most 4 bytes
            raise DataError(f"{file}: holds a label of {longest:,} bytes; {MOST_NAME:,} characters are allowed.")
        names = [str(value) for value in array.dictionary.to_pylist()]
        places = indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        used = np.unique(places[~missing])
        table = np.full(max(len(names), 1), UNLABELLED, np.int64)
        table[used] = [position.setdefault(names[int(place)], len(position)) for place in used]
        _check_count(len(position), file)
        codes.append(np.where(missing, UNLABELLED, table[places]))
        begin += len(array)
    return Labels(_joined(codes), tuple(position), False, False)


def _values(part: pa.Array) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """Returns the numbers of a column, in their own dtype, and a mask of the missing ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(part.type):
        part = part.dictionary_decode()
    missing = pc.is_null(part).to_numpy(zero_copy_only=False)
    if pa.types.is_null(part.type):
        return np.zeros(len(part), np.int64), missing
    return part.fill_null(0).to_numpy(zero_copy_only=False), missing


def _check_count(classes: int, file: str) -> None:
    if classes > MOST_CLASSES:
        raise DataError(f"{file}: its labels name more than {MOST_CLASSES:,} classes, which is refused.")


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts])
