"""Checks the decompressed size of the pages of a Parquet column by their headers; the footer may understate it.

A page is always decompressed in full, into exactly as much memory as its header says. Once the headers are checked, no
unchecked part of the file determines how much memory is used.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from kcv.common.untrusted import opened
from kcv.data.parquet.footer import begin_of
from kcv.data.parquet.shards import Shard
from kcv.data.parquet.thrift import I32, Damaged, Reader
from kcv.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_HEADER_BYTES: Final = 2**12
"""Most headers have 30 to 100 bytes; headers with statistics of long values have more and are read in larger pieces."""
_MOST_HEADER_BYTES: Final = 2**24
_FREE_PAGES: Final = 1_000
_PAGE_BYTES: Final = 256
"""The least average size of a page if there are more."""
_SLACK_BYTES: Final = 2**20

_LITTLE: Final = ("UNCOMPRESSED", "SNAPPY")
"""Codecs that compress by a factor of at most 22. In remote files, such pages are not checked, because that would fetch
all of them a second time."""


def check(shard: Shard, file: pq.ParquetFile, group: int, leaf: int) -> None:
    """Compares the decompressed size of the pages of a column in a row group with that in the footer.

    Args:
        shard: the location of the file.
        file: the opened file.
        group: the index of the row group.
        leaf: the index of the leaf column.

    Raises:
        DataError: the pages decompress to more.
        ValueError: a page is damaged.
    """
    chunk = file.metadata.row_group(group).column(leaf)
    if chunk.compression == "UNCOMPRESSED" or (not shard.local and chunk.compression in _LITTLE):
        return
    if shard.local:
        with opened(shard.path, DataError) as stream:
            unpacked = _unpacked(stream, chunk)
    else:
        with shard.system.open(shard.place, "rb") as stream:
            unpacked = _unpacked(stream, chunk)
    told = int(chunk.total_uncompressed_size)
    if unpacked > told + told // 4 + _SLACK_BYTES:
        raise DataError(
            f"{shard.name}: column {chunk.path_in_schema[:100]!r} of row group {group} is said to unpack to "
            f"{told:,} bytes, and its pages to {unpacked:,}, which is refused."
        )


def _unpacked(stream: BinaryIO, chunk: Any) -> int:
    packed = int(chunk.total_compressed_size)
    begin = at = begin_of(chunk.data_page_offset, chunk.dictionary_page_offset)
    unpacked = pages = 0
    while at < begin + packed:
        left = begin + packed - at
        length, large, small = _page(stream, at, left)
        if length + small > left:
            raise Damaged("a page is said to lie beyond the end of its column")
        at += length + small
        unpacked += length + large
        pages += 1
        if pages > max(_FREE_PAGES, packed // _PAGE_BYTES):
            raise Damaged(f"a column has more than {pages - 1:,} pages in {packed:,} bytes")
    return unpacked


def _page(stream: BinaryIO, at: int, left: int) -> tuple[int, int, int]:
    """Returns the size of a page's header, and the uncompressed and compressed sizes of the page, in bytes."""
    size = _HEADER_BYTES
    while True:
        stream.seek(at, os.SEEK_SET)
        content = stream.read(min(size, left))
        reader = Reader(content)
        try:
            fields = reader.struct()
            break
        except Damaged:
            if len(content) < size or size >= _MOST_HEADER_BYTES:
                raise
            size *= 16
    found = [fields.get(number) for number in (2, 3)]
    large, small = (value.content if value is not None and value.kind == I32 else -1 for value in found)
    if large < 0 or small < 0:
        raise Damaged("a page does not say how large it is")
    return reader.at, large, small
