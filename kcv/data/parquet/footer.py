"""Checks the footer of a Parquet file before pyarrow reads it, and reduces it to the needed fields.

pyarrow trusts a footer, and some invalid ones abort the whole process. It therefore gets a rewritten footer with the
same content except statistics, indices and the like, which kcv does not use.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, Final, NamedTuple, TypeAlias

from kcv.data.parquet import thrift
from kcv.data.parquet.thrift import BINARY, I16, I32, I64, LIST, STRUCT, Damaged, Fields, Value

MAGIC: Final = b"PAR1"


class _Field(NamedTuple):
    """A field to keep."""

    kind: int
    required: bool = False
    least: int | None = None
    inner: Mapping[int, _Field] | None = None
    """The known fields of a struct, or of the structs in a list; `_ANY` keeps all fields unchanged."""


_Known: TypeAlias = Mapping[int, _Field]

_ANY: Final[_Known] = {}
_KEY_VALUE: Final[_Known] = {1: _Field(BINARY, True), 2: _Field(BINARY)}
_SCHEMA: Final[_Known] = {
    1: _Field(I32), 2: _Field(I32), 3: _Field(I32), 4: _Field(BINARY, True), 5: _Field(I32, least=0), 6: _Field(I32),
    7: _Field(I32), 8: _Field(I32), 9: _Field(I32), 10: _Field(STRUCT, inner=_ANY),
}  # fmt: skip
_COLUMN_DATA: Final[_Known] = {  # type, encodings, path, codec, values, uncompressed and compressed bytes, page offsets
    1: _Field(I32, True), 2: _Field(LIST, True), 3: _Field(LIST, True), 4: _Field(I32, True), 5: _Field(I64, True, 0),
    6: _Field(I64, True, 0), 7: _Field(I64, True, 0), 9: _Field(I64, True, 0), 11: _Field(I64, least=0),
}  # fmt: skip
_COLUMN: Final[_Known] = {2: _Field(I64), 3: _Field(STRUCT, True, inner=_COLUMN_DATA)}
_GROUP: Final[_Known] = {
    1: _Field(LIST, True, inner=_COLUMN), 2: _Field(I64, True, 0), 3: _Field(I64, True, 0), 7: _Field(I16),
}  # fmt: skip
_FILE: Final[_Known] = {
    1: _Field(I32, True), 2: _Field(LIST, True, inner=_SCHEMA), 3: _Field(I64, True, 0),
    4: _Field(LIST, True, inner=_GROUP), 5: _Field(LIST, inner=_KEY_VALUE), 6: _Field(BINARY),
}  # fmt: skip

_ENCRYPTED: Final = 8  # field number, in a file and in a column


def footer(stream: BinaryIO, size: int, most: int) -> bytes:
    """Returns the content of a file without rows that has the needed parts of a file's footer.

    Args:
        stream: the file.
        size: its size in bytes.
        most: the maximum size of its footer in bytes; in memory, a footer takes about ten times as much.

    Raises:
        ValueError: it is not a Parquet file, or its footer is damaged or contradicts the file.
    """
    tail = 8  # bytes: the length of the footer and the magic word
    stream.seek(max(size - tail, 0))
    told = stream.read(tail)
    length = int.from_bytes(told[:4], "little")
    if told[4:] != MAGIC:
        raise Damaged("its end is not that of a Parquet file" if told[4:] != b"PARE" else "it is encrypted")
    if length > size - tail - len(MAGIC):
        raise Damaged("its footer is cut off")
    if length > most:
        raise Damaged(f"it says {length:,} bytes about itself; {most:,} are allowed")
    stream.seek(size - tail - length)
    with _without_collections():
        fields = thrift.Reader(stream.read(length)).struct()
    if _ENCRYPTED in fields:
        raise Damaged("it is encrypted")
    kept = _kept(fields, _FILE)
    _check(kept, size - tail - length)
    made = thrift.written(kept)
    return MAGIC + made + len(made).to_bytes(4, "little") + MAGIC


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pauses the search for cycles: a footer has none, and 300,000 new values would start it again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _kept(fields: Fields, known: _Known) -> Fields:
    """Returns the known fields of a struct.

    Raises:
        Damaged: a field is missing, has another kind, or is too small.
    """
    kept: Fields = {}
    for number, field in known.items():
        value = fields.get(number)
        if value is None:
            if field.required:
                raise Damaged("its footer lacks what it must have")
            continue
        if value.kind != field.kind:
            raise Damaged("its footer holds values of another kind")
        if field.least is not None and value.content < field.least:
            raise Damaged(f"its footer counts {value.content:,} of something")
        if field.inner:
            value = _inner(value, field.inner)
        kept[number] = value
    return kept


def _inner(value: Value, known: _Known) -> Value:
    if value.kind == STRUCT:
        return Value(STRUCT, _kept(value.content, known))
    if any(one.kind != STRUCT for one in value.content):
        raise Damaged("its footer holds values of another kind")
    return Value(LIST, [Value(STRUCT, _kept(one.content, known)) for one in value.content])


def _check(fields: Fields, end: int) -> None:
    """Checks that the parts of a footer are consistent with each other and with the file.

    Args:
        fields: the kept fields.
        end: the upper bound of the end of the pages.

    Raises:
        Damaged: they are inconsistent.
    """
    leaves = _leaves(fields[2].content)
    groups = [group.content for group in fields[4].content]
    if fields[3].content != sum(group[3].content for group in groups):
        raise Damaged("its row groups have other rows than it says")
    for group in groups:
        columns = [column.content[3].content for column in group[1].content]
        if len(columns) != len(leaves):
            raise Damaged(f"a row group has {len(columns):,} columns in place of {len(leaves):,}")
        for column, leaf in zip(columns, leaves, strict=True):
            if column[1].content != leaf:
                raise Damaged("a column is of another type than the schema says")
            for number, kind in ((2, I32), (3, BINARY)):
                if any(value.kind != kind for value in column[number].content):
                    raise Damaged("its footer holds values of another kind")
            begin = begin_of(column[9].content, column[11].content if 11 in column else None)
            packed = column[7].content
            if packed and begin < len(MAGIC):
                raise Damaged("a column is said to lie before the beginning of the file")
            if begin + packed > end:
                raise Damaged("a column is said to lie beyond the end of the file")


def begin_of(data: int, dictionary: int | None) -> int:
    """Returns the offset of the first page of a column: that of its dictionary page, if it comes before the others."""
    # A column without rows may have an empty dictionary and no page after it.
    return dictionary if dictionary and (not data or dictionary < data) else data


def _leaves(elements: Iterable[Value]) -> list[int]:
    """Returns the physical types of the columns that hold values, in order.

    Raises:
        Damaged: the schema is not a tree.
    """
    waiting = [1]  # the number of elements still missing on each level
    leaves: list[int] = []
    for fields in _contents(elements):
        if not waiting:
            raise Damaged("its schema has elements that belong to nothing")
        waiting[-1] -= 1
        children = fields[5].content if 5 in fields else 0
        if children:
            waiting.append(children)
        elif 1 in fields:
            leaves.append(fields[1].content)
        elif len(waiting) > 1:
            raise Damaged("its schema has a column without a type")
        while waiting and not waiting[-1]:
            waiting.pop()
    if waiting:
        raise Damaged("its schema is cut off")
    return leaves


def _contents(elements: Iterable[Value]) -> Iterator[Fields]:
    return (element.content for element in elements)
