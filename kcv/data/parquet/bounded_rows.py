"""Reads the values of a Parquet column a few rows at a time, with a bound on what a small file may decompress to.

One value can stand for all rows (a dictionary, shared prefixes), and zeros compress a thousandfold. A file is therefore
not trusted about the memory that its rows need: first its metadata is compared with its size, and then only as many
rows are decompressed at once as fit into memory, however large their values are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcv.common.text import shortened
from kcv.common.untrusted import refusing
from kcv.data.parquet import pages
from kcv.data.parquet.shards import Shard
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

NOT_PARQUET = "cannot be read as Parquet"

MOST_VALUE_BYTES = 2**27
"""The maximum size of one encoded image."""

_BATCH_BYTES = 2**27  # target size of the rows decompressed together
_MOST_ROWS = 64  # the maximum number of these rows
_FEW_ROWS = 8  # from this many rows on, the overhead of a batch is small compared with its images
_SLACK_BYTES = 2**28  # a column of a row group may decompress to this much, regardless of its compressed size,
_MOST_PACKED = 2  # plus this many times its compressed size: images are already compressed
_MOST_REPEATED_BYTES = 2**28  # the rows of a row group may total this much, however often they repeat values,
_MOST_REPEATED = 16  # or this many times its compressed size
_FREE_ROWS = 1_000_000  # a file of any size may have this many rows;
_ROW_BYTES = 16  # beyond that, each row must take at least this much
_LABEL_ROWS = 65536  # read at a time


def check_rows(shard: Shard, metadata: pq.FileMetaData, leaves: list[int]) -> None:
    """Compares the metadata of the requested columns with the size of the file.

    Args:
        shard: the file.
        metadata: its footer.
        leaves: the indices of the leaf columns.

    Raises:
        DataError: the columns would decompress to more than is plausible for such a file.
    """
    packed = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if group.num_rows < 0:
            raise DataError(f"{shard.name}: {NOT_PARQUET} (row group {number} has {group.num_rows} rows).")
        for leaf in leaves:
            chunk = group.column(leaf)
            packed += chunk.total_compressed_size
            if chunk.total_uncompressed_size > _MOST_PACKED * chunk.total_compressed_size + _SLACK_BYTES:
                raise DataError(
                    f"{shard.name}: column {chunk.path_in_schema[:100]!r} of row group {number} would unpack from "
                    f"{chunk.total_compressed_size:,} to {chunk.total_uncompressed_size:,} bytes, which is refused."
                )
    size = min(packed, shard.size) if shard.local else packed
    if metadata.num_rows > max(_FREE_ROWS, size // _ROW_BYTES):
        raise DataError(
            f"{shard.name}: claims {metadata.num_rows:,} rows in {size:,} bytes, which is refused; an image has more."
        )


def images(shard: Shard, file: pq.ParquetFile, group: int, path: str) -> Iterator[list[bytes | None]]:
    """Yields the encoded images of a row group, in order, in batches of at most about 128 MB.

    Args:
        shard: the location of the file.
        file: the opened file.
        group: the index of the row group.
        path: the path of the leaf column, such as `image.bytes`.

    Raises:
        DataError: the file is damaged, an image is too large, or the file decompresses to far more than its size.
    """
    import pyarrow.compute as pc

    leaf = leaf_of(shard, file, path)
    check_rows(shard, file.metadata, [leaf])
    packed = file.metadata.row_group(group).column(leaf).total_compressed_size
    total = came = 0
    with refusing(shard.name, DataError, NOT_PARQUET):
        pages.check(shard, file, group, leaf)
        rows = _rows_at_once(shard, file, group, leaf, path)
        for batch in file.iter_batches(rows, row_groups=[group], columns=[path]):
            column = _flat(batch.column(0))
            lengths = pc.binary_length(column)
            total += pc.sum(lengths).as_py() or 0
            if (pc.max(lengths).as_py() or 0) > MOST_VALUE_BYTES:
                raise DataError(f"{shard.name}: row group {group} holds an image of more than "
                                f"{MOST_VALUE_BYTES:,} bytes, which is refused.")  # fmt: skip
            if total > max(_MOST_REPEATED_BYTES, _MOST_REPEATED * packed):
                raise DataError(f"{shard.name}: the images of row group {group} repeat a few bytes too often: "
                                f"{packed:,} bytes came to {total:,}, which is refused.")  # fmt: skip
            came += len(column)
            yield column.to_pylist()
        if came != (told := file.metadata.row_group(group).num_rows):
            raise ValueError(f"row group {group} has {came:,} images in its {told:,} rows")


def labels(shard: Shard, file: pq.ParquetFile, path: str) -> Iterator[pa.Array]:
    """Yields a column of labels, in order, at most `_LABEL_ROWS` at a time; texts as dictionaries of distinct values.

    Args:
        shard: the location of the file.
        file: the opened file, accepted by `check_rows`.
        path: the path of the leaf column.

    Raises:
        DataError: the file is damaged.
    """
    leaf = leaf_of(shard, file, path)
    chunks = [file.metadata.row_group(group).column(leaf) for group in range(file.metadata.num_row_groups)]
    texts = file.metadata.schema.column(leaf).physical_type == "BYTE_ARRAY"
    with refusing(shard.name, DataError, NOT_PARQUET):
        for group in range(len(chunks)):
            pages.check(shard, file, group, leaf)
    # If pyarrow supports it, a text that stands for many rows is decompressed once.
    by_dictionary = texts and all(map(_by_dictionary, chunks))
    source = shard.open(again=file, by_dictionary=path) if by_dictionary else file
    try:
        with refusing(shard.name, DataError, NOT_PARQUET):
            for group, chunk in enumerate(chunks):
                most = _LABEL_ROWS
                if texts and not by_dictionary and _repeats(chunk):
                    most = _BATCH_BYTES // max(chunk.total_uncompressed_size, 1)
                for batch in source.iter_batches(min(max(most, 1), _LABEL_ROWS), row_groups=[group], columns=[path]):
                    yield _flat(batch.column(0))
    finally:
        if source is not file:
            source.close()


def leaf_of(shard: Shard, file: pq.ParquetFile, path: str) -> int:
    """Returns the index of the leaf column with a path.

    Raises:
        DataError: there is not exactly one such column.
    """
    found = [leaf for leaf in range(len(file.schema)) if file.schema.column(leaf).path == path]
    if len(found) != 1:
        raise DataError(f"{shard.name}: has {len(found)} columns {shortened(path)!r} in place of one.")
    return found[0]


def _rows_at_once(shard: Shard, file: pq.ParquetFile, group: int, leaf: int, path: str) -> int:
    """Returns the number of rows of a row group that certainly fit into about `_BATCH_BYTES`."""
    import pyarrow.compute as pc

    chunk = file.metadata.row_group(group).column(leaf)
    unpacked = max(int(chunk.total_uncompressed_size), 1)
    if not _repeats(chunk):
        return min(max(_BATCH_BYTES * max(int(chunk.num_values), 1) // unpacked, 1), _MOST_ROWS)
    largest = unpacked
    if _BATCH_BYTES // unpacked < _FEW_ROWS and _by_dictionary(chunk):
        once = shard.open(again=file, by_dictionary=path, piecewise=True)
        try:
            # Reads little more than the dictionary, which is at the beginning of the row group.
            first = next(once.iter_batches(1, row_groups=[group], columns=[path]), None)
            if first is not None:
                values = _flat(first.column(0)).dictionary
                mean = unpacked // max(int(chunk.num_values), 1)  # of the values outside the dictionary
                largest = max(int(pc.max(pc.binary_length(values)).as_py() or 0), mean, 1)
        finally:
            once.close()
    return min(max(_BATCH_BYTES // largest, 1), _MOST_ROWS)


def _repeats(chunk: pq.ColumnChunkMetaData) -> bool:
    """Returns whether values may be far larger in total than their data in the file, because some share bytes."""
    return bool(chunk.has_dictionary_page) or "DELTA_BYTE_ARRAY" in chunk.encodings


def _by_dictionary(chunk: pq.ColumnChunkMetaData) -> bool:
    """Returns whether pyarrow can return the distinct values and their index per row."""
    return not any(encoding.startswith("DELTA") for encoding in chunk.encodings)


def _flat(column: pa.Array) -> pa.Array:
    """Returns the only field of a struct column; any other column unchanged."""
    import pyarrow as pa

    # `flatten` applies nulls of the struct to the field; `field` does not.
    return column.flatten()[0] if pa.types.is_struct(column.type) else column
