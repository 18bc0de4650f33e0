"""Folders of images as people have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from deep import nested

from kcv.data.folder_tree import source as folder
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
    assert train.images[0] == tmp_path / "cat" / "2.PNG"
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


def test_a_link_to_a_folder_above_is_not_followed_and_the_summary_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    grow(tmp_path, "data/cat/1.jpg", "data/dog/2.jpg", "other/3.jpg", "far/a/4.jpg")
    (data / "up").symlink_to("..")  # it would be a class of everything beside the data
    (data / "cat" / "all").symlink_to(data)
    (data / "owl").symlink_to(tmp_path / "far" / "a")
    (tmp_path / "far" / "a" / "back").symlink_to(data)  # above only by the way that leads here
    (tmp_path / "far" / "a" / "root").symlink_to("/")
    source = folder.open_source(data)
    assert source.class_names == ("cat", "dog", "owl")
    assert list(source.splits["train"].names) == ["cat/1.jpg", "dog/2.jpg", "owl/4.jpg"]
    assert source.understood is not None
    line = "not followed: cat/all, owl/back, owl/root, up, links to a folder above"
    assert line in source.understood.lines()
    assert {"link": "up", "why": "to a folder above"} in source.understood.to_dict()["links"]


def test_links_beside_the_splits_are_not_followed_and_the_summary_says_so(tmp_path: Path) -> None:
    grow(tmp_path, "data/train/cat/1.jpg", "data/train/dog/1.jpg", "far/cat/1.jpg", "far/2.jpg", "more/3.jpg")
    (tmp_path / "data" / "test").symlink_to(tmp_path / "far")  # a split may be a link
    (tmp_path / "data" / "more").symlink_to(tmp_path / "more")
    understood = folder.open_source(tmp_path / "data").understood
    assert understood is not None
    lines = understood.lines()
    assert "splits: train (2) from train/, test (1) from test/" in lines
    assert "left out: 1 file (1 .jpg), outside the class folders: test/2.jpg" in lines
    assert "not followed: more, a link beside the splits" in lines


def test_an_empty_class_folder_is_left_out_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grow(tmp_path, "cat/1.jpg")
    (tmp_path / "dog").mkdir()
    assert folder.open_source(tmp_path).class_names == ("cat",)
    assert caplog.messages == [f"{tmp_path}: no images of the class 'dog', which is left out"]


def test_many_links_to_each_other_end(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(8)]
    grow(tmp_path, *(f"{name}/1.jpg" for name in names))
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    assert len(folder.open_source(tmp_path).splits["train"]) == 8 * 8, "each folder once in each class"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_folders_nested_deeper_than_calls(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with nested(tmp_path / "cat", 1200, "far.jpg"):
        assert len(folder.open_source(tmp_path).splits["train"]) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_folders_deeper_than_a_path_can_say_are_refused_in_one_line(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/1.jpg")
    with nested(tmp_path / "cat", 2100), pytest.raises(DataError, match="File name too long") as caught:
        folder.open_source(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    grow(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "cat" / "zz.jpg").symlink_to("../.git/annex/objects/zz.jpg")
    (tmp_path / "cat" / "self.jpg").symlink_to(tmp_path / "cat" / "self.jpg")
    source = folder.open_source(tmp_path, "pets")
    with pytest.raises(DataError, match=r"pets: cat/self.jpg is a link to .*self.jpg, which is not there"):
        source.fingerprint  # noqa: B018
    (tmp_path / "cat" / "self.jpg").unlink()
    with pytest.raises(
        DataError, match=r"pets: cat/zz.jpg is a link to \.\./\.git/annex/objects/zz.jpg, which is not "
    ):
        folder.open_source(tmp_path, "pets").fingerprint  # noqa: B018


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    latin = os.fsdecode(b"caf\xe9")
    grow(tmp_path, f"cat/{latin}.jpg", "dog/1.jpg", f"cat/{latin}.heic")
    source = folder.open_source(tmp_path)
    assert list(source.splits["train"].names) == [f"cat/{latin}.jpg", "dog/1.jpg"]
    assert len(source.fingerprint) == 64
    assert source.understood is not None
    assert all(line.isprintable() for line in source.understood.lines())
    grow(tmp_path, f"{latin}/1.jpg")
    with pytest.raises(DataError, match="bytes that are not UTF-8"):
        folder.open_source(tmp_path)


def test_the_fingerprint_is_that_of_earlier_versions(tmp_path: Path) -> None:
    grow(tmp_path, "b/2.jpg", "b/10.jpg", "a/x/1.png", "a/x-y.png", "a/x.jpg", "a/.h.png", "notes.txt")
    source = folder.open_source(tmp_path)
    assert list(source.splits["train"].names) == ["a/x/1.png", "a/x-y.png", "a/x.jpg", "b/10.jpg", "b/2.jpg"]
    assert source.fingerprint == "125ba917b9f13a4e536b8de3d0405c78b07f1fe8ba5bfd0b4a2d39c86c827fe8"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "no images; expected one folder per class"),
        (("1.jpg", "2.jpg"), "holds images but no class folders"),
        (("cat/a.txt", "dog/b.txt"), "no images; expected"),
        (("train/cat/1.jpg", "val/cat/notes.txt"), "no images in val"),
        (("train/cat/1.jpg", "val/cat/1.jpg", "valid/cat/1.jpg"), "both the val split"),
        (("train/cat/1.jpg", "test/owl/1.jpg"), "test split: has a class that the train split does not have: 'owl'"),
    ],
)
def test_a_folder_that_is_no_data_set_says_why(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(DataError) as caught:
        folder.open_source(grow(tmp_path, *names), "pets")
    assert words in str(caught.value)
    assert str(caught.value).startswith("pets: ")
