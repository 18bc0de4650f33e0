"""Protocol buffers, read by what they may hold: each field is known by number and kind, or the file is refused.

A length may be spelled in several ways, a field may come twice and be joined, and what is unknown is skipped by other
readers. Here nothing is skipped, so that no other reader finds more in a file than this one.
Encoding: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MOST_FIELDS: Final = 400_000
"""Of a file, those of messages in it counted; a large network has 20,000."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BITS: Final = 64
_SIZES: Final = {("float", _FIXED32): 4, ("floats", _FIXED32): 4, ("doubles", _FIXED64): 8}


class Damaged(ValueError):
    """What is no such file, or one that holds what it should not."""


@dataclass(frozen=True)
class Field:
    """What a field may be.

    Attributes:
        name: under which its value is found.
        kind: `int` (signed, 64 bits), `float`, `floats` and `doubles` (one by one or many in a piece), `text`, `bytes`,
            `message`, or `refused`.
        message: the fields of a message; None for other kinds.
        many: whether it may come more than once; its value is a list then.
        reason: why a refused one is refused, as the end of a sentence about the file.
    """

    name: str
    kind: str
    message: Message | None = None
    many: bool = False
    reason: str = ""


@dataclass
class Message:
    """The fields of a message, by number.

    Attributes:
        name: for people.
        fields: those that it may have.
    """

    name: str
    fields: Mapping[int, Field] = field(default_factory=dict)


class Walker:
    """Reads the messages of one content.

    Args:
        content: bytes, or a file that is mapped to memory.
    """

    def __init__(self, content: Any) -> None:
        self._content = content
        self._left = MOST_FIELDS

    def read(self, message: Message, start: int, end: int) -> dict[str, Any]:
        """Reads a message.

        Args:
            message: what it may hold.
            start: where it begins.
            end: where it ends.

        Returns:
            Values by name: what is not there is absent; a list for what may come more than once. Bytes and
            floats are told as (start, end), and read by whoever needs them.

        Raises:
            Damaged: it holds something else.
        """
        values: dict[str, Any] = {}
        fields, at = message.fields, start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Damaged(f"has more than {MOST_FIELDS:,} fields")
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            known = fields.get(number)
            if known is None:
                raise Damaged(f"holds a field {number} in its {message.name}, which is not known")
            if known.kind == "refused":
                raise Damaged(known.reason)
            if known.many:
                found, at = self._values(known, wire, at, end, message)
                values.setdefault(known.name, []).extend(found)
            elif known.name in values:
                raise Damaged(f"holds {known.name} twice in its {message.name}")
            else:
                values[known.name], at = self._value(known, wire, at, end, message)
        return values

    def _values(self, known: Field, wire: int, at: int, end: int, message: Message) -> tuple[list[Any], int]:
        if known.kind != "int" or wire != _LENGTH:
            value, at = self._value(known, wire, at, end, message)
            return [value], at
        (at, stop), numbers = self._span(at, end), []
        while at < stop:  # packed: one number after the other
            self._left -= 1
            if self._left < 0:
                raise Damaged(f"has more than {MOST_FIELDS:,} fields")
            number, at = self._varint(at, stop)
            numbers.append(_signed(number))
        return numbers, at

    def _value(self, known: Field, wire: int, at: int, end: int, message: Message) -> tuple[Any, int]:
        kind = known.kind
        if kind == "int" and wire == _VARINT:
            number, at = self._varint(at, end)
            return _signed(number), at
        if (size := _SIZES.get((kind, wire))) is not None:
            if size > end - at:
                raise Damaged("ends within a number")
            return (at, at + size), at + size
        if kind in ("int", "float") or wire != _LENGTH:
            raise Damaged(f"holds {known.name} of another kind in its {message.name}")
        at, stop = self._span(at, end)
        if kind == "message":
            assert known.message is not None
            return self.read(known.message, at, stop), stop
        if kind == "text":
            return bytes(self._content[at:stop]).decode(), stop
        return (at, stop), stop

    def _span(self, at: int, end: int) -> tuple[int, int]:
        size, at = self._varint(at, end)
        if size > end - at:
            raise Damaged("ends too early")
        return at, at + size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        content, number, shift = self._content, 0, 0
        while at < end and shift < _BITS + 6:
            byte = content[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number, at
            shift += 7
        raise Damaged("ends within a number")


def _signed(number: int) -> int:
    number &= 2**_BITS - 1
    return number - 2**_BITS if number >> (_BITS - 1) else number
