"""The footer of a Parquet file, in Thrift's compact protocol: read, changed and written again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from mutants import varint

Field: TypeAlias = "tuple[int, int, Any]"
"""Number, kind (`TRUE` to `STRUCT`), and value: of a list `(kind, values)`, of a struct its fields."""

TRUE, FALSE, I64, DOUBLE, BINARY, LIST, STRUCT = 1, 2, 6, 7, 8, 9, 12
_MAGIC = b"PAR1"


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.content[self.at - size : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def zigzag(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def value(self, kind: int, *, alone: bool) -> Any:
        if kind in (TRUE, FALSE):
            return self.take(1) == b"\1" if not alone else kind == TRUE
        if kind == 3:
            return self.take(1)[0]
        if kind in (4, 5, I64):
            return self.zigzag()
        if kind == DOUBLE:
            return self.take(8)
        if kind == BINARY:
            return self.take(self.varint())
        if kind == LIST:
            head = self.take(1)[0]
            count = head >> 4 if head >> 4 < 15 else self.varint()
            return head & 15, [self.value(head & 15, alone=False) for _ in range(count)]
        assert kind == STRUCT, kind
        return self.struct()

    def struct(self) -> list[Field]:
        fields: list[Field] = []
        number = 0
        while head := self.take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self.zigzag()
            fields.append((number, head & 15, self.value(head & 15, alone=True)))
        return fields


def _written(kind: int, value: Any, *, alone: bool) -> bytes:
    if kind in (TRUE, FALSE):
        return b"" if alone else bytes([1 if value else 2])
    if kind == 3:
        return bytes([value & 255])
    if kind in (4, 5, I64):
        return varint(value << 1 ^ value >> 63)
    if kind == DOUBLE:
        return bytes(value)
    if kind == BINARY:
        return varint(len(value)) + value
    if kind == LIST:
        of, values = value
        head = bytes([len(values) << 4 | of]) if len(values) < 15 else bytes([240 | of]) + varint(len(values))
        return head + b"".join(_written(of, one, alone=False) for one in values)
    return _struct(value)


def _struct(fields: list[Field]) -> bytes:
    out = b""
    for number, kind, value in fields:  # the number in full, which is allowed and needs no order
        out += bytes([kind]) + varint(number << 1) + _written(kind, value, alone=True)
    return out + b"\0"


def footer_of(content: bytes) -> list[Field]:
    """Returns the fields of a file's footer."""
    length = int.from_bytes(content[-8:-4], "little")
    return _Reader(content[-8 - length : -8]).struct()


def with_footer(content: bytes, fields: list[Field]) -> bytes:
    """Returns a file with another footer."""
    footer = _struct(fields)
    length = int.from_bytes(content[-8:-4], "little")
    return content[: -8 - length] + footer + len(footer).to_bytes(4, "little") + _MAGIC


def edited(fields: list[Field], place: tuple[int, ...], value: Any) -> list[Field]:
    """Returns fields with another value at a place: numbers of fields and, after that of a list, a position in it.

    Example:
        >>> edited(footer, (4, 0, 2), 10**9)  # the total_byte_size of the first row group
    """
    number, *rest = place
    found = {number for number, _, _ in fields}
    assert number in found, f"there is no field {number}, only {found}"

    def changed(kind: int, old: Any) -> Any:
        if not rest:
            return value
        if kind == LIST:
            position, *inner = rest
            of, values = old
            new = [edited(one, tuple(inner), value) if inner else value for one in [values[position]]]
            return of, [*values[:position], *new, *values[position + 1 :]]
        return edited(old, tuple(rest), value)

    return [(n, kind, changed(kind, old)) if n == number else (n, kind, old) for n, kind, old in fields]


def footer_mutants(fields: list[Field], name: str = "") -> Iterator[tuple[str, list[Field]]]:
    """Yields a footer with each field gone, twice, of another kind, huge, below zero, empty, or repeated."""
    for place, (number, kind, value) in enumerate(fields):
        here = f"{name}.{number}".lstrip(".")
        before, after = fields[:place], fields[place + 1 :]
        others: dict[str, list[Field]] = {
            "gone": [], "twice": [fields[place]] * 2, "renumbered": [(number + 1, kind, value)],
            "a text": [(number, BINARY, b"x")], "a number": [(number, I64, 7)], "a struct": [(number, STRUCT, [])],
        }  # fmt: skip
        if kind in (4, 5, I64):
            numbers = (0, 1, -1, value + 1, value - 1, value * 1000, 2**31 - 1, -(2**31), 2**62, 2**63 - 1)
            others |= {f"{other}": [(number, kind, other)] for other in numbers if kind == I64 or abs(other) < 2**32}
        elif kind == BINARY:
            others |= {f"{len(other)} bytes": [(number, kind, other)] for other in (b"", value * 2, b"\xff" * 70_000)}
        elif kind == LIST:
            of, values = value
            others |= {"empty": [(number, kind, (of, []))], "50 times": [(number, kind, (of, values * 50))]}
            for position, one in enumerate(values if of == STRUCT else []):
                for words, inner in footer_mutants(one, f"{here}[{position}]"):
                    yield (
                        words,
                        [*before, (number, kind, (of, [*values[:position], inner, *values[position + 1 :]])), *after],
                    )
        elif kind == STRUCT:
            for words, inner in footer_mutants(value, here):
                yield words, [*before, (number, kind, inner), *after]
        for words, other in others.items():
            yield f"{here} {words}", [*before, *other, *after]
