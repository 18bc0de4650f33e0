"""WebDataset shards: local, by pattern and by URL, in memory and streamed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from web import serving_files

from kcv.config import DataConfig
from kcv.data import loading
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Source
from kcv.data.order import ProcessShard
from kcv.data.row_images import RowImages
from kcv.data.webdataset import row_groups, shards
from kcv.data.webdataset import source as webdataset
from kcv.errors import DataError

Rows = Iterable[tuple[str, Mapping[str, bytes]]]


def png(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def shard_of(rows: Rows) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as target:
        for key, files in rows:
            for extension, content in files.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(content)
                target.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def rows_of(shard: int, count: int = 20, **more: bytes) -> Rows:
    return [(f"{i:04}", {"png": png(100 * shard + i), "cls": str(i % 3).encode(), **more}) for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of train and one of val."""
    place = tmp_path / "set"
    place.mkdir()
    for number in range(3):
        (place / f"train-{number:03}.tar").write_bytes(shard_of(rows_of(number)))
    (place / "val-000.tar").write_bytes(shard_of(rows_of(9, 6)))
    return place


def opened(path: object, **options: Any) -> Source:
    return loading.open_source(str(path), options=loading.options_of(DataConfig(**options)))


def test_a_folder_a_file_and_a_pattern_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(folder)
    assert source.class_names == ("0", "1", "2") and not source.flat
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 60, "val": 6}
    assert source.splits["train"].names[20] == "train-001/0000"
    assert source.splits["train"].images[20] == png(100)
    assert source.splits["train"].labels.tolist() == [i % 3 for _ in range(3) for i in range(20)]
    assert len(opened(folder / "train-001.tar").splits["train"]) == 20
    pattern = opened(folder / "train-{000..002}.tar")
    assert [*pattern.splits["train"].images] == [*source.splits["train"].images]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KCV_DATA_DIR", "/nowhere")
    assert len(opened("train-{000..001}.tar").splits["train"]) == 40
    with pytest.raises(DataError, match=r"train-003.tar: no such file"):
        opened("train-{000..003}.tar")


def test_splits_may_be_folders_and_shards_without_one_are_a_source_without_splits(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "000.tar").write_bytes(shard_of(rows_of(1)))
    assert list(opened(tmp_path).splits) == ["train", "val"]
    flat = tmp_path / "other"
    flat.mkdir()
    for number in range(2):
        (flat / f"shard-{number:03}.tar").write_bytes(shard_of(rows_of(number)))
    assert opened(flat).flat and len(opened(flat).splits["train"]) == 40
    (flat / "test-000.tar").write_bytes(shard_of(rows_of(3)))
    with pytest.raises(DataError, match=r"shard-000.tar belongs to no split"):
        opened(flat)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "cat\ndog\r\nowl\n"),
        ("labels.json", '["cat", "dog", "owl"]'),
        ("labels.json", '{"1": "dog", "0": "cat", "2": "owl"}'),
        ("labels.json", '{"owl": 2, "dog": 1, "cat": 0}'),
    ],
)
def test_class_names_may_lie_beside_the_shards(folder: Path, name: str, content: str) -> None:
    (folder / name).write_bytes(content.encode())
    assert opened(folder).class_names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ({"cls": b"cat"}, {}),
        ({"cls": b"cat\n", "json": b"{}"}, {}),
        ({"json": b'{"label": "cat", "size": 3}'}, {}),
        ({"json": b'{"cls": "cat"}'}, {}),
        ({"json": b'"cat"'}, {}),
        ({"json": b'{"label": 7, "breed": "cat"}', "cls": b"7"}, {"label_column": "breed"}),
        ({"animal.txt": b"cat", "cls": b"7"}, {"label_column": "animal.txt"}),
    ],
)
def test_labels_are_texts_or_json(tmp_path: Path, files: dict[str, bytes], options: dict[str, str]) -> None:
    other = {name: content.replace(b"cat", b"dog") for name, content in files.items()}
    path = tmp_path / "x.tar"
    path.write_bytes(shard_of([("a/0", {"jpg": b"x", **files}), ("a/1", {"jpg": b"y", **other})]))
    assert opened(path, **options).class_names == ("cat", "dog")


def test_one_of_several_images_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(shard_of([(str(i), {"jpg": b"x", "seg.png": b"s", "cls": str(i).encode()}) for i in range(2)]))
    with pytest.raises(DataError, match=r"several images: jpg, seg.png; data.image_column=EXTENSION"):
        opened(path)
    assert [*opened(path, image_column="seg.png").splits["train"].images] == [b"s", b"s"]
    with pytest.raises(DataError, match=r"has no .webp \(data.image_column\)"):
        opened(path, image_column="webp")


