"""A machine that executes the operations of a pickle, without resolving the names in it.

Each operation of pickles of plain values is one function.
"""

from __future__ import annotations

import codecs
import mmap
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Operation: TypeAlias = "Callable[[Machine], object]"

STOP: Final = ord(".")
_MOST_DIGITS: Final = 20
"""The most digits of a decimal number; enough for 64 bits."""
_MOST_BYTES: Final = 16
"""The most bytes of a binary number; the one at the start of PyTorch's older files has 10."""


class Refused(ValueError):
    """The pickle contains something that is not supported."""


class Forbidden(Refused):
    """The pickle contains a call or an object, which only a program needs."""


def _line_number(machine: Machine) -> None:
    """INT: a decimal number, or a boolean."""
    text = machine.line()
    truth = {b"00": False, b"01": True}
    machine.stack.append(truth[text] if text in truth else _decimal(text))


def _decimal(text: bytes) -> int:
    text = text.removesuffix(b"L")  # as Python 2 wrote long numbers
    if len(text) > _MOST_DIGITS:
        raise Refused("it holds a number of more than 64 bits")
    return int(text)


def _line_bytes(machine: Machine) -> None:
    """STRING: a quoted Python 2 string with escapes."""
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


# Small numbers, short texts and memo operations occur by the ten thousand, so their functions call few others.
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
    """Returns the operation for bytes preceded by their length, which has `size` bytes."""
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
    """Returns the operation that ends a row and makes a value of it."""

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
        b"\x96": _bytes(8),  # a bytearray; read as bytes, because nothing modifies it
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
        # Stack and memo
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
        # Names and calls
        b"c": _global,
        b"\x93": _stack_global,
        b"R": lambda machine: machine.call(),
        b"b": lambda machine: machine.build(),
        # Protocol and frame size
        b"\x80": lambda machine: machine.take(1),
        b"\x95": lambda machine: machine.take(8),
    }.items()
}
"""Operations by opcode. All other opcodes create objects, call something, or refer to something outside the file."""


def _float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


CHECKPOINT_OPERATIONS: Final[dict[int, Operation]] = {
    **OPERATIONS,
    ord("G"): _float,
    ord("F"): lambda machine: machine.stack.append(float(machine.line()[:50])),
    ord("Q"): lambda machine: machine.persistent(),
    ord("\x81"): lambda machine: machine.call(),
    ord("\x8f"): lambda machine: machine.stack.append([]),  # a set, which is only inspected
}
"""`OPERATIONS`, and the additional ones in PyTorch's files."""


_MOST_MARKS: Final = 100
"""The deepest nesting of rows of values."""


class Machine:
    """Executes the operations of one pickle.

    No method looks into a value deeper than one level: a few bytes can encode a tuple of enormous nesting, and hashing,
    comparing or printing it would take forever. So keys must be plain, and only subclasses handle calls.

    Args:
        content: the bytes that contain the pickle.
        operations: the allowed operations.
        most: largest number of operations.
        start: offset at which the pickle begins.
    """

    keys: tuple[type, ...] = (str, bytes)
    """Types of keys; none may be a container."""

    def __init__(
        self, content: bytes | mmap.mmap, operations: Mapping[int, Operation], most: int, start: int = 0
    ) -> None:
        self.content = content
        self._operations = operations
        self._most = most
        self._marks: list[list[Any]] = []
        self.end = len(content)
        self.at = start
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Runs the pickle and returns its value; `at` is then the offset of its end.

        Raises:
            Refused: the pickle contains something that is not supported.
            ValueError: the pickle is damaged.
            LookupError: the pickle is damaged.
        """
        content, known = self.content, self._operations.get
        for _ in range(self._most):
            code = content[self.at]
            self.at += 1
            if operation := known(code):
                operation(self)
            elif code == STOP:
                return self.stack[-1]
            else:
                raise Forbidden(f"it holds more than plain values: operation {code:#04x}")
        raise Refused(f"it has more than {self._most:,} operations")

    def take(self, count: int) -> bytes:
        """Returns the next bytes."""
        start, end = self.at, self.at + count
        if end > self.end:
            raise Refused("it ends too early")
        self.at = end
        return self.content[start:end]

    def piece(self, count: int) -> bytes | memoryview:
        """Returns the next bytes, to be used as a value."""
        return self.take(count)

    def byte(self) -> int:
        """Returns the next byte; raises LookupError at the end."""
        self.at += 1
        return self.content[self.at - 1]

    def number(self, count: int) -> int:
        """Returns the next unsigned number of `count` bytes."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        """Returns the rest of the line."""
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise Refused("it ends too early")
        piece = self.content[self.at : end]
        self.at = end + 1
        return piece

    def mark(self) -> None:
        """Begins a row of values."""
        if len(self._marks) == _MOST_MARKS:
            raise Refused("it is nested too deeply")
        self._marks.append(self.stack)
        self.stack = []

    def row(self) -> list[Any]:
        """Ends a row of values and returns it."""
        row = self.stack
        self.stack = self._marks.pop()
        return row

    def extend(self, row: list[Any]) -> None:
        """Appends values to the list on the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused("something is appended to what is no list")
        target.extend(row)

    def update(self, row: list[Any]) -> None:
        """Adds alternating keys and values to the dict on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(row) % 2:
            raise Refused("keys are put into what is no dict")
        keys = row[::2]
        if not all(type(key) in self.keys for key in keys):  # hashing a tuple may take forever
            raise Refused("it has a key that is no plain value")
        target.update(zip(keys, row[1::2], strict=True))

    def named(self, module: str, name: str) -> None:
        """Pushes the object of a name on the stack."""
        raise Forbidden(f"{module[:50]}.{name[:50]} is not allowed")

    def call(self) -> None:
        """Replaces a function and its arguments on the stack with the result of the call."""
        raise Forbidden("it calls something")

    def build(self) -> None:
        """Pops a state and applies it to the object below."""
        raise Forbidden("it gives something a state")

    def persistent(self) -> None:
        """Replaces the ID of an object outside the pickle with the object."""
        raise Forbidden("it names something outside of it")
