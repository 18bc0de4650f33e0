"""Tables of images and labels with one column removed, retyped, nulled, nested, doubled, renamed or emptied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

ROWS = 6
KINDS: tuple[pa.DataType, ...] = (
    pa.null(), pa.bool_(), pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float16(), pa.float64(),
    pa.decimal128(20, 3), pa.date32(), pa.timestamp("ns", "UTC"), pa.duration("s"), pa.time64("ns"), pa.string(),
    pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(4),
    pa.list_(pa.binary()), pa.list_(pa.int64(), 2), pa.large_list(pa.string()), pa.map_(pa.string(), pa.int64()),
    pa.struct([("bytes", pa.binary())]), pa.struct([("bytes", pa.string())]), pa.struct([("path", pa.string())]),
    pa.struct([("bytes", pa.struct([("bytes", pa.binary())]))]), pa.struct([("bytes", pa.list_(pa.binary()))]),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.int64()),
    pa.dictionary(pa.int32(), pa.binary()),
)  # fmt: skip
NAMES: tuple[Any, ...] = (
    [], ["a"], ["a", "a"], ["", "b"], ["a", None], ["a", 1], "ab", {"0": "a"}, None, 7, [["a"]], ["a", "b", "c", "d"],
    ["a\x1b[2J", "b"], ["\ud800", "b"], ["a" * 2000, "b"],
)  # fmt: skip
DESCRIPTIONS = (
    b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b'{"info": null}', b'{"info": []}', b'{"info": {}}',
    b'{"info": {"features": null}}', b'{"info": {"features": [1]}}', b'{"info": {"features": {"label": null}}}',
    b'{"info": {"features": {"label": [{"names": ["a", "b"]}]}}}', b'{"info": {"features": {"image": 1}}}',
    b"NaN", b"[" * 5000, b'{"info": {"features": {"other": {"_type": "ClassLabel", "names": ["a", "b"]}}}}',
)  # fmt: skip


def columns() -> dict[str, pa.Array]:
    bytes_of = [f"image {i}".encode() for i in range(ROWS)]
    image = pa.array([{"bytes": value, "path": "x"} for value in bytes_of])
    return {"image": image, "label": pa.array([i % 2 for i in range(ROWS)])}


def of_kind(kind: pa.DataType) -> pa.Array | None:
    """Returns a column of a type, of values where there is an easy way to them, else of nulls."""
    for values in ([0, 1] * 3, ["0", "1"] * 3, [b"abcd", b"efgh"] * 3, [{"bytes": b"x", "path": "y"}] * ROWS):
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, TypeError, ValueError, AttributeError, OverflowError):
            continue
    return pa.nulls(ROWS, kind)


def column_mutants() -> Iterator[tuple[str, list[tuple[str, pa.Array]], bytes]]:
    """Yields a name, columns and a description for each."""
    sound = columns()
    about = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}).encode()
    for name, column in sound.items():
        others = [(key, value) for key, value in sound.items() if key != name]
        yield f"no {name}", others, about
        yield f"{name} twice", [*others, (name, column), (name, column)], about
        yield f"{name} null", [*others, (name, pa.nulls(ROWS, column.type))], about
        some = pa.array([None if i == 3 else value for i, value in enumerate(column.to_pylist())], column.type)
        yield f"{name} null once", [*others, (name, some)], about
        yield f"{name} in a list", [*others, (name, pa.array([[value] for value in column.to_pylist()]))], about
        nested = pa.StructArray.from_arrays([column], names=[name])
        yield f"{name} in itself", [*others, (name, nested)], about
        yield f"{name} with dots", [*others, (f"{name}.bytes", pa.array([b"x"] * ROWS)), (name, column)], about
        yield f"{name} in capitals", [*others, (name.upper(), column)], about
        yield f"{name} without a name", [*others, ("", column)], about
        for kind in KINDS:
            yield f"{name} as {kind}", [*others, (name, of_kind(kind))], about
    everything = list(sound.items())
    twice = pa.StructArray.from_arrays([pa.array([b"x"] * ROWS)] * 2, names=["bytes", "bytes"])
    yield "bytes twice", [("image", twice), everything[1]], about
    empty = [(name, column.slice(0, 0)) for name, column in everything]
    yield "no rows", empty, about
    for value in (-1, 2, 2**31, 2**63 - 1, -(2**63)):
        yield f"label {value}", [everything[0], ("label", pa.array([0, 1, 0, 1, 0, value]))], about
        yield f"label {value} alone", [everything[0], ("label", pa.array([0, 1, 0, 1, 0, value]))], b"{}"
    for names in NAMES:
        feature = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}).encode()
        yield f"names {str(names)[:20]!a}", everything, feature
    for description in DESCRIPTIONS:
        yield f"described as {description[:20]!r}", everything, description
