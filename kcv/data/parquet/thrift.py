"""Reads, within bounds, and writes Thrift's compact protocol, the format of Parquet metadata.

Encoding: github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

TRUE: Final = 1
FALSE: Final = 2
BYTE: Final = 3
I16: Final = 4
I32: Final = 5
I64: Final = 6
DOUBLE: Final = 7
BINARY: Final = 8
LIST: Final = 9
SET: Final = 10
STRUCT: Final = 12

MOST_VALUES: Final = 300_000
"""Per content; a column of a row group has about 30, so that 2,000 row groups of five columns can be read."""
_MOST_DEPTH: Final = 16
_INTEGERS: Final = {I16: 16, I32: 32, I64: 64}


class Damaged(ValueError):
    """The content is not what it should be."""


class Value(NamedTuple):
    """A value.

    Attributes:
        kind: the type, such as `I32` or `STRUCT`.
        content: a bool, an int, a float, bytes, a list of values, or the fields of a struct by number.
    """

    kind: int
    content: Any


Fields: TypeAlias = "dict[int, Value]"


class Reader:
    """Reads values sequentially.

    Args:
        content: the bytes to read.
        at: the offset of the first value.

    Attributes:
        at: the offset of the next value.
    """

    def __init__(self, content: bytes, at: int = 0) -> None:
        self.at = at
        self._content = content
        self._values = 0

    def struct(self, depth: int = 0) -> Fields:
        """Returns the fields of a struct; the last one of repeated fields, like other readers.

        Raises:
            Damaged: it is not a struct, is truncated, or exceeds the bounds.
        """
        if depth > _MOST_DEPTH:
            raise Damaged("it is nested too deeply")
        fields: Fields = {}
        number = 0
        while head := self._take(1)[0]:
            step = head >> 4
            number = number + step if step else self._integer(16)
            kind = head & 15
            # A boolean field encodes its value as its kind.
            value = Value(TRUE, kind == TRUE) if kind in (TRUE, FALSE) else Value(kind, self._value(kind, depth + 1))
            fields[number] = value
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise Damaged(f"it has more than {MOST_VALUES:,} values")
        if kind in _INTEGERS:
            return self._integer(_INTEGERS[kind])
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.struct(depth)
        if kind in (LIST, SET):
            return self._list(depth)
        if kind in (TRUE, FALSE):
            return self._take(1) == b"\1"
        if kind == BYTE:
            return self._take(1)[0]
        if kind == DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        raise Damaged(f"it holds a value of kind {kind}")

    def _list(self, depth: int) -> list[Value]:
        if depth > _MOST_DEPTH:
            raise Damaged("it is nested too deeply")
        head = self._take(1)[0]
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        if count > len(self._content) - self.at:  # each value has at least one byte
            raise Damaged("it is cut off")
        return [Value(kind, self._value(kind, depth + 1)) for _ in range(count)]

    def _integer(self, bits: int) -> int:
        number = self._varint()
        number = number >> 1 ^ -(number & 1)
        if not -(1 << bits - 1) <= number < 1 << bits - 1:
            raise Damaged("a number is too large")
        return number

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 64, 7):
            if self.at >= len(self._content):
                raise Damaged("it is cut off")
            byte = self._content[self.at]
            self.at += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise Damaged("a number is too long")

    def _take(self, size: int) -> bytes:
        piece = self._content[self.at : self.at + size]
        if len(piece) < size:
            raise Damaged("it is cut off")
        self.at += size
        return piece


def written(fields: Mapping[int, Value]) -> bytes:
    """Returns the encoded bytes of a struct."""
    out = bytearray()
    for number, value in fields.items():
        kind = value.kind
        if kind in (TRUE, FALSE):
            kind = TRUE if value.content else FALSE
        out.append(kind)  # followed by the full field number, which the protocol allows
        out += _varint(number << 1 ^ number >> 63)
        if kind not in (TRUE, FALSE):
            out += _bytes(value)
    return bytes([*out, 0])


def _bytes(value: Value) -> bytes:
    kind, content = value.kind, value.content
    if kind in _INTEGERS:
        return _varint(content << 1 ^ content >> 63)
    if kind == BINARY:
        return _varint(len(content)) + bytes(content)
    if kind == STRUCT:
        return written(content)
    if kind in (LIST, SET):
        inner = content[0].kind if content else STRUCT
        return bytes([240 | inner]) + _varint(len(content)) + b"".join(map(_bytes, content))
    if kind in (TRUE, FALSE):
        return b"\1" if content else b"\2"
    return bytes([content]) if kind == BYTE else struct.pack("<d", content)


def _varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
