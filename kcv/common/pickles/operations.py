"""The operations that pickles of plain values are written with, a function each; `machine` carries them out."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from kcv.common.pickles.machine import Machine

Operation: TypeAlias = "Callable[[Machine], object]"

STOP: Final = ord(".")
_MOST_DIGITS: Final = 20
"""Of a number in decimals: all of 64 bits."""
_MOST_BYTES: Final = 16
"""Of a number in binary; the one that PyTorch's older files begin with has 10."""


class Refused(ValueError):
    """Something in a pickle that is not read."""


class Forbidden(Refused):
    """Something in a pickle that would be called or made, and that only a program needs."""


def _line_number(machine: Machine) -> None:
    """INT: a number in decimals, or a truth value."""
    text = machine.line()
    truth = {b"00": False, b"01": True}
    machine.stack.append(truth[text] if text in truth else _decimal(text))


def _decimal(text: bytes) -> int:
    text = text.removesuffix(b"L")  # as Python 2 wrote long numbers
    if len(text) > _MOST_DIGITS:
        raise Refused("it holds a number of more than 64 bits")
    return int(text)


def _line_bytes(machine: Machine) -> None:
    """STRING: a text of Python 2 in quotes, with escapes."""
    text = machine.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise Refused("it holds a text without quotes")
    machine.stack.append(codecs.escape_decode(text[1:-1])[0])  # as pickle does it


def _signed(machine: Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _long(machine: Machine) -> None:
    size = machine.byte()
    if size > _MOST_BYTES:
        raise Refused("it holds a number of more than 128 bits")
    machine.stack.append(int.from_bytes(machine.take(size), "little", signed=True))


# Small numbers, short texts and what is kept come by the ten thousand: theirs call as little as can be.
def _byte(machine: Machine) -> None:
    machine.stack.append(machine.content[machine.at])
    machine.at += 1


def _unsigned(size: int) -> Operation:
    return lambda machine: machine.stack.append(machine.number(size))


def _short_bytes(machine: Machine) -> None:
    start = machine.at + 1
    machine.at = end = start + machine.content[start - 1]
    if end > machine.end:
        raise Refused("it ends too early")
    machine.stack.append(machine.content[start:end])


def _bytes(size: int) -> Operation:
    """Bytes after their length, which has so many bytes."""
    return lambda machine: machine.stack.append(machine.piece(machine.number(size)))


def _short_text(machine: Machine) -> None:
    machine.stack.append(machine.take(machine.byte()).decode("utf-8", "surrogatepass"))


def _text(size: int) -> Operation:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)).decode("utf-8", "surrogatepass"))


def _line_text(machine: Machine) -> None:
    machine.stack.append(machine.line().decode("raw-unicode-escape"))


def _tuple(size: int) -> Operation:
    def make(machine: Machine) -> None:
        stack = machine.stack
        if len(stack) < size:
            raise Refused("a tuple of it lacks values")
        stack[-size:] = [tuple(stack[-size:])]

    return make


def _made_of_row(make: Callable[[list[Any]], Any]) -> Operation:
    """A value made of the row that ends here."""

    def end(machine: Machine) -> None:
        row = machine.row()
        machine.stack.append(make(row))

    return end


def _dict(machine: Machine) -> None:
    row = machine.row()
    machine.stack.append({})
    machine.update(row)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.update([key, value])


def _keep(machine: Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _keep_short(machine: Machine) -> None:
    machine.memo[machine.content[machine.at]] = machine.stack[-1]
    machine.at += 1


def _keep_long(machine: Machine) -> None:
    start = machine.at
    machine.at = end = start + 4
    if end > machine.end:
        raise Refused("it ends too early")
    machine.memo[int.from_bytes(machine.content[start:end], "little")] = machine.stack[-1]


def _again(machine: Machine, place: int) -> None:
    machine.stack.append(machine.memo[place])


def _again_short(machine: Machine) -> None:
    machine.stack.append(machine.memo[machine.content[machine.at]])
    machine.at += 1


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Forbidden("it calls something")
    machine.named(module, name)


def _global(machine: Machine) -> None:
    module, name = machine.line(), machine.line()
    machine.named(module.decode(), name.decode())


OPERATIONS: Final[dict[int, Operation]] = {
    code[0]: operation
    for code, operation in {
        # Values
        b"N": lambda machine: machine.stack.append(None),
        b"\x88": lambda machine: machine.stack.append(True),
        b"\x89": lambda machine: machine.stack.append(False),
        b"I": _line_number,
        b"L": lambda machine: machine.stack.append(_decimal(machine.line())),
        b"J": _signed,
        b"K": _byte,
        b"M": _unsigned(2),
        b"\x8a": _long,
        b"S": _line_bytes,
        b"U": _short_bytes,
        b"T": _bytes(4),
        b"C": _short_bytes,
        b"B": _bytes(4),
        b"\x8e": _bytes(8),
        b"\x96": _bytes(8),  # a bytearray, which nothing changes here
        b"V": _line_text,
        b"\x8c": _short_text,
        b"X": _text(4),
        b"\x8d": _text(8),
        # Lists, tuples and dicts
        b"(": lambda machine: machine.mark(),
        b"]": lambda machine: machine.stack.append([]),
        b"}": lambda machine: machine.stack.append({}),
        b")": lambda machine: machine.stack.append(()),
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"t": _made_of_row(tuple),
        b"l": _made_of_row(list),
        b"d": _dict,
        b"a": lambda machine: machine.extend([machine.stack.pop()]),
        b"e": lambda machine: machine.extend(machine.row()),
        b"s": _set_item,
        b"u": lambda machine: machine.update(machine.row()),
        # The stack, and what is used again
        b"0": lambda machine: machine.stack.pop(),
        b"1": lambda machine: machine.row(),
        b"2": lambda machine: machine.stack.append(machine.stack[-1]),
        b"p": lambda machine: _keep(machine, _decimal(machine.line())),
        b"q": _keep_short,
        b"r": _keep_long,
        b"\x94": lambda machine: _keep(machine, len(machine.memo)),
        b"g": lambda machine: _again(machine, _decimal(machine.line())),
        b"h": _again_short,
        b"j": lambda machine: _again(machine, machine.number(4)),
        # What is named
        b"c": _global,
        b"\x93": _stack_global,
        b"R": lambda machine: machine.call(),
        b"b": lambda machine: machine.build(),
        # The protocol, and how much follows in one piece
        b"\x80": lambda machine: machine.take(1),
        b"\x95": lambda machine: machine.take(8),
    }.items()
}
"""What to do, by the byte that stands for it. All others make objects, call something, or look outside of the file."""


def _float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


CHECKPOINT_OPERATIONS: Final[dict[int, Operation]] = {
    **OPERATIONS,
    ord("G"): _float,
    ord("F"): lambda machine: machine.stack.append(float(machine.line()[:50])),
    ord("Q"): lambda machine: machine.persistent(),
    ord("\x81"): lambda machine: machine.call(),
    ord("\x8f"): lambda machine: machine.stack.append([]),  # a set, which is only looked at
}
"""Those of PyTorch's files as well."""
