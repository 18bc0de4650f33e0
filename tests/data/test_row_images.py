"""Parquet sets that are not held: read by row group, a window at a time, from here or behind a URL."""

from __future__ import annotations

import io
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import kcv
from kcv.config import AugmentConfig, DataConfig
from kcv.data import loading
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.order import ProcessShard, window_shuffle
from kcv.data.parquet import source as parquet
from kcv.data.parquet.row_groups import ParquetGroups
from kcv.data.prefetch import prefetch
from kcv.data.row_images import RowImages
from kcv.errors import DataError

ROWS, GROUP, SHARDS = 60, 7, 3


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 255 - number, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, *, changed: dict[int, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    per = ROWS // SHARDS
    for shard in range(SHARDS):
        rows = range(shard * per, (shard + 1) * per)
        values = [(changed or {}).get(i, png(i)) for i in rows]
        table = pa.table(
            {"image": [{"bytes": value, "path": None} for value in values], "label": [i % 2 for i in rows]}
        )
        features = {"label": {"names": ["even", "odd"], "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"train-{shard:05d}-of-{SHARDS:05d}.parquet", row_group_size=GROUP)
    return folder


@pytest.fixture
def lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "EAGER_BYTES", 0)


@pytest.fixture
def folder(tmp_path: Path, lazily: None) -> Path:
    return write_shards(tmp_path / "set")


def config(source: object, **options: Any) -> DataConfig:
    return DataConfig(source=str(source), image_size=16, memory_budget_mb=0, **options)


def batches(
    dataset: loading.Dataset, *, workers: int = 0, share: ProcessShard | None = None, buffer: int = 900
) -> TrainingBatches:
    return TrainingBatches(dataset.train, num_classes=2, batch_size=8, augment=AugmentConfig(flip="random"), seed=3,
                           device="cpu", workers=workers, shuffle_buffer=900)  # fmt: skip


def same(left: Any, right: Any) -> bool:
    pairs = list(zip(left, right, strict=True))
    return bool(pairs) and all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_rows_that_stay_in_their_files_are_what_rows_in_memory_are(folder: Path, monkeypatch: Any) -> None:
    lazy = loading.open_source(str(folder))
    monkeypatch.setattr(parquet, "EAGER_BYTES", 2**30)
    held = loading.open_source(str(folder))
    assert isinstance(lazy.splits["train"].images, RowImages)
    for split, samples in held.splits.items():
        assert list(lazy.splits[split].images) == list(samples.images)
        assert list(lazy.splits[split].names) == list(samples.names)
        assert lazy.splits[split].labels.tolist() == samples.labels.tolist()
    some = np.array([59, 3, 3, 20, 0])
    assert list(lazy.splits["train"].take(some).names) == [f"train/{i}" for i in some]
    assert [lazy.splits["train"].images[int(i)] for i in some] == [held.splits["train"].images[int(i)] for i in some]
    assert lazy.fingerprint != held.fingerprint  # the one does not read the images
    again = loading.open_source(str(folder)).fingerprint
    assert again == held.fingerprint


def test_sets_that_fit_are_decoded_into_memory(folder: Path) -> None:
    dataset = loading.load(DataConfig(source=str(folder), image_size=16))
    assert dataset.in_memory
    assert sorted(dataset.train.pixels[:, 0, 0, 0].tolist() + dataset.val.pixels[:, 0, 0, 0].tolist()
                  + dataset.test.pixels[:, 0, 0, 0].tolist()) == list(range(ROWS))  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_gives_each_image_once_with_its_label(folder: Path, workers: int) -> None:
    dataset = loading.load(config(folder))
    ours = batches(dataset, workers=workers)
    reference = [dataset.train.read(i)[0, 0, 0] for i in range(len(dataset.train))]
    for epoch in (0, 1):
        ours.set_epoch(epoch)
        reds = []
        for images, targets in ours.loader():
            red = images[:, 0, 0, 0].long()
            assert torch.equal(targets.argmax(1), red % 2)
            reds += red.tolist()
        assert sorted(reds) == sorted(map(int, reference))
        assert reds != sorted(reds)
    ours.close()


def test_batches_do_not_depend_on_the_workers_and_can_begin_anywhere(folder: Path) -> None:
    dataset = loading.load(config(folder))
    ours, theirs = batches(dataset), batches(dataset, workers=2)
    for epoch, start in ((0, 0), (1, 0), (1, 3)):
        ours.set_epoch(epoch, start)
        theirs.set_epoch(epoch, start)
        mine = [batch for batch in ours.loader() if batch is not None]
        assert same(mine, [batch for batch in theirs.loader() if batch is not None])
        assert same(mine, [ours.batch(epoch, step) for step in range(start, len(ours))])
    theirs.close()


def test_validation_comes_in_order(folder: Path) -> None:
    dataset = loading.load(config(folder))
    images = dataset.val
    batches = torch.cat([x for x, _ in InferenceBatches(images, batch_size=4, device="cpu", num_classes=2)])
    assert torch.equal(batches, torch.from_numpy(np.stack([images.read(i) for i in range(len(images))])))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_have_stretches_of_their_own(processes: int) -> None:
    groups = np.repeat(np.arange(10), [5, 1, 9, 3, 7, 2, 8, 4, 6, 5])
    shares = [window_shuffle(groups, 4, 1, 2, ProcessShard(rank, processes), 6) for rank in range(processes)]
    assert sorted(np.concatenate([part.indices for parts in shares for part in parts])) == list(range(50))
    for step in zip(*shares, strict=True):
        assert len({part.total for part in step}) == 1
        assert [part.begin for part in step] == np.cumsum([0, *(len(part.indices) for part in step)])[:-1].tolist()
        assert sum(len(part.indices) for part in step) == step[0].total
    assert (
        len({len(set(groups[np.concatenate([p.indices for p in parts])])) for parts in shares} - {10}) >= processes - 1
    )


def test_a_window_bounds_how_far_an_image_moves() -> None:
    groups = np.repeat(np.arange(40), 25)
    (whole,) = (np.concatenate([p.indices for p in window_shuffle(groups, 10, 0, 0, ProcessShard(), w)]) for w in (1,))
    moved = np.concatenate([p.indices for p in window_shuffle(groups, 10, 0, 0, ProcessShard(), 100)])
    place = np.empty(1000, int)
    place[whole] = np.arange(1000)
    distance = np.abs(place[moved] - np.arange(1000))
    assert 20 < distance.mean() < 100
    assert distance.max() <= 100
    assert len(set(groups[whole[:25]])) == 1
    assert len(set(groups[moved[:25]])) > 2
    other = np.concatenate([p.indices for p in window_shuffle(groups, 10, 0, 1, ProcessShard(), 100)])
    assert not np.array_equal(moved, other)


class Watched(ParquetGroups):
    """Row groups that count what is read of them."""

    def read(self, group: int) -> Any:
        self.__dict__.setdefault("groups_read", []).append(group)
        return super().read(group)


def test_each_row_group_is_read_once_and_little_is_held(folder: Path) -> None:
    rows = loading.open_source(str(folder)).splits["train"].images
    watched = Watched(**{name: getattr(rows.groups, name) for name in ParquetGroups.__dataclass_fields__})
    images = RowImages(watched, rows.rows)
    parts = [part.indices for part in window_shuffle(watched.of(rows.rows), 8, 0, 0, ProcessShard(), 10)]
    encoded = [data for batch in images.batches(parts) for data in batch]
    assert encoded == [png(int(i)) for part in parts for i in part]
    assert sorted(watched.groups_read) == sorted(set(watched.groups_read)) == list(range(9))
    watched.groups_read.clear()
    assert len(next(iter(images.batches(parts[-1:])))) == len(parts[-1])
    assert len(watched.groups_read) < 9  # of the end of an epoch, only what it needs


def test_a_sample_reads_the_beginnings_of_row_groups(folder: Path) -> None:
    images = loading.load(config(folder)).train
    taken = loading.representative(images, 18)
    groups = images.samples.images.groups.of(images.samples.images.rows)
    assert len(taken) == 18
    assert (np.diff(taken) > 0).all()
    assert np.bincount(groups[taken]).tolist() == [2] * 9
    assert all(position == 0 or groups[position] != groups[position - 1] or position - 1 in taken for position in taken)
    assert len(loading.representative(images, 10**6)) == len(images)


def test_many_threads_may_read(folder: Path) -> None:
    images = loading.open_source(str(folder)).splits["train"].images
    order = np.random.default_rng(0).permutation(ROWS)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: images[int(i)], order)) == [png(int(i)) for i in order]
    assert pickle.loads(pickle.dumps(images))[5] == png(5)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_named(tmp_path: Path, lazily: None, workers: int) -> None:
    folder = write_shards(tmp_path / "set", changed={26: None})
    dataset = loading.load(config(folder, val_fraction=0.05, test_fraction=0.05))
    assert 26 in dataset.train.samples.images.rows
    ours = batches(dataset, workers=workers)
    with pytest.raises(DataError, match=r"train-00001-of-00003.parquet: row 6: the image is null"):
        list(ours.loader())
    ours.close()
    folder = write_shards(tmp_path / "other", changed={26: b"no image"})
    broken = batches(loading.load(config(folder, val_fraction=0.05, test_fraction=0.05)), workers=workers)
    with pytest.raises(DataError, match="train/26"):
        list(broken.loader())
    broken.close()


