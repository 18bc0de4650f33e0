"""CIFAR-10 from every place it can lie in, in miniature; and the real one, where it is."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kcv.common.download import cache_dir
from kcv.data.dataset import Source
from kcv.data.sources import cifar10
from kcv.errors import DataError

PER_BATCH = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("KCV_DATA_DIR", raising=False)
    return tmp_path / "cache"


def pixels(batch: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(batch).integers(0, 256, (PER_BATCH, 3, 32, 32), dtype=np.uint8)


def make_batches(parent: Path) -> Path:
    """A cifar-10-batches-py of a few images, with the bytes keys of the original."""
    folder = parent / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [(i + k) % 10 for k in range(PER_BATCH)]
        batch = {b"data": pixels(i).reshape(PER_BATCH, -1), b"labels": labels, b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [name.encode() for name in cifar10.CLASS_NAMES]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return folder


def make_archive(parent: Path, extra: str | None = None) -> Path:
    folder = make_batches(parent / "source")
    path = parent / cifar10.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
        if extra:
            tar.addfile(tarfile.TarInfo(extra), io.BytesIO(b""))
    return path


def check(source: Source) -> None:
    train, test = source.splits["train"], source.splits["test"]
    assert source.class_names == cifar10.CLASS_NAMES
    assert source.image_size == 32
    assert (len(train), len(test)) == (5 * PER_BATCH, PER_BATCH)
    assert test.labels.tolist() == [5, 6, 7, 8]
    assert np.array_equal(train.images[PER_BATCH + 1], pixels(1)[1].transpose(1, 2, 0))
    assert train.names[5] == "train/5"


@pytest.mark.parametrize("below", ["", "cifar10"])
def test_the_original_batches_under_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    make_batches(tmp_path / "data" / below)
    monkeypatch.setenv("KCV_DATA_DIR", str(tmp_path / "data"))
    check(cifar10.open_source(url="file:///nowhere"))


def test_parquet_under_the_data_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_batches(tmp_path / "data")
    (tmp_path / "data" / "cifar10").mkdir()
    for split in ("train", "test"):
        pq.write_table(
            pa.table({"img": [b"1", b"2"], "label": ["a", "b"]}), tmp_path / f"data/cifar10/{split}-0.parquet"
        )
    monkeypatch.setenv("KCV_DATA_DIR", str(tmp_path / "data"))
    source = cifar10.open_source(url="file:///nowhere")
    assert (source.name, source.class_names, source.image_size) == ("cifar10", ("a", "b"), 32)


def fetch(archive: Path) -> Source:
    digest = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    return cifar10.open_source(url=archive.as_uri(), checksum=digest, size=archive.stat().st_size)


def test_a_download_is_unpacked_into_the_cache_once(tmp_path: Path, cache: Path) -> None:
    archive = make_archive(tmp_path)
    first = fetch(archive)
    check(first)
    assert [child.name for child in cache.iterdir()] == ["cifar-10-batches-py"], (
        "the archive and temporary files are gone"
    )
    archive.unlink()
    assert cifar10.open_source(url="file:///nowhere").fingerprint == first.fingerprint


def test_an_archive_in_the_data_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_archive(tmp_path)
    monkeypatch.setenv("KCV_DATA_DIR", str(tmp_path))
    digest = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    check(cifar10.open_source(url="file:///nowhere", checksum=digest))
    assert archive.exists(), "the user's own file stays"
    (cache_dir() / "cifar-10-batches-py").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: its checksum is wrong"):
        cifar10.open_source(url="file:///nowhere")


def test_nothing_in_an_archive_is_written_outside_the_cache(tmp_path: Path, cache: Path) -> None:
    check(fetch(make_archive(tmp_path, extra="../../escaped")))
    assert sorted(child.name for child in tmp_path.iterdir()) == ["cache", cifar10.ARCHIVE, "source"]
    assert len(list(cache.rglob("*"))) == 8


def test_an_archive_without_the_batches_leaves_nothing_unpacked(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(DataError, match="cannot be unpacked"):
        fetch(archive)
    assert not (cache / "cifar-10-batches-py").exists()
    assert not list(cache.glob(".unpack*"))


def test_a_download_with_another_checksum_is_not_kept(tmp_path: Path, cache: Path) -> None:
    archive = make_archive(tmp_path)
    with pytest.raises(DataError, match=r"not the expected file.*KCV_DATA_DIR"):
        cifar10.open_source(url=archive.as_uri(), size=archive.stat().st_size)
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_says_what_to_put_where() -> None:
    with pytest.raises(DataError) as caught:
        cifar10.open_source(url="http://127.0.0.1:9/x")
    message = str(caught.value)
    for part in ("cannot be downloaded", cifar10.ARCHIVE, cifar10.URL, "cifar-10-batches-py", "cifar10/*.parquet"):
        assert part in message
    assert "set KCV_DATA_DIR" in message
    assert "\n" not in message


def test_a_data_folder_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCV_DATA_DIR", "/no/such/folder")
    with pytest.raises(DataError, match="KCV_DATA_DIR=/no/such/folder is not a folder"):
        cifar10.open_source()


class Harmful:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_harmful_pickle_runs_nothing(tmp_path: Path, cache: Path) -> None:
    folder = make_batches(cache)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Harmful(tmp_path / "harmed")}))
    with pytest.raises(DataError, match=r"data_batch_3: cannot be read .*mkdir is not allowed"):
        cifar10.open_source()
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}, protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, protocol=2),
    ],
    ids=["empty", "text", "list", "float pixels", "too few labels", "label 10", "no labels"],
)
def test_a_damaged_batch_is_named(cache: Path, content: bytes) -> None:
    (make_batches(cache) / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match="test_batch: "):
        cifar10.open_source()


def test_the_real_one(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KCV_DATA_DIR", str(data_root))
    source = cifar10.open_source()
    assert source.class_names == cifar10.CLASS_NAMES
    assert np.bincount(source.splits["train"].labels).tolist() == [5000] * 10
    assert np.bincount(source.splits["test"].labels).tolist() == [1000] * 10
