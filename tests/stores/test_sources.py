"""Data in a bucket: class folders, label files, Parquet and WebDataset shards, as the same files on disk are read."""

from __future__ import annotations

import pickle
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from s3_server import S3
from variants import variants

from kcv.data.dataset import SPLITS, Images, Samples, Source, join
from kcv.data.in_memory import decode
from kcv.data.loading import open_source
from kcv.data.objects import place as places
from kcv.data.sources import SourceOptions
from kcv.data.streaming import read_batch
from kcv.errors import DataError, KcvError, OutputError
from kcv.stores import client


def contents(samples: Samples) -> list[bytes]:
    images: Sequence[Any] = samples.images
    return [image.read_bytes() if isinstance(image, Path) else bytes(image) for image in images]


def assert_same(ours: Source, theirs: Source, *, names: bool = True) -> None:
    assert (ours.class_names, ours.flat, list(ours.splits)) == (theirs.class_names, theirs.flat, list(theirs.splits))
    for split in ours.splits:
        assert np.array_equal(ours.splits[split].labels, theirs.splits[split].labels)
        if names:
            assert list(ours.splits[split].names) == list(theirs.splits[split].names)
        assert contents(ours.splits[split]) == contents(theirs.splits[split])


@pytest.mark.parametrize("url", ["s3://{}/photos/", "s3://{}/photos/labels.csv", "s3://{}/lists/labels.csv"])
def test_a_bucket_reads_like_the_folder(s3: S3, bucket: str, few: Path, url: str) -> None:
    folder = f"s3://{bucket}/photos" if "lists" in url else None
    ours = open_source(url.format(bucket), options=SourceOptions(image_folder=folder))
    theirs = open_source(str(few))
    assert_same(Source(ours.name, ours.class_names, {s: ours.splits[s] for s in theirs.splits}), theirs)
    assert ours.name == url.format(bucket)


def test_class_folders_of_one_split_have_no_splits(s3: S3, bucket: str, few: Path) -> None:
    assert_same(open_source(f"s3://{bucket}/photos/train"), open_source(str(few / "train")))


@pytest.mark.parametrize(
    "url",
    variants(
        [
            "parquet",
            "parquet/*.parquet",
            "parquet/train-0.parquet",
            "shards",
            "shards/train-{0..0}.tar",
        ],
        fast=["parquet", "shards"],
    ),
)
def test_parquet_and_shards_are_streamed_from_a_bucket(s3: S3, bucket: str, few: Path, url: str) -> None:
    ours, theirs = open_source(f"s3://{bucket}/{url}"), open_source(str(few))
    if "train" in url:
        theirs = Source(theirs.name, theirs.class_names, {"train": theirs.splits["train"]})
    ours = Source(ours.name, ours.class_names, {split: ours.splits[split] for split in theirs.splits})
    assert_same(ours, theirs, names=False)


def test_shards_take_the_class_names_beside_them_or_fail(s3: S3, few: Path, bucket: str) -> None:
    own = s3.bucket()
    s3.put(own, "train-0.tar", s3.get(bucket, "shards/train-0.tar"))
    s3.put(own, "classes.txt", b"top\nleft\ncentre\n")
    assert open_source(f"s3://{own}/train-0.tar").class_names == ("top", "left", "centre")
    # Names that may or may not be there must not be passed over: the labels would be others.
    s3.fault = lambda request: "500" if "classes.txt" in request else None
    with pytest.raises(DataError, match=r"classes.txt: cannot be read after 6 tries"):
        open_source(f"s3://{own}/train-0.tar")


def test_label_files_need_a_folder_for_temporary_files(
    s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"^cannot create a temporary folder: .*; TMPDIR names another folder$"):
        open_source(f"s3://{bucket}/photos/labels.csv")


def test_what_may_be_listed_but_not_read_is_not_missing(s3: S3, bucket: str) -> None:
    s3.fault = lambda request: "403" if request.startswith("HEAD") else None
    for name in ("photos/labels.csv", "shards/train-0.tar"):
        with pytest.raises(DataError, match=rf"{name}: may not be read: these credentials have no right to it"):
            open_source(f"s3://{bucket}/{name}")
    own = s3.bucket()
    s3.put(own, "train-0.tar", s3.get(bucket, "shards/train-0.tar"))
    s3.put(own, "classes.txt", b"top\nleft\ncentre\n")
    s3.fault = lambda request: "403" if request.startswith("HEAD") and "classes.txt" in request else None
    with pytest.raises(DataError, match=r"classes.txt: may not be read"):
        open_source(f"s3://{own}/train-0.tar")