def test_a_shard_that_disappears_is_one_line(folder: Path) -> None:
    ours = batches(loading.load(config(folder)))
    (folder / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00003.parquet: is no regular file"):
        list(ours.loader())


def test_urls_of_every_kind_that_fsspec_knows(folder: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe(f"/bucket/set/{file.name}", file.read_bytes())
    try:
        local = loading.load(config(folder))
        for url in ("memory://bucket/set", "memory://bucket/set/*.parquet", f"file://{folder}"):
            remote = loading.load(config(url))
            assert same(batches(remote).loader(), batches(local).loader())
        assert remote.fingerprint == local.fingerprint
        with pytest.raises(DataError, match=r"memory://bucket/none: no Parquet files there"):
            loading.open_source("memory://bucket/none")
        memory.pipe("/bucket/bad/train.parquet", b"no parquet")
        with pytest.raises(DataError, match=r"memory://bucket/bad/train.parquet: cannot be read as Parquet"):
            loading.open_source("memory://bucket/bad")
    finally:
        memory.rm("/bucket", recursive=True)


def test_urls_that_cannot_be_used_are_one_line() -> None:
    with pytest.raises(DataError, match=r"nonsense://x: cannot be reached \(ValueError: Protocol not known: nonsense"):
        loading.open_source("nonsense://x")
    with pytest.raises(DataError, match="holds a password") as caught:
        loading.open_source("gs://key:secret@bucket/x")
    assert "secret" not in str(caught.value)


@pytest.mark.full
def test_a_url_in_a_model_file_is_fetched_only_where_it_is_named_again(folder: Path, tmp_path: Path) -> None:
    url = f"file://{folder}"
    settings = {"data.source": url, "data.image_size": 16, "model.width": 0.25, "train.epochs": 1,
                "tracking.uri": "none", "output_dir": str(tmp_path / "run"), "data.batch_size": 16,
                "train.plots": False}  # fmt: skip
    run = kcv.train(kcv.Config.load(None, **settings))
    for words in ({}, {"split": "val"}):
        with pytest.raises(
            DataError, match=f"was trained on {url}, which is fetched only where you name it: --data={url}"
        ):
            kcv.evaluate(run.model_path, **words)
    named = kcv.evaluate(run.model_path, url, calibrate=True, plots=False)
    assert named.metrics["n"] == run.metrics["n"]  # of the test split that training has carved
    assert named.metrics["accuracy"] == run.metrics["accuracy"]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install gcsfs to access Google Cloud Storage")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(DataError, match=r"gs://bucket/x: needs a package that is not installed \(Install gcsfs"):
        loading.open_source("gs://bucket/x")


def test_reading_ahead_keeps_order_errors_and_threads() -> None:
    assert list(prefetch(iter(range(20)))) == list(range(20))

    def failing() -> Any:
        yield 1
        raise DataError("gone")

    taken = prefetch(failing())
    assert next(taken) == 1
    with pytest.raises(DataError, match="gone"):
        next(taken)
    before = threading.active_count()
    endless = prefetch(iter(int, 1))
    next(endless)
    endless.close()
    assert threading.active_count() == before
