"""A machine that carries out the operations of a pickle, and makes nothing of what it names by itself."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any, Final

from kcv.common.pickles.operations import STOP, Forbidden, Operation, Refused

_MOST_MARKS: Final = 100
"""Rows of values that are begun inside each other."""


class Machine:
    """Carries out the operations of one pickle.

    Nothing looks into a value deeper than one level: a few bytes can stand for a tuple that is nested without end, and
    to hash, compare or print it would take for ever. So keys are plain, and what is called is for a subclass to know.

    Args:
        content: what holds the pickle.
        operations: those that it may have.
        most: how many of them.
        start: where the pickle begins.
    """

    keys: tuple[type, ...] = (str, bytes)
    """Types of keys; none may hold others."""

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
        """Returns the value that the pickle ends with; `at` is where it ends.

        Raises:
            Refused: it holds something that is not read.
            ValueError: it is damaged.
            LookupError: it is damaged.
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
        """Returns the next bytes, for a value."""
        return self.take(count)

    def byte(self) -> int:
        """Returns the next byte; LookupError where there is none."""
        self.at += 1
        return self.content[self.at - 1]

    def number(self, count: int) -> int:
        """Returns the next unsigned number of so many bytes."""
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
        """Puts keys and values, one after the other, into the dict on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(row) % 2:
            raise Refused("keys are put into what is no dict")
        keys = row[::2]
        if not all(type(key) in self.keys for key in keys):  # to hash a tuple may take for ever
            raise Refused("it has a key that is no plain value")
        target.update(zip(keys, row[1::2], strict=True))

    def named(self, module: str, name: str) -> None:
        """Puts what a name stands for on the stack."""
        raise Forbidden(f"{module[:50]}.{name[:50]} is not allowed")

    def call(self) -> None:
        """Puts what a call gives in the place of what is called and its arguments."""
        raise Forbidden("it calls something")

    def build(self) -> None:
        """Gives what is on the stack the state that lies on top of it."""
        raise Forbidden("it gives something a state")

    def persistent(self) -> None:
        """Puts what lies outside of the pickle in the place of its name."""
        raise Forbidden("it names something outside of it")
