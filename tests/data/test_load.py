"""From a configuration to images in memory or on disk, for training and for a finished model."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kcv.config import DataConfig
from kcv.data import loading
from kcv.errors import DataError
from kcv.images import decode


def config(source: Path | str, **values: Any) -> DataConfig:
    return DataConfig(**{"source": str(source), "val_fraction": 0.25, "test_fraction": 0.25, **values})


def paint(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), n: int = 8, side: int = 16) -> Path:
    """Makes `n` different images a class; the class is in the red channel."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            pixels = np.full((side, side, 3), (100 * label, 10 * i, 0), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def test_digits_in_memory() -> None:
    digits = loading.load(DataConfig())
    assert digits.test is not None
    assert digits.in_memory
    assert (digits.image_size, digits.class_names) == (32, tuple("0123456789"))
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1293, 144, 360)
    assert digits.train.pixels is not None
    assert digits.train.pixels.shape == (1293, 32, 32, 3)
    assert digits.train.pixels.dtype == np.uint8
    assert digits.train.labels.dtype == np.int64


def test_memory_and_disk_give_the_same_images(tmp_path: Path) -> None:
    paint(tmp_path)
    held = loading.load(config(tmp_path, image_size=20))
    streamed = loading.load(config(tmp_path, image_size=20, memory_budget_mb=0))
    assert held.in_memory
    assert not streamed.in_memory
    assert streamed.train.pixels is None
    assert list(held.val.names) == list(streamed.val.names)
    for i in range(len(held.val)):
        assert np.array_equal(held.val.read(i), streamed.val.read(i))
        label = int(held.val.read(i)[0, 0, 0]) // 100
        assert held.class_names[label] == held.val.names[i].split("/")[0] == held.class_names[held.val.labels[i]]


def test_the_budget_counts_all_splits_at_the_model_s_size(tmp_path: Path) -> None:
    paint(tmp_path)  # 16 images of 256 x 256 x 3 bytes: exactly 3 MB
    assert loading.load(config(tmp_path, image_size=256, memory_budget_mb=3)).in_memory
    assert not loading.load(config(tmp_path, image_size=264, memory_budget_mb=3)).in_memory


@pytest.mark.parametrize(("side", "size"), [(4, 16), (16, 16), (64, 64), (65, 224)])
def test_small_square_images_keep_their_size(tmp_path: Path, side: int, size: int) -> None:
    assert loading.load(config(paint(tmp_path, side=side))).image_size == size


def test_images_of_several_sizes_get_the_usual_one(tmp_path: Path) -> None:
    paint(tmp_path)
    for path in (tmp_path / "dog").iterdir():
        Image.new("RGB", (20, 20)).save(path)
    assert loading.load(config(tmp_path)).image_size == 224


def test_unreadable_images_are_named_and_counted(tmp_path: Path) -> None:
    paint(tmp_path)
    for i in range(5):
        (tmp_path / "dog" / f"{i}.png").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"of \d+ images cannot be read: dog/\d\.png: not an image"):
        loading.load(config(tmp_path, image_size=16))


def test_a_source_that_does_not_exist_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match=r"'cifar-10' is neither .* Did you mean 'cifar10'\?"):
        loading.load(config("cifar-10"))


def test_a_file_that_holds_no_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    with pytest.raises(DataError, match=r"neither a folder of images nor .* nor a \.parquet file"):
        loading.load(config(tmp_path / "x.txt"))


def test_names_are_looked_for_under_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "pets")
    monkeypatch.setenv("KCV_DATA_DIR", str(tmp_path))
    assert loading.load(config("pets")).class_names == ("cat", "dog")


def test_what_a_folder_was_taken_for_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paint(tmp_path)
    (tmp_path / "dog" / "IMG_1.HEIC").touch()
    said = (
        "no splits: 16 images in class folders",
        "2 classes: cat, dog",
        "left out: 1 file (1 .heic), not a format that is read: dog/IMG_1.HEIC",
    )
    assert loading.load(config(tmp_path, image_size=16)).understood == said
    source = loading.open_source(str(tmp_path))
    assert source.understood is not None
    assert source.understood.to_dict()["summary"] == list(said)
    with caplog.at_level(logging.INFO, logger="kcv"):
        loading.load_split(config(tmp_path, image_size=16), "test", ("cat", "dog"), tell=True)
    assert [record.getMessage().removeprefix("data       ") for record in caplog.records] == list(said)


