"""A machine that executes the operations of a pickle, without resolving the names in it."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any, Final

from kcv.common.pickles.operations import STOP, Forbidden, Operation, Refused

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