def test_metadata_in_a_bucket_name_the_labels(s3: S3, bucket: str) -> None:
    own = s3.bucket()
    for split in ("train", "test"):
        for number, name in enumerate(("left", "top")):
            s3.put(own, f"{split}/{number}.png", s3.get(bucket, f"photos/{split}/{name}/000.png"))
        s3.put(own, f"{split}/metadata.csv", b"file_name,label\n0.png,left\n1.png,top\n")
    source = open_source(f"s3://{own}")
    assert (source.class_names, list(source.splits)) == (("left", "top"), ["train", "test"])
    assert list(source.splits["test"].names) == ["test/0.png", "test/1.png"]
    assert source.understood is not None and "train/metadata.csv" in source.understood.lines()[0]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("0.png", None),
        ("s3://{}/data/0.png", None),
        ("s3://other/data/0.png", "leads out of the folder of the label file, s3://"),
        ("s3://{}/0.png", "leads out of"),
        ("../0.png", "leads out of"),
        ("/data/0.png", "leads out of"),
        ("https://host/0.png", "is a URL; only files are read"),
        ("1.png", "1 of 1 images are not in s3://"),
    ],
)
def test_paths_of_a_label_file_stay_below_its_prefix(s3: S3, server: S3, path: str, told: str | None) -> None:
    own = s3.bucket()
    s3.put(own, "data/0.png", b"x")
    s3.put(own, "0.png", b"x")
    s3.put(own, "data/labels.csv", f"path,label\n{path.format(own)},cat\n".encode())
    if told is None:
        assert list(open_source(f"s3://{own}/data/labels.csv").splits["train"].names) == ["0.png"]
        return
    with pytest.raises(DataError, match=told) as caught:
        open_source(f"s3://{own}/data/labels.csv")
    assert f"s3://{own}/data/labels.csv" in str(caught.value)
    assert "/tmp" not in str(caught.value)


def test_label_files_and_their_folder_are_in_the_same_kind_of_place(s3: S3, bucket: str, few: Path) -> None:
    with pytest.raises(DataError, match=r"image_folder=.* is no URL such as"):
        open_source(f"s3://{bucket}/lists/labels.csv", options=SourceOptions(image_folder=str(few)))
    with pytest.raises(DataError, match=r"data.image_folder has no meaning here: this is a folder of images"):
        open_source(f"s3://{bucket}/photos/train", options=SourceOptions(image_folder=f"s3://{bucket}"))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://{}/nothing/here", "there is no such object, and none below that prefix"),
        ("s3://{}/photos/*.jpg", "no object matches"),
        ("s3://{}/photos/train/left/000.png", "is an object of no kind that is read from a store"),
        ("s3://{}/shards/train-{{0..3}}.tar", r"train-1.tar: there is no such object"),
        ("s3://{}/photos/train/left", "holds images but no class folders"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket: there is no such bucket at http://127.0.0.1"),
    ],
)
def test_what_is_not_there_is_told(s3: S3, bucket: str, url: str, told: str) -> None:
    with pytest.raises(KcvError, match=told) as caught:
        open_source(url.format(bucket))
    assert "\n" not in str(caught.value)


def test_fingerprint_and_versions_tell_what_has_changed(s3: S3, bucket: str, few: Path) -> None:
    assert open_source(f"s3://{bucket}/photos").fingerprint == open_source(str(few)).fingerprint
    assert open_source(str(few)).versions is None
    own = s3.bucket()
    for name in ("left/0.png", "left/1.png", "top/0.png"):
        s3.put(own, name, s3.get(bucket, f"photos/train/{name.replace('0', '000').replace('1', '001')}"))
    first = open_source(f"s3://{own}")
    content = bytearray(s3.get(own, "left/0.png"))
    content[-20] ^= 1  # as many bytes, but others
    s3.put(own, "left/0.png", bytes(content))
    second = open_source(f"s3://{own}")
    assert second.fingerprint == first.fingerprint
    assert second.versions != first.versions
    s3.put(own, "top/2.png", b"x")
    assert open_source(f"s3://{own}").fingerprint != first.fingerprint
    for kind, file in (("parquet", "train-0.parquet"), ("shards", "train-0.tar")):
        copy, content = s3.bucket(), bytearray(s3.get(bucket, f"{kind}/{file}"))
        s3.put(copy, file, bytes(content))
        first = open_source(f"s3://{copy}")
        content[content.index(b"IEND")] ^= 1  # in an image, of which the index knows nothing
        s3.put(copy, file, bytes(content))
        second = open_source(f"s3://{copy}")
        assert second.fingerprint == first.fingerprint
        assert None is not second.versions != first.versions is not None


