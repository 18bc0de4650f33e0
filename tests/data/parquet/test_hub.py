"""Repositories of Hugging Face by their short names, against a hub on this machine."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from web import serving_files

from kcv.common.download import is_url
from kcv.config import DataConfig
from kcv.data import loading
from kcv.data.dataset import Source
from kcv.errors import DataError

pytest.importorskip("aiohttp", reason="fsspec needs it for http")

LIST = "/api/datasets/me/pets/parquet"


def parquet(label: str, column: str = "label", rows: int = 2) -> bytes:
    stream = io.BytesIO()
    images = pa.array([f"{label}{i}".encode() for i in range(rows)], pa.binary())
    pq.write_table(pa.table({"image": images, column: [label, *"z" * (rows - 1)]}), stream)
    return stream.getvalue()


Hub = Callable[[Any], Callable[..., Source]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Returns a function that starts a hub with an answer, in which HOST stands for its address."""
    with ExitStack() as held:

        def start(answer: Any) -> Callable[..., Source]:
            files = {
                "/full/train/0.parquet": parquet("a"),
                "/full/train/1.parquet": parquet("b"),
                "/full/test/0.parquet": parquet("a"),
                "/small/train/0.parquet": parquet("c"),
                "/odd/0.parquet": parquet("d", "klass"),
            }
            address = held.enter_context(serving_files(files))
            whole = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            files[LIST] = whole.replace(b"HOST", address.encode())
            monkeypatch.setenv("HF_ENDPOINT", f"{address}/")

            def opened(name: str = "hf:me/pets", **options: Any) -> Source:
                return loading.open_source(name, options=loading.options_of(DataConfig(**options)))

            return opened

        yield start


FULL = {"train": ["HOST/full/train/0.parquet", "HOST/full/train/1.parquet"], "test": ["HOST/full/test/0.parquet"]}
SMALL = {"train": ["HOST/small/train/0.parquet"]}


def test_a_repository_is_read_by_its_short_name(hub: Hub) -> None:
    source = hub({"full": FULL})()
    assert source.name == "hf:me/pets" and source.class_names == ("a", "b", "z")
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 4, "test": 2}
    assert [*source.splits["train"].images] == [b"a0", b"a1", b"b0", b"b1"]


def test_one_of_several_configurations_is_named(hub: Hub) -> None:
    opened = hub({"full": FULL, "small": SMALL})
    with pytest.raises(DataError, match=r"has several configurations: full, small; name one: data.config=NAME"):
        opened()
    assert opened(config="small").class_names == opened("hf:me/pets/small").class_names == ("c", "z")
    with pytest.raises(DataError, match=r"no configuration 'tiny'; it has full, small"):
        opened("hf:me/pets/tiny")
    with pytest.raises(DataError, match=r"another configuration than data.config=full"):
        opened("hf:me/pets/small", config="full")


def test_a_single_split_of_any_name_is_a_source_without_splits(hub: Hub) -> None:
    opened = hub({"default": {"everything": ["HOST/odd/0.parquet"]}})
    assert opened().flat and opened(label_column="klass").class_names == ("d", "z")
    with pytest.raises(DataError, match=r"has no column 'breed' \(data.label_column\)"):
        opened(label_column="breed")


BAD: dict[str, tuple[Any, str]] = {
    "no such repository": (None, "cannot be downloaded"),
    "no JSON": (b"<html>", "is not answered with JSON"),
    "a list": ([], "is not answered with lists"),
    "no files": ({}, "has no Parquet files"),
    "splits that are no objects": ({"full": []}, "is not answered with lists"),
    "files that are no texts": ({"full": {"train": [1]}}, "is not answered with lists"),
    "files elsewhere": ({"full": {"train": ["http://127.0.0.1:9/train/0.parquet"]}}, "names a file elsewhere"),
    "files of this machine": ({"full": {"train": ["file:///etc/passwd"]}}, "names a file elsewhere"),
    "a file that is missing": ({"full": {"train": ["HOST/full/train/9.parquet"]}}, "cannot be read as Parquet"),
    "unknown splits": ({"full": {"one": [], "two": []}}, "has no split train; its splits: one, two"),
    "two splits of one kind": ({"full": {"val": [], "validation": []}}, "two splits for one of train"),
    "a split without files": ({"full": {"train": []}}, "has no Parquet files"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_answer_ends_in_one_line(hub: Hub, case: str) -> None:
    answer, words = BAD[case]
    opened = hub(b"" if answer is None else answer)
    with pytest.raises(DataError, match=words) as caught:
        opened("hf:me/other" if answer is None else "hf:me/pets")
    assert "\n" not in str(caught.value)


def test_short_names_count_as_urls_and_odd_ones_are_refused(hub: Hub) -> None:
    opened = hub({})
    assert is_url("hf:me/pets") and not is_url("hf:me") and not is_url("dir/hf:x")
    for name in ("hf:me/", "hf:me/a/b/c", "hf:me/../x/y", "hf:me/a?b=c"):
        with pytest.raises(DataError, match="write hf:owner/name"):
            opened(name)
