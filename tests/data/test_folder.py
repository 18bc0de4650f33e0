"""Folders of pictures as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcv.data import folder
from kcv.errors import DataError


def grow(root: Path, *names: str) -> Path:
    """Makes empty files; listing a folder opens none of them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_class_folders_without_splits(tmp_path: Path) -> None:
    grow(
        tmp_path,
        "dog/1.jpg",
        "cat/2.PNG",
        "cat/deep/er/3.webp",
        "cat/notes.txt",
        "cat/.x.jpg",
        ".git/y.jpg",
        "readme.md",
    )
    source = folder.open_source(tmp_path, "pets")
    train = source.splits["train"]
    assert source.class_names == ("cat", "dog")
    assert list(train.names) == ["cat/2.PNG", "cat/deep/er/3.webp", "dog/1.jpg"]
    assert train.labels.tolist() == [0, 0, 1]
    assert train.pictures[0] == tmp_path / "cat" / "2.PNG"
    assert source.flat
    assert source.name == "pets"


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_class_folders_below_splits(tmp_path: Path, val: str) -> None:
    grow(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", f"{val}/dog/3.jpg", "test/cat/4.jpg", "docs/page/5.jpg")
    source = folder.open_source(tmp_path)
    assert set(source.splits) == {"train", "val", "test"}
    assert not source.flat
    assert source.splits["val"].labels.tolist() == [1], "dog, by name, though it is the only folder there"
    assert list(source.splits["test"].names) == ["test/cat/4.jpg"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = folder.open_source(grow(tmp_path, "train/1.jpg", "bus/2.jpg", "plane/3.jpg"))
    assert source.class_names == ("bus", "plane", "train")
    assert source.flat


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    grow(tmp_path, "data/cat/1.jpg", "data/dog/2.jpg", "far/3.jpg")
    (tmp_path / "data" / "cat" / "up").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "data" / "owl").symlink_to(tmp_path / "far")
    source = folder.open_source(tmp_path / "data")
    assert list(source.splits["train"].names) == ["cat/1.jpg", "dog/2.jpg", "owl/3.jpg"]


def test_an_empty_class_folder_is_left_out_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grow(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    assert folder.open_source(tmp_path).class_names == ("cat",)
    assert caplog.messages == [f"{tmp_path}: no pictures of the class 'dog', which is left out"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no pictures; expected one folder a class"),
        (("1.jpg", "2.jpg"), "holds pictures but no class folders"),
        (("cat/a.txt", "dog/b.txt"), "no pictures; expected"),
        (("train/cat/1.jpg", "val/cat/notes.txt"), "no pictures in val"),
        (("train/cat/1.jpg", "val/cat/1.jpg", "valid/cat/1.jpg"), "both the val split"),
        (("train/cat/1.jpg", "test/owl/1.jpg"), "test split: has a class that the train split does not have: 'owl'"),
    ],
)
def test_a_folder_that_is_no_data_set_says_why(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError) as caught:
        folder.open_source(grow(tmp_path, *names), "pets")
    assert words in str(caught.value)
    assert str(caught.value).startswith("pets: ")