A = ("a", {"jpg": b"x", "cls": b"0"})
B = ("b", {"jpg": b"x", "cls": b"1"})
BAD: dict[str, tuple[Rows, str]] = {
    "no label": ([A, ("b", {"jpg": b"x"})], r"x.tar: b has no label: there is no .cls or .json"),
    "a label apart from its image": ([A, ("b", {"jpg": b"x"}), ("c", {"cls": b"1"})], "b has no label"),
    "an empty label": ([A, ("b", {"jpg": b"x", "cls": b" "})], "its label is empty"),
    "a long label": ([A, ("b", {"jpg": b"x", "cls": b"c" * 1001})], "longer than 1,000 characters"),
    "a huge label": ([A, ("b", {"jpg": b"x", "cls": b"c" * 5000})], "4,000 are allowed of a label"),
    "a label that is no text": ([A, ("b", {"jpg": b"x", "cls": b"\xff"})], "not UTF-8"),
    "a label that paints the terminal": ([A, ("b", {"jpg": b"x", "cls": b"\x1b[2J"})], "control characters"),
    "no JSON": ([A, ("b", {"jpg": b"x", "json": b"{"})], "b.json: is no JSON"),
    "JSON without a label": ([A, ("b", {"jpg": b"x", "json": b'{"w": 3, "h": 4}'})], "only w, h; data.label_column"),
    "JSON with several labels": ([A, ("b", {"jpg": b"x", "json": b'{"label": [1]}'})], "not list"),
    "JSON with a fraction": ([A, ("b", {"jpg": b"x", "json": b'{"label": 1.5}'})], "not float"),
    "huge JSON": ([A, ("b", {"jpg": b"x", "json": b'"' + b"c" * 2**21 + b'"'})], "1,048,576 are allowed"),
    "a member twice": ([A, B, B], "b.jpg is there twice"),
    "a name upwards": ([A, ("../b", {"jpg": b"x", "cls": b"1"})], "leads out of the archive"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_shard_ends_in_one_line(tmp_path: Path, case: str) -> None:
    rows, words = BAD[case]
    (tmp_path / "x.tar").write_bytes(shard_of(rows))
    with pytest.raises(DataError, match=words) as caught:
        opened(tmp_path / "x.tar")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("classes.txt", b"cat\ndog\n", r"label '2' is neither one of 0 to 1"),
        ("classes.txt", b"cat\ncat\ndog\n", "not all different"),
        ("classes.txt", b"\xff\xfe", "not UTF-8 text|1 to 100,000 class names"),
        ("classes.txt", b"", "needs 1 to 100,000"),
        ("labels.json", b"{", "is no JSON"),
        ("labels.json", b"[1, 2, 3]", "is no list of class names"),
        ("labels.json", b'{"0": "a", "2": "b"}', "its numbers are not 0 to 1"),
        ("labels.json", b'{"a": 0, "b": 0}', "its numbers are not 0 to 1"),
    ],
)
def test_bad_class_names_end_in_one_line(folder: Path, name: str, content: bytes, words: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        opened(folder)


def test_a_damaged_shard_ends_in_one_line(folder: Path) -> None:
    path = folder / "train-001.tar"
    whole = path.read_bytes()
    for content in (whole[:700], whole[: len(whole) // 2 + 100], whole.replace(b"0003.png", b"0003.pnG"), b"x" * 2000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train-001.tar"):
            source = opened(folder)
            list(source.splits["train"].images)


@pytest.mark.parametrize("pattern", ["{5..3}", "{0..999999999}", "{0..999}{0..999}"])
def test_a_pattern_stands_for_a_bounded_number_of_names(pattern: str) -> None:
    with pytest.raises(DataError, match=r"is no range|more than 100,000"):
        shards.expand(f"x-{pattern}.tar")
    assert shards.expand("a{08..11}.tar") == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert shards.expand("{1..2}/{0..1}") == ["1/0", "1/1", "2/0", "2/1"]


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the images in their shards, in groups of a few."""
    monkeypatch.setattr(webdataset, "EAGER_BYTES", 0)
    monkeypatch.setattr(row_groups, "MOST_ROWS", 7)


def batches(source: str, workers: int = 0, share: ProcessShard | None = None) -> TrainingBatches:
    dataset = loading.load(DataConfig(source=source, image_size=16, memory_budget_mb=0, test_fraction=0))
    assert dataset.train.by_row_group and not dataset.in_memory
    return TrainingBatches(
        dataset.train, num_classes=3, batch_size=8, seed=1, device="cpu", workers=workers, share=share,
        shuffle_buffer=20 * len(png(0)),
    )  # fmt: skip


@pytest.mark.full
@pytest.mark.usefixtures("indexed")
@pytest.mark.parametrize("workers", [0, 1])
def test_shards_are_streamed_in_an_order_of_seed_and_epoch_and_resumed_in_the_middle(
    folder: Path, workers: int
) -> None:
    ours = batches(str(folder), workers)
    ours.set_epoch(2)
    whole = [images for images, _ in ours.loader()]
    assert sum(map(len, whole)) == 60
    pixels = {image.numpy().tobytes() for batch in whole for image in batch}
    assert len(pixels) == 60
    again = batches(str(folder))
    again.set_epoch(2, start=5)
    rest = [batch[0] for batch in again if batch is not None]
    assert len(rest) == len(whole) - 5 and all(map(torch.equal, rest, whole[5:]))
    again.set_epoch(3)
    assert not torch.equal(next(iter(again))[0], whole[0])
    ours.close()


@pytest.mark.usefixtures("indexed")
def test_several_processes_see_each_image_once(folder: Path) -> None:
    seen: list[int] = []
    for rank in range(2):
        for part in batches(str(folder), share=ProcessShard(rank, 2)).order(0):
            seen += part.indices.tolist()
    assert sorted(seen) == list(range(60))


@pytest.mark.usefixtures("indexed")
def test_groups_are_neighbours_and_are_read_with_one_request_each(folder: Path) -> None:
    rows = opened(folder).splits["train"].images
    assert isinstance(rows, RowImages)
    asked: list[tuple[int, int]] = []
    read = shards.TarShard.read

    def counted(shard: shards.TarShard, begin: int, end: int) -> bytes:
        asked.append((begin, end))
        return read(shard, begin, end)

    shards.TarShard.read = counted  # type: ignore[method-assign]
    try:
        got = [image for batch in rows.batches(np.array_split(np.arange(60), 8)) for image in batch]
    finally:
        shards.TarShard.read = read  # type: ignore[method-assign]
    assert got == [png(100 * shard + i) for shard in range(3) for i in range(20)]
    assert len(asked) == len(rows.groups.ends) == 9


def test_the_fingerprint_does_not_depend_on_where_the_images_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "EAGER_BYTES", 0)
    source = opened(folder)
    assert source.fingerprint == opened(folder).fingerprint
    (folder / "train-002.tar").write_bytes(shard_of(rows_of(2, 19)))
    assert source.fingerprint != opened(folder).fingerprint


def test_a_shard_that_changes_after_its_index_was_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "EAGER_BYTES", 0)
    source = opened(folder)
    (folder / "train-002.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"train-002.tar: has changed since its index was read"):
        list(source.splits["train"].images)


Serve = Callable[..., Any]


@pytest.mark.parametrize("parts", [True, False])
def test_shards_are_read_by_url(folder: Path, parts: bool) -> None:
    pytest.importorskip("aiohttp", reason="fsspec needs it for http")
    files = {f"/x/{file.name}": file.read_bytes() for file in folder.glob("*.tar")}
    files["/x/classes.txt"] = b"cat\ndog\nowl\n"
    with serving_files(files, parts=parts) as address:
        source = opened(f"{address}/x/train-{{000..002}}.tar")
        assert source.class_names == ("cat", "dog", "owl") and len(source.splits["train"]) == 60
        rows = source.splits["train"].images
        assert isinstance(rows, RowImages)
        if parts:
            assert [*rows] == [png(100 * shard + i) for shard in range(3) for i in range(20)]
        with pytest.raises(DataError, match=r"train-003.tar: no such file"):
            opened(f"{address}/x/train-{{002..004}}.tar")


def test_shards_of_a_service_that_lists_files_may_be_given_by_wildcard(folder: Path) -> None:
    disk = fsspec.filesystem("memory")
    for file in folder.glob("*.tar"):
        disk.pipe_file(f"/wds/{file.name}", file.read_bytes())
    source = opened("memory://wds/*.tar")
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 60, "val": 6}
    with pytest.raises(DataError, match="no tar files there"):
        opened("memory://nothing/*.tar")
    with pytest.raises(DataError, match="holds a password"):
        opened("memory://a:b@wds/*.tar")


def test_json_numbers_and_texts_are_the_same_label(tmp_path: Path) -> None:
    rows = [
        (str(i), {"jpg": b"x", "json": json.dumps({"label": label}).encode()}) for i, label in enumerate([1, "1", 2])
    ]
    (tmp_path / "x.tar").write_bytes(shard_of(rows))
    assert opened(tmp_path / "x.tar").class_names == ("1", "2")
