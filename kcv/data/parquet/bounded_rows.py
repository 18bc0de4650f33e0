"""Values of a Parquet column, a few rows at a time: what a file of a few kilobytes may unpack to is bounded.

One value can stand for all rows (a dictionary, shared beginnings), and zeros are packed a thousand times smaller. So no
file is believed about how much memory its rows will need: what it says of itself is compared with its size first, and
then only so many rows are unpacked at once as fit, however large their values turn out to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kcv.common.untrusted import refusing
from kcv.data.parquet import pages
from kcv.data.parquet.shards import Shard
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

NOT_PARQUET = "cannot be read as Parquet"

MOST_VALUE_BYTES = 2**27
"""Of one encoded image."""

_BATCH_BYTES = 2**27  # that rows unpacked together should have
_MOST_ROWS = 64  # of them
_FEW_ROWS = 8  # from here on the cost of a batch is small beside that of its images
_SLACK_BYTES = 2**28  # that a column of a row group may unpack to, however small it is packed
_MOST_PACKED = 2  # and so many times its packed size more: images are packed already
_MOST_REPEATED_BYTES = 2**28  # that the rows of a row group may come to, however often they repeat the same
_MOST_REPEATED = 16  # or so many times its packed size
_FREE_ROWS = 1_000_000  # that a file of any size may have
_ROW_BYTES = 16  # that each row has at least where there are more
_LABEL_ROWS = 65536  # at a time


def check_rows(shard: Shard, metadata: pq.FileMetaData, leaves: list[int]) -> None:
    """Compares what a file says of the columns that are wanted with its size.

    Args:
        shard: the file.
        metadata: its footer.
        leaves: the numbers of the columns.

    Raises:
        DataError: they would unpack to more than belongs to such a file.
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
    """Yields the encoded images of a row group, in order, so many at a time as need no more than some 128 MB.

    Args:
        shard: where the file is.
        file: opened.
        group: the number of the row group.
        path: of the leaf column, such as `image.bytes`.

    Raises:
        DataError: the file is damaged, an image is too large, or far more comes out of it than is in it.
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
    """Yields a column of labels, in order, at most `_LABEL_ROWS` at a time; texts as dictionaries of distinct ones.

    Args:
        shard: where the file is.
        file: opened; `check_rows` has passed it.
        path: of the leaf column.

    Raises:
        DataError: the file is damaged.
    """
    leaf = leaf_of(shard, file, path)
    chunks = [file.metadata.row_group(group).column(leaf) for group in range(file.metadata.num_row_groups)]
    texts = file.metadata.schema.column(leaf).physical_type == "BYTE_ARRAY"
    with refusing(shard.name, DataError, NOT_PARQUET):
        for group in range(len(chunks)):
            pages.check(shard, file, group, leaf)
    # A text that stands for many rows is unpacked once, where pyarrow can do that.
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
    """Returns the number of the column that has a path.

    Raises:
        DataError: not exactly one has.
    """
    found = [leaf for leaf in range(len(file.schema)) if file.schema.column(leaf).path == path]
    if len(found) != 1:
        raise DataError(f"{shard.name}: has {len(found)} columns {path!r} in place of one.")
    return found[0]


def _rows_at_once(shard: Shard, file: pq.ParquetFile, group: int, leaf: int, path: str) -> int:
    """Returns how many rows of a row group surely fit into about `_BATCH_BYTES`."""
    import pyarrow.compute as pc

    chunk = file.metadata.row_group(group).column(leaf)
    unpacked = max(int(chunk.total_uncompressed_size), 1)
    if not _repeats(chunk):
        return min(max(_BATCH_BYTES * max(int(chunk.num_values), 1) // unpacked, 1), _MOST_ROWS)
    largest = unpacked
    if _BATCH_BYTES // unpacked < _FEW_ROWS and _by_dictionary(chunk):
        once = shard.open(again=file, by_dictionary=path, piecewise=True)
        try:
            # Reads the dictionary, which is at the beginning of the row group, and not much more.
            first = next(once.iter_batches(1, row_groups=[group], columns=[path]), None)
            if first is not None:
                values = _flat(first.column(0)).dictionary
                mean = unpacked // max(int(chunk.num_values), 1)  # of those that are not in it
                largest = max(int(pc.max(pc.binary_length(values)).as_py() or 0), mean, 1)
        finally:
            once.close()
    return min(max(_BATCH_BYTES // largest, 1), _MOST_ROWS)


def _repeats(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether values may be far larger together than what is in the file: some share bytes with others."""
    return bool(chunk.has_dictionary_page) or "DELTA_BYTE_ARRAY" in chunk.encodings


def _by_dictionary(chunk: pq.ColumnChunkMetaData) -> bool:
    """Whether pyarrow can give the distinct values, and which of them each row has."""
    return not any(encoding.startswith("DELTA") for encoding in chunk.encodings)


def _flat(column: pa.Array) -> pa.Array:
    """Returns the only field of a struct, or a column that is none as it is."""
    import pyarrow as pa

    # `flatten` puts nulls of the struct into the field, which `field` does not.
    return column.flatten()[0] if pa.types.is_struct(column.type) else column
