"""Pickles of plain values, as Python writes them and as nobody should."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcv.common.pickles import plain
from kcv.data.sources import cifar10
from kcv.errors import DataError

PLAIN: list[Any] = [
    None, True, False, 0, 255, 65_535, -1, 2**31, -(2**63), 2**63 - 1, "", "a\nb'\"\\", "dög", "x" * 300, b"",
    b"y" * 300, bytes(range(256)), [], [1, [2, []]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": {b"b": [1]}},
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_what_they_were(protocol: int) -> None:
    for value in [*PLAIN, PLAIN, {"all": PLAIN}]:
        assert plain.loads(pickle.dumps(value, protocol)) == value
    one = ["x"]
    first, second = plain.loads(pickle.dumps([one, one], protocol))
    assert first is second


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_bytes_are_what_they_were(protocol: int) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 12)
    read = plain.loads(pickle.dumps({"data": array}, protocol))["data"]
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_many_bytes_are_not_copied(protocol: int) -> None:
    value = {"a": b"x" * 100_000}
    read = plain.loads(content := pickle.dumps(value, protocol))
    assert read == value
    assert read["a"].obj is content and read["a"].readonly


def test_what_python_2_wrote_is_read() -> None:
    text = b"}q\x01(U\x01aq\x02K\x07U\x04dataq\x03cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05"
    text += b"K\x00\x85q\x06U\x01b\x87Rq\x07(K\x01K\x02K\x01\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09(K\x03"
    text += b"U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x01\x02tbu."
    values = plain.loads(b"\x80\x02" + text)
    assert values[b"a"] == 7
    assert values[b"data"].tolist() == [[1], [2]]
    assert plain.loads(b"(dp0\nS'a\\xff'\np1\nI5\nsS\"b\"\nI01\nsS'c'\nL7L\nsg1\n0.") == {
        b"a\xff": 5,
        b"b": True,
        b"c": 7,
    }


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit",)


def _names(array: bytes) -> bytes:
    return b"\x80\x04}X\x0b\0\0\0label_names" + array + b"s."


_RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
_UINT8 = b"cnumpy\ndtype\n(X\x02\0\0\0u1\x89\x88tR"


def _array(dtype: bytes, shape: bytes = b"(J\x04\0\0\0t", content: bytes = b"A" * 4) -> bytes:
    piece = b"C" + bytes([len(content)]) + content
    return _RECONSTRUCT + b"(K\x01" + shape + dtype + b"\x89" + piece + b"tb"


NESTED = b"\x80\x02})q\0" + b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(60)) + b"K\x01s."
AGAIN = b"\x80\x04(" + b"c_codecs\nencode\nq\0X" + struct.pack("<I", 1000) + b"x" * 1000 + b"X\x06\0\0\0latin1\x86q\1R"
REFUSED = {
    "a class": pickle.dumps(Harmful()),
    "an object": pickle.dumps({"a": 1j}),
    "a set": pickle.dumps({1, 2}),
    "a float": pickle.dumps(1.5),
    "a persistent name": b"Pname\n.",
    "an extension": b"\x82\x01.",
    "an instance": b"(ios\nsystem\n.",
    "a key that is a number": pickle.dumps({1: 2}),
    "a key of a hundred thousand bytes": pickle.dumps({b"x" * 100_000: 1}, 4),
    "a tuple of nothing": b"\x85.",
    "short bytes that are not there": b"U\x05ab.",
    "a hundred thousand bytes that are not there": b"B\xa0\x86\x01\0ab.",
    "a number that is not there": b"K",
    "a place in the memo that is not there": b"Kar\1\0",
    "a key that is nested without end": NESTED,
    "a number of a million bits": pickle.dumps(2**1_000_000),
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "objects behind pointers": _names(_array(b"cnumpy\ndtype\n(X\x02\0\0\0O8\x89\x88tR")),
    "an array of floats": pickle.dumps({"data": np.zeros(3)}),
    "an array of objects": pickle.dumps({"data": np.array([{}, None])}),
    "an array of records": pickle.dumps({"data": np.zeros(2, "u1,u1")}),
    "an array laid out by columns": pickle.dumps({"data": np.zeros((2, 3), np.uint8, order="F")}),
    "an array larger than its content": _names(_array(_UINT8, b"(J\xff\xff\xff\x7ft")),
    "an array of a negative size": _names(_array(_UINT8, b"(J\xff\xff\xff\xfft")),
    "an array of many axes": _names(_array(_UINT8, b"(" + b"K\x01" * 65 + b"t")),
    "an array without content": _names(_RECONSTRUCT),
    "an array with a type in place of a size": _names(_array(_UINT8, b"(N}t")),
    "a type of numbers with a state of pointers": _names(_array(b"cnumpy\ndtype\n(X\x02\0\0\0O8\x89\x88tR(K\x03tb")),
    "a text encoded again and again": AGAIN + b"h\0h\1R" * 1000 + b"l.",
    "memory for a memo": b"\x80\x02Kr\xff\xff\xff\x7f",
    "a text that is longer than the file": b"\x8d" + b"\xff" * 7 + b"\x7fx.",
    "endless marks": b"(" * 1_000_000 + b".",
    "nothing on the stack": b".",
    "no mark": b"Nt.",
    "no end": b"N",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_value_is_refused(name: str) -> None:
    with pytest.raises((ValueError, LookupError)) as caught:
        plain.loads(REFUSED[name])
    assert len(str(caught.value)) < 300


def _value(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


BATCHES: dict[str, bytes] = {
    "labels that are an array": _value({"data": np.zeros((2, 3072), np.uint8), "labels": np.zeros(2, np.uint8)}),
    "labels that are large": _value({"data": np.zeros((1, 3072), np.uint8), "labels": [2**62]}),
    "labels that are truths": _value({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}),
    "labels that are lists": _value({"data": np.zeros((1, 3072), np.uint8), "labels": [[1]]}),
    "labels that are a dict": _value({"data": np.zeros((1, 3072), np.uint8), "labels": {"a": 1}}),
    "keys that are no text": _value({b"\xff": 1}),
}


@pytest.mark.parametrize("name", [*BATCHES, *REFUSED])
def test_a_batch_of_anything_else_ends_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "test_batch").write_bytes({**REFUSED, **BATCHES}[name])
    with pytest.raises(DataError, match=r"test_batch: (cannot be read as|is not) a CIFAR-10 batch") as caught:
        cifar10._read_split(tmp_path, "test", ("test_batch",), 10)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


NAMES: dict[str, object] = {
    "a number": 7,
    "numbers": [1, 2],
    "one name twice": [b"a", b"a"],
    "an empty name": [b"", b"b"],
    "an escape": ["\x1b[2J", "b"],
    "ten thousand names": [str(i) for i in range(10_000)],
    "a text": b"abc",
    "an array": np.zeros(3, np.uint8),
}


@pytest.mark.parametrize("name", NAMES)
def test_class_names_that_are_none_end_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "batches.meta").write_bytes(_value({"label_names": NAMES[name]}))
    with pytest.raises(DataError, match=r"batches\.meta: its label_names are no"):
        cifar10._names(tmp_path / "batches.meta")


def test_a_batch_that_is_no_file_or_too_large_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Callable[[], object] = lambda: cifar10._read_split(tmp_path, "test", ("test_batch",), 10)  # noqa: E731
    with pytest.raises(DataError, match="no such file"):
        read()
    (tmp_path / "test_batch").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read()
    (tmp_path / "test_batch").rmdir()
    (tmp_path / "test_batch").write_bytes(_value({"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1, 2]}))
    assert len(cifar10._read_split(tmp_path, "test", ("test_batch",), 10)) == 3
    monkeypatch.setattr(cifar10, "_MOST_IMAGES", 2)
    with pytest.raises(DataError, match="has more than 2 images"):
        read()
    monkeypatch.setattr(cifar10, "_MOST_BYTES", 100)
    with pytest.raises(DataError, match="is larger than 100 bytes"):
        read()
