"""The operations that pickles of plain values are written with, a function each; see `kcv.data.pickled`."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from kcv.data.pickled import Reader

Operation: TypeAlias = "Callable[[Reader], object]"

STOP: Final = ord(".")
_MOST_DIGITS: Final = 20
"""Of a number in decimals: all of 64 bits."""


class Refused(ValueError):
    """Something in a pickle that is no plain value."""


def _line_number(reader: Reader) -> None:
    """INT: a number in decimals, or a truth value."""
    text = reader.line()
    truth = {b"00": False, b"01": True}
    reader.stack.append(truth[text] if text in truth else _decimal(text))


def _decimal(text: bytes) -> int:
    text = text.removesuffix(b"L")  # as Python 2 wrote long numbers
    if len(text) > _MOST_DIGITS:
        raise Refused("it holds a number of more than 64 bits")
    return int(text)


def _line_bytes(reader: Reader) -> None:
    """STRING: a text of Python 2 in quotes, with escapes."""
    text = reader.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise Refused("it holds a text without quotes")
    reader.stack.append(codecs.escape_decode(text[1:-1])[0])  # type: ignore[attr-defined]  # as pickle does it


def _signed(reader: Reader) -> None:
    reader.stack.append(int.from_bytes(reader.take(4), "little", signed=True))


def _long(reader: Reader) -> None:
    size = reader.number(1)
    if size > 8:
        raise Refused("it holds a number of more than 64 bits")
    reader.stack.append(int.from_bytes(reader.take(size), "little", signed=True))


def _unsigned(size: int) -> Operation:
    return lambda reader: reader.stack.append(reader.number(size))


def _bytes(size: int) -> Operation:
    """Bytes after their length, which has so many bytes."""
    return lambda reader: reader.stack.append(reader.take(reader.number(size)))


def _text(size: int) -> Operation:
    return lambda reader: reader.stack.append(reader.take(reader.number(size)).decode("utf-8", "surrogatepass"))


def _line_text(reader: Reader) -> None:
    reader.stack.append(reader.line().decode("raw-unicode-escape"))


def _tuple(size: int) -> Operation:
    def make(reader: Reader) -> None:
        values = tuple(reader.stack.pop() for _ in range(size))
        reader.stack.append(values[::-1])

    return make


def _made_of_row(make: Callable[[list[Any]], Any]) -> Operation:
    """A value made of the row that ends here."""

    def end(reader: Reader) -> None:
        row = reader.row()
        reader.stack.append(make(row))

    return end


def _dict(reader: Reader) -> None:
    row = reader.row()
    reader.stack.append({})
    reader.update(row)


def _set_item(reader: Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    reader.update([key, value])


def _keep(reader: Reader, place: int) -> None:
    reader.memo[place] = reader.stack[-1]


def _again(reader: Reader, place: int) -> None:
    reader.stack.append(reader.memo[place])


def _stack_global(reader: Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Refused("it calls something")
    reader.named(module, name)


def _global(reader: Reader) -> None:
    module, name = reader.line(), reader.line()
    reader.named(module.decode(), name.decode())


OPERATIONS: Final[dict[int, Operation]] = {
    code[0]: operation
    for code, operation in {
        # Values
        b"N": lambda reader: reader.stack.append(None),
        b"\x88": lambda reader: reader.stack.append(True),
        b"\x89": lambda reader: reader.stack.append(False),
        b"I": _line_number,
        b"L": lambda reader: reader.stack.append(_decimal(reader.line())),
        b"J": _signed,
        b"K": _unsigned(1),
        b"M": _unsigned(2),
        b"\x8a": _long,
        b"S": _line_bytes,
        b"U": _bytes(1),
        b"T": _bytes(4),
        b"C": _bytes(1),
        b"B": _bytes(4),
        b"\x8e": _bytes(8),
        b"\x96": _bytes(8),  # a bytearray, which nothing changes here
        b"V": _line_text,
        b"\x8c": _text(1),
        b"X": _text(4),
        b"\x8d": _text(8),
        # Lists, tuples and dicts
        b"(": lambda reader: reader.mark(),
        b"]": lambda reader: reader.stack.append([]),
        b"}": lambda reader: reader.stack.append({}),
        b")": lambda reader: reader.stack.append(()),
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"t": _made_of_row(tuple),
        b"l": _made_of_row(list),
        b"d": _dict,
        b"a": lambda reader: reader.extend([reader.stack.pop()]),
        b"e": lambda reader: reader.extend(reader.row()),
        b"s": _set_item,
        b"u": lambda reader: reader.update(reader.row()),
        # The stack, and what is used again
        b"0": lambda reader: reader.stack.pop(),
        b"1": lambda reader: reader.row(),
        b"2": lambda reader: reader.stack.append(reader.stack[-1]),
        b"p": lambda reader: _keep(reader, _decimal(reader.line())),
        b"q": lambda reader: _keep(reader, reader.number(1)),
        b"r": lambda reader: _keep(reader, reader.number(4)),
        b"\x94": lambda reader: _keep(reader, len(reader.memo)),
        b"g": lambda reader: _again(reader, _decimal(reader.line())),
        b"h": lambda reader: _again(reader, reader.number(1)),
        b"j": lambda reader: _again(reader, reader.number(4)),
        # What is named
        b"c": _global,
        b"\x93": _stack_global,
        b"R": lambda reader: reader.call(),
        b"b": lambda reader: reader.build(),
        # The protocol, and how much follows in one piece
        b"\x80": lambda reader: reader.take(1),
        b"\x95": lambda reader: reader.take(8),
    }.items()
}
"""What to do, by the byte that stands for it. All others make objects, call something, or look outside of the file."""
