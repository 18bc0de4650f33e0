"""Paths, folders and patterns to picture files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from kcv.errors import DataError
from kcv.images.files import find, read_list, walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/er/c.webp", ".git/d.jpg", "odd.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_gives_its_pictures_sorted(tree: Path) -> None:
    assert list(find([str(tree)])) == [tree / "a.PNG", tree / "b.jpg"]
    assert list(find([tree], recursive=True)) == [tree / "a.PNG", tree / "b.jpg", tree / "deep" / "er" / "c.webp"]


def test_links_back_make_no_loop(tree: Path) -> None:
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "deep" / "self").symlink_to(tree / "deep")
    assert [path.name for path in walk(tree)] == ["a.PNG", "b.jpg", "c.webp"]


def test_links_to_other_folders_are_followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "far.jpg").touch()
    (tree / "link").symlink_to(other)
    assert tree / "link" / "far.jpg" in list(walk(tree))


def test_a_named_file_is_taken_whatever_its_name(tree: Path) -> None:
    assert list(find([tree / "odd.bin"])) == [tree / "odd.bin"]


def test_patterns_match_pictures_and_folders(tree: Path) -> None:
    assert list(find([str(tree / "*.jpg")])) == [tree / "b.jpg"]
    assert list(find([str(tree / "*")])) == [tree / "a.PNG", tree / "b.jpg"]
    assert list(find([str(tree / "*")], recursive=True))[2:] == [tree / "deep" / "er" / "c.webp"]
    assert list(find([str(tree / "**" / "*.webp")])) == [tree / "deep" / "er" / "c.webp"]


def test_brackets_in_a_real_name_are_no_pattern(tree: Path) -> None:
    (tree / "x[1].jpg").touch()
    assert list(find([str(tree / "x[1].jpg")])) == [tree / "x[1].jpg"]


def test_pictures_come_in_the_order_given_as_often_as_given(tree: Path) -> None:
    assert list(find([tree / "b.jpg", tree, tree / "b.jpg"])) == [
        tree / "b.jpg", tree / "a.PNG", tree / "b.jpg", tree / "b.jpg",
    ]  # fmt: skip


def test_all_paths_are_checked_before_any_is_taken(tree: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find([tree / "b.jpg", tree / "gone.jpg"])


def test_pictures_only_below_a_folder_are_pointed_out(tree: Path) -> None:
    with pytest.raises(DataError, match="only in folders below it; --recursive takes those"):
        find([tree / "deep"])


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.jpg\nb c.png\n", ["a.jpg", "b c.png"]),
        (b"a.jpg\r\n\r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"two\nlines.jpg\0b.jpg\0", ["two\nlines.jpg", "b.jpg"]),
        (b"\xff.jpg\n", ["\udcff.jpg"]),
        (b"", []),
        (b"\n\n", []),
        (b"\xef\xbb\xbfa.jpg\r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"\xef\xbb\xbf", []),
    ],
)
def test_lists_are_read_line_by_line_or_nul_by_nul(content: bytes, names: list[str]) -> None:
    assert [str(path) for path in read_list(io.BytesIO(content))] == names


def test_a_list_is_read_as_it_arrives() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as pipe:
        paths = read_list(stream)
        pipe.write(b"first.jpg\nsec")
        assert next(paths) == Path("first.jpg")
        pipe.write(b"ond.jpg\n")
        assert next(paths) == Path("second.jpg")


@pytest.mark.parametrize(
    ("name", "words"), [("gone.jpg", "no such file"), ("*.gif", "no pictures"), ("empty", "no pictures")]
)
def test_nothing_found_is_an_error_that_names_the_path(tree: Path, name: str, words: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match=words) as caught:
        find([str(tree / name)])
    assert str(tree / name) in str(caught.value)