def test_a_folder_around_the_classes_is_pointed_out(tmp_path: Path) -> None:
    paint(tmp_path / "pets")
    with pytest.raises(DataError, match=r"only the class 'pets'.* name it: --data=PATH/pets"):
        loading.load(config(tmp_path))


def test_a_link_to_nothing_is_named_where_images_are_streamed(tmp_path: Path) -> None:
    paint(tmp_path)
    (tmp_path / "cat" / "zz.png").symlink_to("/nowhere/annex/zz.png")
    with pytest.raises(DataError, match=r"cat/zz\.png is a link to /nowhere/annex/zz\.png, which is not there"):
        loading.load(config(tmp_path, image_size=16, memory_budget_mb=0))
    with pytest.raises(DataError, match=r"cat/zz\.png"):
        loading.load(config(tmp_path, image_size=16))
    with pytest.raises(DataError, match=r"cat/zz\.png"):
        loading.load_split(config(tmp_path, image_size=16), "test", ("cat", "dog"), "another")


def test_one_class_and_an_empty_class_are_refused(tmp_path: Path) -> None:
    paint(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match="only the class 'cat'"):
        loading.load(config(tmp_path))
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="only the class 'cat'"):
        loading.load(config(tmp_path))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_training_carved_is_carved_again(tmp_path: Path, split: str) -> None:
    trained = loading.load(config(paint(tmp_path), image_size=16))
    again = loading.load_split(config(tmp_path, image_size=16), split, trained.class_names, trained.fingerprint)
    before = getattr(trained, split)
    assert list(again.names) == list(before.names)
    assert np.array_equal(again.labels, before.labels)
    assert np.array_equal(again.pixels, before.pixels)


def test_a_foreign_flat_folder_is_the_split_as_a_whole(tmp_path: Path) -> None:
    images = loading.load_split(config(paint(tmp_path), image_size=16), "test", ("owl", "dog", "cat"), "another")
    assert len(images) == 16
    assert [("owl", "dog", "cat")[label] for label in images.labels] == [name.split("/")[0] for name in images.names]


def test_a_foreign_split_is_taken_as_it_is(tmp_path: Path) -> None:
    paint(tmp_path / "train", n=4)
    paint(tmp_path / "test", n=3)
    images = loading.load_split(config(tmp_path, image_size=16), "test", ("cat", "dog"))
    assert len(images) == 6
    assert len(loading.load_split(config(tmp_path, image_size=16), "train", ("cat", "dog"))) == 8
    with pytest.raises(DataError, match=r"has no val split, only (train, test|test, train)"):
        loading.load_split(config(tmp_path, image_size=16), "val", ("cat", "dog"))


def test_a_class_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    paint(tmp_path)
    with pytest.raises(DataError, match="the model does not have: 'dog'; allowed: 'cat', 'owl'"):
        loading.load_split(config(tmp_path, image_size=16), "test", ("cat", "owl"))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="split 'dev' is not one of train, val, test"):
        loading.load_split(config("digits", image_size=32), "dev", tuple("0123456789"))


def test_real_jpeg_images_decode_as_pillow_does(data_root: Path) -> None:
    source = loading.open_source(str(data_root / "cifar10"))
    for image in source.splits["test"].images[:50]:
        assert isinstance(image, bytes)
        with Image.open(io.BytesIO(image)) as decoded:
            assert np.array_equal(decode(image), np.asarray(decoded.convert("RGB")))


def test_images_that_do_not_fit_into_memory_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object, **options: object) -> None:
        raise MemoryError

    images = paint(tmp_path, n=4)
    monkeypatch.setattr("kcv.images.load", full)
    with pytest.raises(DataError, match=r"images of 1024 px need \d+ MB.*data\.memory_budget_mb"):
        loading.load(config(images, image_size=1024))