def test_batches_and_memory_give_the_images_of_the_disk_over_a_bad_line(s3: S3, bucket: str, few: Path) -> None:
    theirs = open_source(str(few)).splits["train"]
    ours = pickle.loads(pickle.dumps(open_source(f"s3://{bucket}/photos").splits["train"]))
    tries: Counter[str] = Counter()

    def fault(request: str) -> str | None:
        tries[request] += 1
        return (None, "500", "cut", "503", "cut")[(len(tries) + tries[request]) % 5] if tries[request] < 5 else None

    s3.heal()
    s3.fault = fault
    pixels = decode(theirs, 16, "squash")
    assert np.array_equal(decode(ours, 16, "squash"), pixels)
    keys = [key for key in s3.answered if key.startswith("GET")]
    assert (len(keys), set(s3.answered.values())) == (len(theirs), {1})  # each once, whatever came between
    order = np.random.default_rng(3).permutation(len(theirs))[:8]
    assert np.array_equal(read_batch(Images(ours, 16, "squash"), order), pixels[order])
    both = join([ours.take(order), ours.take(order[:3])])
    assert np.array_equal(read_batch(Images(both, 16, "squash"), np.arange(11)), pixels[[*order, *order[:3]]])


def test_an_image_that_changes_while_it_is_used_is_named(s3: S3, bucket: str) -> None:
    own = s3.bucket()
    for name in ("left/0.png", "top/0.png"):
        s3.put(own, name, s3.get(bucket, f"photos/train/{name.replace('0', '000')}"))
    samples = open_source(f"s3://{own}").splits["train"]
    s3.put(own, "top/0.png", s3.get(bucket, "photos/train/top/001.png"))
    told = rf"s3://{own}/top/0.png: has changed since it was listed"
    with pytest.raises(DataError, match=told):
        read_batch(Images(samples, 16, "squash"), np.arange(2))
    with pytest.raises(DataError, match=rf"1 of 2 images cannot be read: .*{told}"):
        decode(samples, 16, "squash")
    s3.fault = lambda request: "500" if "/top/" in request else None
    with pytest.raises(DataError, match=r"cannot be read after 6 tries"):
        decode(samples, 16, "squash")


def test_a_listing_is_bounded(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.stores.listing.MOST_OBJECTS", 10)
    with pytest.raises(DataError, match="holds more than 10 objects; name a part of it"):
        open_source(f"s3://{bucket}/photos")


def test_an_image_that_is_too_large_is_not_fetched(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = open_source(f"s3://{bucket}/photos/train").splits["train"]
    monkeypatch.setattr("kcv.images.urls.MOST_STORED_BYTES", 10)
    s3.asked.clear()
    with pytest.raises(DataError, match="bytes; 10 are allowed"):
        read_batch(Images(samples, 16, "squash"), np.arange(1))
    assert s3.asked == []


def test_names_that_are_no_files_are_passed_over(s3: S3, bucket: str) -> None:
    own = s3.bucket()
    image = s3.get(bucket, "photos/train/left/000.png")
    for name in ("left/a.png", "top/a.png", "left/", "top//b.png", ".hidden/a.png", "top/.b.png", "notes.txt"):
        s3.put(own, name, image)
    source = open_source(f"s3://{own}/")
    assert list(source.splits["train"].names) == ["left/a.png", "top/a.png"]
    assert source.understood is not None
    assert any("1 .txt" in line for line in source.understood.lines())


def test_all_splits_are_found(s3: S3, bucket: str) -> None:
    assert set(open_source(f"s3://{bucket}/parquet").splits) == set(SPLITS)
    assert client.client().signed
    assert places.ObjectPlace.find(f"s3://{bucket}/photos").root.key == "photos/"
