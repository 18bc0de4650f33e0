"""Parquet of strangers: little memory, one line, whatever a column holds, how it is packed and what its footer says."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from footers import edited, footer_of, with_footer
from variants import variants

from kcv.data.classes import MOST_CLASSES
from kcv.data.loading import open_source
from kcv.data.parquet import source as parquet
from kcv.data.row_images import RowImages
from kcv.errors import DataError

MB = 1_000_000
MOST_MB = 900
"""That a refusal may need above what the process has."""


def repeated(value: bytes | str, rows: int) -> pa.Array:
    """A column in which one value stands for all rows, as files can say it in a few bytes."""
    kind = pa.binary() if isinstance(value, bytes) else pa.string()
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], kind))


def zeros(size: int, rows: int) -> pa.Array:
    """Values of zeros, each in the file itself."""
    offsets = pa.py_buffer((np.arange(rows + 1) * size).astype("<i4").tobytes())
    return pa.Array.from_buffers(pa.binary(), rows, [None, offsets, pa.py_buffer(bytes(size * rows))])


def words(rows: int) -> pa.Array:
    return pa.array([("a", "b")[i % 2] for i in range(rows)])


def write(path: Path, images: Any, labels: Any, *, about: bytes | None = None, **options: Any) -> None:
    table = pa.table({"image": images, "label": labels})
    if about is not None:
        table = table.replace_schema_metadata({b"huggingface": about})
    defaults = {"store_schema": about is not None, "dictionary_pagesize_limit": 2**31 - 1, "compression": "zstd"}
    pq.write_table(table, path, **{**defaults, **options})


def declared(names: list[str]) -> bytes:
    return json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}}).encode()


def delta(column: str) -> dict[str, Any]:
    other = {"image": "label", "label": "image"}[column]
    return {"use_dictionary": False, "column_encoding": {column: "DELTA_BYTE_ARRAY", other: "PLAIN"}}


def lying(path: Path, said: dict[tuple[int, ...], Any], size: int = MB) -> None:
    """Writes a sound file of zeros, whose footer says something else of a few things."""
    write(path, zeros(size, 6), words(6), use_dictionary=False, data_page_size=2**30)
    fields = footer_of(path.read_bytes())
    for place, value in said.items():
        fields = edited(fields, place, value)
    path.write_bytes(with_footer(path.read_bytes(), fields))


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "one image for 200 rows": (lambda p: write(p, repeated(bytes(10 * MB), 200), words(200)), "repeat a few bytes"),
    "one image for 3,000 rows": (lambda p: write(p, repeated(bytes(10 * MB), 3000), words(3000)), "repeat a few"),
    "images of zeros": (
        lambda p: write(p, zeros(50 * MB, 6), words(6), use_dictionary=False),
        r"would unpack from \d+,\d+ to 300,000,\d+ bytes",
    ),
    "images that share their beginning": (
        lambda p: write(p, zeros(5 * MB, 60), words(60), **delta("image")), "repeat a few bytes"),
    "an image of 134 MB": (
        lambda p: write(p, repeated(bytes(2**27 + 1), 2), words(2)), "holds an image of more than 134,217,728 bytes"),
    "many large labels": (
        lambda p: write(p, [b"x"] * 30, pa.array([f"{i}" + "x" * 10 * MB for i in range(30)]), compression="zstd"),
        "column 'label' of row group 0 would unpack"),
    "one large label for many rows": (
        lambda p: write(p, [b"x"] * 3000, repeated("x" * 10 * MB, 3000)), "a label of 10,000,000 bytes"),
    "large labels that share their beginning": (
        lambda p: write(p, [b"x"] * 60, ["x" * 5 * MB] * 60, **delta("label")), "a label of 5,000,000 bytes"),
    "more rows than bytes": (
        lambda p: write(p, repeated(b"x", 5 * MB), repeated("a", 5 * MB)), "claims 5,000,000 rows in"),
    "a label beyond int64": (
        lambda p: write(p, [b"x", b"y"], pa.array([2**63, 0], pa.uint64()), about=declared(["a", "b"])),
        "row 0 .* label 9223372036854775808 is not one of 0 to 1"),
    "a label that is -1 in int64": (
        lambda p: write(p, [b"x", b"y"], pa.array([2**64 - 1, 0], pa.uint64()), about=declared(["a", "b"])),
        "row 0 .* label 18446744073709551615 is not one of 0 to 1"),
    "two columns of one name": (
        lambda p: pq.write_table(pa.Table.from_arrays([pa.array([b"x"])] * 2 + [words(1)],
                                                      ["image", "image", "label"]), p),
        "has 2 columns that are called 'image'"),
    "two columns of labels": (
        lambda p: pq.write_table(pa.Table.from_arrays([pa.array([b"x"]), words(1), words(1)],
                                                      ["image", "label", "label"]), p),
        "has 2 columns that are called 'label'"),
    "a description of brackets": (
        lambda p: write(p, [b"x"], [0], about=b"[" * 100_000), "description of its columns is nested too deeply"),
    "a description of objects": (
        lambda p: write(p, [b"x"], [0], about=b'{"info":' * 90_000), "description of its columns is nested too deeply"),
    "a footer of names": (
        lambda p: write(p, [b"x"], [0], about=declared(["n" * 1000] * 9000)), r"says [\d,]+ bytes about itself"),
    "too many declared classes": (
        lambda p: write(p, [b"x"], [0], about=declared([f"{i}" for i in range(MOST_CLASSES + 1)])),
        "declares 100,001 classes"),
    "a declared name without end": (
        lambda p: write(p, [b"x"], [0], about=declared(["n" * 5000, "b"])), "a class name of 5,000 characters"),
    "a class for each row": (
        lambda p: write(p, [b"x"] * 200_000, [f"{i}" for i in range(200_000)], compression="snappy"),
        "name more than 100,000 classes"),
    "a number for each row": (
        lambda p: write(p, [b"x"] * 200_000, np.arange(200_000)), "name more than 100,000 classes"),
    "a label that is no text": (
        lambda p: write(p, [b"x"], pa.array([b"\xff\xfe"]).view(pa.string())), "cannot be read as Parquet"),
    "3,000 columns": (
        lambda p: pq.write_table(pa.table({f"c{i}": [1] for i in range(3_000)}), p), "its columns: c0, c1, .*, ..."),
    "20,000 columns": (
        lambda p: pq.write_table(pa.table({f"c{i}": [1] for i in range(20_000)}), p), "more than 300,000 values"),
    "pages larger than the footer says": (
        lambda p: lying(p, {(4, 0, 2): 110_000, (4, 0, 1, 0, 3, 6): 100_000}, 50 * MB),
        r"is said to unpack to 100,000 bytes, and its pages to 300,0\d\d,\d+"),
    "a footer that says nothing of sizes": (
        lambda p: lying(p, {(4, 0, 2): 0, (4, 0, 1, 0, 3, 6): 0}, 50 * MB), "is said to unpack to 0 bytes, and its"),
    "rows that are not there": (
        lambda p: lying(p, {(3,): 600, (4, 0, 3): 600}), "has 6 labels for 600 rows"),
    "fewer rows than its row groups": (lambda p: lying(p, {(3,): 5}), "its row groups have other rows than it says"),
    "rows without end": (lambda p: lying(p, {(3,): 2**62, (4, 0, 3): 2**62}), "claims 4,611,686,018,427,387,904 rows"),
    "values that are not there": (lambda p: lying(p, {(4, 0, 1, 0, 3, 5): 0}), "0 images in its 6 rows"),
    "a size below zero": (lambda p: lying(p, {(4, 0, 1, 0, 3, 6): -1}), "its footer counts -1 of something"),
    "a column beyond the file": (
        lambda p: lying(p, {(4, 0, 1, 0, 3, 7): 2**40}), "a column is said to lie beyond the end of the file"),
    "pages before the file": (lambda p: lying(p, {(4, 0, 1, 0, 3, 9): -5}), "its footer counts -5 of something"),
    "a column too few": (lambda p: lying(p, {(4, 0, 1): (12, [])}), "has 0 columns in place of 2"),
    "images of nested types": (
        lambda p: pq.write_table(pa.table({"image": [[[{"a": [1]}]]], "label": ["a"]}), p), "not list of 1 fields"),
}  # fmt: skip


@pytest.fixture
def peak() -> Callable[[], int]:
    """Returns a function that tells the memory (MB) that this process needed since it was asked for."""
    if sys.platform != "linux":
        pytest.skip("needs the peak of memory, which Linux can reset")

    def told(name: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) // 1000 for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = told("VmRSS")
    return lambda: told("VmHWM") - before


def yardstick() -> float:
    """Returns the processor time of two million small steps of Python here and now, a quarter of a second or more."""
    began = time.thread_time()
    assert sum(len(str(number)) for number in range(2_000_000)) > 0
    return time.thread_time() - began


@pytest.fixture
def hostile(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "data.parquet"
    HOSTILE[request.param][0](path)
    return path


SLOW = (
    "20,000 columns", "3,000 columns", "images of zeros", "an image of 134 MB", "one image for 200 rows",
    "images that share their beginning", "pages larger than the footer says", "many large labels",
)  # fmt: skip


@pytest.mark.parametrize(
    ("hostile", "name"),
    variants([(name, name) for name in HOSTILE], fast=[(name, name) for name in HOSTILE if name not in SLOW]),
    indirect=["hostile"],
)
def test_what_asks_for_too_much_is_one_line_and_little_memory(
    hostile: Path, name: str, peak: Callable[[], int]
) -> None:
    began = time.thread_time()
    with pytest.raises(DataError, match=HOSTILE[name][1]) as caught:
        open_source(str(hostile))
    assert time.thread_time() - began < 16 * yardstick()
    assert str(caught.value).startswith(str(hostile))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2000
    assert peak() < MOST_MB


def test_many_row_groups_of_one_image_are_read_in_little_memory(
    tmp_path: Path, peak: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_MOST_HELD", 50 * MB)
    monkeypatch.setattr("kcv.data.row_images._MOST_HELD", 150 * MB)
    write(tmp_path / "data.parquet", repeated(bytes(10 * MB), 30), words(30), row_group_size=10)
    rows = open_source(str(tmp_path / "data.parquet")).splits["train"].images
    assert isinstance(rows, RowImages)
    assert sum(map(len, rows)) == 300 * MB
    assert peak() < 500
    with pytest.raises(DataError, match=r"row \d+: the images before it need .*, many times what their files say"):
        list(rows.batches([np.arange(30)]))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "../../etc/passwd", "猫", "-1", "a" * 1000])
def test_class_names_of_any_kind_are_names(name: str, tmp_path: Path) -> None:
    write(tmp_path / "data.parquet", [b"x", b"y"], [name, "b"])
    assert set(open_source(str(tmp_path / "data.parquet")).class_names) == {name, "b"}


def test_as_many_classes_as_are_allowed_are_opened_in_seconds(tmp_path: Path) -> None:
    names = [f"{i}" for i in range(20_000)]
    write(tmp_path / "data.parquet", [b"x"] * 20_000, names)
    began = time.thread_time()
    assert len(open_source(str(tmp_path / "data.parquet")).class_names) == 20_000
    assert time.thread_time() - began < 25 * yardstick()


ENCODINGS = ("PLAIN", "RLE_DICTIONARY", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("nested", [False, True], ids=["binary", "struct"])
def test_every_encoding_is_read(encoding: str, nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = [rng.bytes(int(size)) for size in rng.integers(1, 5000, 300)]
    images: Any = [{"bytes": value, "path": "x"} for value in values] if nested else values
    labels = [f"class {i % 7}" for i in range(300)]
    column = "image.bytes" if nested else "image"
    options: dict[str, Any] = {"use_dictionary": True}
    if encoding != "RLE_DICTIONARY":
        options = {"use_dictionary": False, "column_encoding": {column: encoding, "label": encoding}}
    write(tmp_path / "data.parquet", images, labels, row_group_size=130, **options)
    for batch_bytes in (2**27, 2**18, 1):  # all rows at once; as many as the largest allows; one by one
        monkeypatch.setattr("kcv.data.parquet.bounded_rows._BATCH_BYTES", batch_bytes)
        for eager_bytes in (2**28, 0):
            monkeypatch.setattr(parquet, "EAGER_BYTES", eager_bytes)
            source = open_source(str(tmp_path / "data.parquet"))
            assert list(source.splits["train"].images) == values
            assert [source.class_names[label] for label in source.splits["train"].labels] == labels
