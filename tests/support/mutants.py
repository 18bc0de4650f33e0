"""Sound files with one thing of their structure changed: removed, doubled, of another kind, huge, or nested.

Each function yields what a mutant is called, and the mutant. What is not about structure, random bytes, is elsewhere.
"""

from __future__ import annotations

import io
import math
import pickletools
import random
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias
from xml.etree import ElementTree

import h5py
import numpy as np

from kcv.inference.onnx_graph.wire import Message

Entries: TypeAlias = "list[tuple[str, bytes]]"  # members of an archive, of which two may have one name
Field: TypeAlias = "tuple[int, int, Any]"  # of protobuf: number, wire type; an int, bytes, or the fields of a message
Place: TypeAlias = "tuple[Any, ...]"  # keys and positions, from the outside inwards

GONE: Any = object()
DEEP: Any = 1
for _ in range(40):
    DEEP = [{"a": DEEP}]
LONG = "x" * 30_000
VALUES = (
    GONE, None, [], {}, [1, "a"], {"a": 1}, "", "text", "\x1b[2J<b>`", "é" * 64, LONG, {LONG: 1}, True, -1, 0, 1.5,
    2**63, 10**30, 1e300, math.nan, DEEP,
)  # fmt: skip


def places(value: Any, before: Place = ()) -> Iterator[Place]:
    """Yields where each value within a value of JSON or YAML stands, the whole among them."""
    yield before
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*before, key))


def at(whole: Any, place: Place) -> Any:
    """Returns the value at a place."""
    for key in place:
        whole = whole[key]
    return whole


def put(whole: Any, place: Place, new: Any) -> Any:
    """Returns a value with another one at a place; `GONE` takes away what is there."""
    if not place:
        return new
    changed = whole.copy()
    if len(place) == 1 and new is GONE:
        del changed[place[0]]
    else:
        changed[place[0]] = put(whole[place[0]], place[1:], new)
    return changed


def value_mutants(whole: Any) -> Iterator[tuple[str, Any]]:
    """Yields a value of JSON with each value in it gone, of other kinds, wrapped, repeated, and each key renamed."""
    for place in places(whole):
        name, value = ".".join(map(str, place)), at(whole, place)
        for new in VALUES:
            if place or new is not GONE:
                yield f"{name} = {'gone' if new is GONE else repr(new)[:20]}", put(whole, place, new)
        for words, new in {"in a list": [value], "in an object": {"x": value}, "50 times": [value] * 50}.items():
            yield f"{name} {words}", put(whole, place, new)
        if isinstance(value, dict):
            for key in value:
                for words, new in {"renamed": f"{key}x", "renamed at length": f"{key}{LONG}"}.items():
                    renamed = {new if other == key else other: inner for other, inner in value.items()}
                    yield f"{name}.{key} {words}", put(whole, place, renamed)


