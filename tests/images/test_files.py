"""Paths, folders and patterns to picture files."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcv.errors import DataError
from kcv.images.files import find, walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/er/c.webp", ".git/d.jpg", "odd.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_gives_its_pictures_sorted(tree: Path) -> None:
    assert find([str(tree)]) == [tree / "a.PNG", tree / "b.jpg", tree / "deep" / "er" / "c.webp"]


def test_links_back_make_no_loop(tree: Path) -> None:
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "deep" / "self").symlink_to(tree / "deep")
    assert [path.name for path in walk(tree)] == ["a.PNG", "b.jpg", "c.webp"]


def test_links_to_other_folders_are_followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "far.jpg").touch()
    (tree / "link").symlink_to(other)
    assert tree / "link" / "far.jpg" in walk(tree)


def test_a_named_file_is_taken_whatever_its_name(tree: Path) -> None:
    assert find([tree / "odd.bin"]) == [tree / "odd.bin"]


def test_patterns_match_pictures_and_folders(tree: Path) -> None:
    assert find([str(tree / "*.jpg")]) == [tree / "b.jpg"]
    assert find([str(tree / "*")]) == [tree / "a.PNG", tree / "b.jpg", tree / "deep" / "er" / "c.webp"]
    assert find([str(tree / "**" / "*.webp")]) == [tree / "deep" / "er" / "c.webp"]


def test_brackets_in_a_real_name_are_no_pattern(tree: Path) -> None:
    (tree / "x[1].jpg").touch()
    assert find([str(tree / "x[1].jpg")]) == [tree / "x[1].jpg"]


def test_each_picture_comes_once_in_the_order_given(tree: Path) -> None:
    assert find([tree / "b.jpg", tree, tree / "b.jpg"])[:2] == [tree / "b.jpg", tree / "a.PNG"]
    assert len(find([tree, tree])) == 3


@pytest.mark.parametrize(
    ("name", "words"), [("gone.jpg", "no such file"), ("*.gif", "no pictures"), ("empty", "no pictures")]
)
def test_nothing_found_is_an_error_that_names_the_path(tree: Path, name: str, words: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match=words) as caught:
        find([str(tree / name)])
    assert str(tree / name) in str(caught.value)
