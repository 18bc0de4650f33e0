"""Reads protocol buffers strictly: a file is refused unless the number and kind of each field are known.

The format allows several encodings of a length and repeated fields that are merged, and other readers skip unknown
fields. This reader skips nothing, so that no other reader finds more in a file than this one.
Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MOST_FIELDS: Final = 400_000
"""Per file, including the fields of nested messages; a large network has 20,000."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BITS: Final = 64
_MOST_BYTES: Final = 10
"""Per number, with seven bits each."""
_SHORT: Final = 96
"""The maximum size, in bytes, of messages that are cached because they often repeat."""
_SIZES: Final = {("float", _FIXED32): 4, ("floats", _FIXED32): 4, ("doubles", _FIXED64): 8}


_TOO_MANY: Final = f"has more than {MOST_FIELDS:,} fields"
_IN_NUMBER: Final = "ends within a number"


class Damaged(ValueError):
    """The content is not an ONNX file, or contains something that is not allowed."""


@dataclass(frozen=True)
class Field:
    """The definition of a field.

    Attributes:
        name: the key of its value in the result.
        kind: `int` (signed, 64 bits), `float`, `floats` and `doubles` (single or packed), `text`, `bytes`, `message`,
            or `refused`.
        message: the definition of a nested message; None for other kinds.
        many: whether it may be repeated; its value is then a list.
        reason: why a `refused` field is refused, as the end of a sentence about the file.
    """

    name: str
    kind: str
    message: Message | None = None
    many: bool = False
    reason: str = ""


@dataclass(eq=False)  # compared by identity, not by content
class Message:
    """The definition of a message.

    Attributes:
        name: its name in error messages.
        fields: its permitted fields, by number.
    """

    name: str
    fields: Mapping[int, Field] = field(default_factory=dict)


class Walker:
    """Reads the messages in a content.

    Args:
        content: bytes, or a memory-mapped file.
    """

    def __init__(self, content: Any) -> None:
        self._content = content
        self._left = MOST_FIELDS
        self._seen: dict[tuple[Message, bytes], tuple[dict[str, Any], int]] = {}

    # Deliberately one loop: a call per field would double the time to open a large file.
    def read(self, message: Message, start: int, end: int) -> dict[str, Any]:  # noqa: C901, PLR0912
        """Reads a message.

        Args:
            message: the definition of the message.
            start: the offset of its first byte.
            end: the offset after its last byte.

        Returns:
            Values by name, without absent fields; a list for fields that may be repeated. Bytes and floats are given
            as (start, end), for the caller to read. The result must not be modified, because equal short messages
            share one object.

        Raises:
            Damaged: it contains anything else.
        """
        values: dict[str, Any] = {}
        content, fields, at = self._content, message.fields, start
        # There are thousands of short fields, so the common case, a tag and a length of one byte, makes no call.
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Damaged(_TOO_MANY)
            tag, at = content[at], at + 1
            if tag >= 0x80:
                tag, at = self._varint(at - 1, end)
            known = fields.get(tag >> 3)
            if known is None:
                raise Damaged(f"holds a field {tag >> 3} in its {message.name}, which is not known")
            name, kind, value = known.name, known.kind, None
            if kind == "refused":
                raise Damaged(known.reason)
            if not known.many and name in values:
                raise Damaged(f"holds {name} twice in its {message.name}")
            if tag & 7 != _LENGTH or kind == "float" or (kind == "int" and not known.many):
                value, at = self._number(known, tag & 7, at, end, message)
            else:
                if at < end and (size := content[at]) < 0x80:
                    at += 1
                else:
                    size, at = self._varint(at, end)
                if size > end - at:
                    raise Damaged("ends too early")
                begin, at = at, at + size
                if kind == "text":
                    value = str(content[begin:at], "utf-8")
                elif kind == "message":
                    assert known.message is not None
                    value = self._message(known.message, begin, at)
                elif kind == "int":
                    values.setdefault(name, []).extend(self._packed(begin, at))
                    continue
                else:
                    value = (begin, at)
            if not known.many:
                values[name] = value
            elif name in values:
                values[name].append(value)
            else:
                values[name] = [value]
        return values

    def _message(self, message: Message, start: int, end: int) -> dict[str, Any]:
        """Reads a message, or returns a cached one with the same bytes: attributes and sizes often repeat."""
        if end - start > _SHORT:
            return self.read(message, start, end)
        key, left = (message, self._content[start:end]), self._left
        found = self._seen.get(key)
        if found is None:
            values = self.read(message, start, end)
            self._seen[key] = values, left - self._left
            return values
        values, fields = found
        self._left -= fields  # cached fields count every time
        if self._left < 0:
            raise Damaged(_TOO_MANY)
        return values

    def _number(self, known: Field, wire: int, at: int, end: int, message: Message) -> tuple[Any, int]:
        if wire == _VARINT and known.kind == "int":
            if at < end and (number := self._content[at]) < 0x80:
                return number, at + 1
            number, at = self._varint(at, end)
            return _signed(number), at
        size = _SIZES.get((known.kind, wire))
        if size is None:
            raise Damaged(f"holds {known.name} of another kind in its {message.name}")
        if size > end - at:
            raise Damaged(_IN_NUMBER)
        return (at, at + size), at + size

    def _packed(self, at: int, stop: int) -> list[int]:
        """Returns packed numbers; each counts as a field."""
        if stop - at > _MOST_BYTES * self._left:  # checked before any number is created
            raise Damaged(_TOO_MANY)
        piece = self._content[at:stop]
        if piece.isascii():  # one byte per number, such as the zeros of quantised weights
            numbers = list(piece)
        else:
            numbers = []
            while at < stop:
                number, at = self._varint(at, stop)
                numbers.append(_signed(number))
        self._left -= len(numbers)
        if self._left < 0:
            raise Damaged(_TOO_MANY)
        return numbers

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        content, number, shift = self._content, 0, 0
        while at < end and shift < 7 * _MOST_BYTES:
            byte = content[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number, at
            shift += 7
        raise Damaged(_IN_NUMBER)


def _signed(number: int) -> int:
    number &= 2**_BITS - 1
    return number - 2**_BITS if number >> (_BITS - 1) else number