def zipped(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns an archive of these members."""
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data)  # by its name alone, an empty one would be refused here
    return stream.getvalue()


def archive_mutants(members: dict[str, bytes]) -> Iterator[tuple[str, Entries]]:
    """Yields each member gone, there twice, empty, cut, repeated, of other bytes, and under other names."""
    for name, data in members.items():
        others = [(other, content) for other, content in members.items() if other != name]
        yield f"{name} gone", others
        yield f"{name} twice", [*members.items(), (name, data)]
        yield f"{name} and an empty one", [*members.items(), (name, b"")]
        for words, content in {
            "empty": b"", "cut": data[: len(data) // 2], "doubled": data * 2, "zeros": bytes(len(data)),
            "noise": random.Random(0).randbytes(len(data)), "reversed": data[::-1],
        }.items():  # fmt: skip
            yield f"{name} {words}", [*others, (name, content)]
        for new in (
            f"{name}x",
            f"x/{name}",
            f"../{name}",
            f"/{name}",
            name.upper(),
            f"{name}/",
            "",
            "\udcff",
            *members,
        ):
            if new != name:
                yield f"{name} called {new!a}", [*others, (new.encode(errors="replace").decode(), data)]


def edited_hdf5(content: bytes, edit: Callable[[h5py.File], object]) -> bytes:
    """Returns a file of HDF5 after a change."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        edit(file)
    return stream.getvalue()


def hdf5_mutants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields each array and group gone, of another kind, linked, and its attributes gone or of another kind."""
    names: list[str] = []
    edited_hdf5(content, lambda file: file.visit(names.append))

    def put_at(name: str, value: Any) -> Callable[[h5py.File], None]:
        def edit(file: h5py.File) -> None:
            del file[name]
            if value is not GONE:
                file[name] = value

        return edit

    def attribute(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
        def edit(file: h5py.File) -> None:
            if value is GONE:
                del file[name].attrs[key]
            else:
                file[name].attrs[key] = value

        return edit

    arrays = {
        "gone": GONE, "a number": 1.0, "a text": "text", "empty": h5py.Empty("f4"), "no elements": np.zeros(0, "f4"),
        "another shape": np.zeros((2, 2), "f4"), "texts": np.array([b"a", b"b"]), "complex": np.zeros(4, "c8"),
        "a compound": np.zeros(2, [("a", "f4")]), "NaN": np.full(4, np.nan, "f4"), "truth": np.zeros(4, bool),
        "a link": h5py.SoftLink("/"), "a link elsewhere": h5py.ExternalLink("/etc/passwd", "/x"),
    }  # fmt: skip
    for name in names:
        for words, value in arrays.items():
            yield f"{name} {words}", edited_hdf5(content, put_at(name, value))
        yield f"{name} renamed", edited_hdf5(content, lambda file, name=name: file.move(name, f"{name}x"))
        for value in ("bfloat16", "text", 3, np.zeros(3), b"\xff"):
            yield f"{name} attribute {value!r}", edited_hdf5(content, attribute(name, "dtype", value))
    attributes: list[tuple[str, str]] = []
    found = lambda file: [attributes.extend((name, key) for key in file[name].attrs) for name in ("/", *names)]  # noqa: E731
    edited_hdf5(content, found)
    for name, key in attributes:
        for value in (GONE, 3, "text", np.zeros(3), h5py.Empty("f4")):
            words = "gone" if value is GONE else f"{value!r}"
            yield f"{name} attribute {key} {words}", edited_hdf5(content, attribute(name, key, value))


def pickle_mutants(content: bytes) -> Iterator[bytes]:
    """Yields a pickle with each operation gone, repeated, the last one, another one, and of other arguments."""
    operations = list(pickletools.genops(content))
    ends = [position for _, _, position in operations[1:]] + [len(content)]
    for (_, argument, start), end in zip(operations, ends, strict=True):
        assert start is not None
        before, piece, after = content[:start], content[start:end], content[end:]
        yield before + after
        yield before + piece + piece + after
        yield before + piece * 50 + after
        yield content[:end]
        yield from (before + bytes([code]) + piece[1:] + after for code in range(256) if code != piece[0])
        if argument is not None:
            yield from (before + piece[:1] + filler * (len(piece) - 1) + after for filler in (b"\0", b"\x7f", b"\xff"))


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def fields_of(content: bytes, message: Message | None) -> list[Field]:
    """Returns the fields of a message of protobuf, and those of messages in it."""
    fields: list[Field] = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(content):
        tag = number()
        known = message.fields.get(tag >> 3) if message else None
        if tag & 7 == 0:
            fields.append((tag >> 3, 0, number()))
            continue
        size = 4 if tag & 7 == 5 else number()
        piece = content[at : at + size]
        at += size
        nested = known is not None and known.kind == "message"
        fields.append((tag >> 3, tag & 7, fields_of(piece, known.message) if known and nested else piece))
    return fields


def message_of(fields: list[Field]) -> bytes:
    """Returns the message of protobuf that has these fields."""
    out = b""
    for number, wire, value in fields:
        piece = varint(value) if isinstance(value, int) else message_of(value) if isinstance(value, list) else value
        out += varint(number << 3 | wire) + (varint(len(piece)) if wire == 2 else b"") + piece
    return out


def field_mutants(fields: list[Field]) -> Iterator[list[Field]]:
    """Yields the fields of a message with each gone, repeated, of another kind or number, huge, or nested."""
    for place, field in enumerate(fields):
        for other in _changed(field, fields):
            yield [*fields[:place], *other, *fields[place + 1 :]]
        if isinstance(field[2], list):
            for inner in field_mutants(field[2]):
                yield [*fields[:place], (*field[:2], inner), *fields[place + 1 :]]


def _changed(field: Field, parent: list[Field]) -> Iterator[list[Field]]:
    number, wire, value = field
    yield []
    yield [field, field]
    yield [field] * 50
    yield [(number, 0, 2**63 - 1)]
    yield [(number, 2, b"\xff\xfe")]
    yield [(number, 5, b"\0\0\xc0\x7f")]
    yield [(number, 1, b"\xff" * 8)]
    yield [(number, 3, b"")]
    yield [(number + 1, wire, value)]
    yield [(99, wire, value)]
    if isinstance(value, int):
        yield from ([(number, 0, other)] for other in (0, 1, value + 1, 2**31, 2**62, -1, -(2**63)))
    elif isinstance(value, bytes) and wire == 2:
        others = (b"", value[:-1], value + value, b"x" * 100_000, b"\xff" * len(value), b"\0" * len(value))
        yield from ([(number, 2, other)] for other in others)
    elif isinstance(value, list):
        deep = value
        for _ in range(30):
            deep = [*value, (number, 2, deep)]
        yield [(number, 2, [])]
        yield [(number, 2, parent)]
        yield [(number, 2, deep)]


def element_mutants(content: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yields functions that make a document of XML with one element or attribute changed: each takes a parse."""
    elements = list(ElementTree.fromstring(content).iter())
    for place, element in enumerate(elements):
        if place:
            for words, change in _ELEMENT_CHANGES.items():
                yield f"{element.tag} {place} {words}", partial(_edited, content, place, change)
        for key in element.attrib:
            for value in ("", "-1", "9" * 21, "1e999", "0", "x" * 9000, None):
                change = partial(_set, key=key, value=value)
                yield f"{element.tag} {place} {key} = {str(value)[:20]}", partial(_edited, content, place, change)


def _edited(content: bytes, place: int, change: Callable[[ElementTree.Element, ElementTree.Element], None]) -> bytes:
    root = ElementTree.fromstring(content)
    found = list(root.iter())
    above = {child: parent for parent in found for child in parent}
    change(above.get(found[place], root), found[place])
    return bytes(ElementTree.tostring(root))


def _set(parent: ElementTree.Element, element: ElementTree.Element, *, key: str, value: str | None) -> None:
    if value is None:
        del element.attrib[key]
    else:
        element.set(key, value)


def _with_text(element: ElementTree.Element, text: str) -> None:
    element.text = text


def _nested(parent: ElementTree.Element, element: ElementTree.Element) -> None:
    for _ in range(50):
        inner = ElementTree.SubElement(element, element.tag, element.attrib)
        element = inner


_ELEMENT_CHANGES: dict[str, Callable[[ElementTree.Element, ElementTree.Element], None]] = {
    "gone": lambda parent, element: parent.remove(element),
    "twice": lambda parent, element: parent.append(element),
    "50 times": lambda parent, element: parent.extend([element] * 50),
    "renamed": lambda parent, element: setattr(element, "tag", "x"),
    "nested": _nested,
    "of a huge number": lambda parent, element: _with_text(element, "9" * 30),
    "of a negative number": lambda parent, element: _with_text(element, "-5"),
    "of a text": lambda parent, element: _with_text(element, "x"),
}
