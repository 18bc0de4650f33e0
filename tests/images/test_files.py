"""Paths, folders and patterns to image files."""

from __future__ import annotations

import glob
import io
import os
import sys
from pathlib import Path

import pytest
from deep import nested

from kcv.errors import DataError
from kcv.images.files import find, matches, read_list, walk


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/er/c.webp", ".git/d.jpg", "odd.bin"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_a_folder_gives_its_images_sorted(tree: Path) -> None:
    assert list(find([str(tree)])) == [tree / "a.PNG", tree / "b.jpg"]
    assert list(find([tree], recursive=True)) == [tree / "a.PNG", tree / "b.jpg", tree / "deep" / "er" / "c.webp"]


def test_links_back_make_no_loop(tree: Path) -> None:
    (tree / "deep" / "up").symlink_to(tree)
    (tree / "deep" / "self").symlink_to(tree / "deep")
    assert [path.name for path in walk(tree)] == ["a.PNG", "b.jpg", "c.webp"]


def test_a_link_to_a_folder_above_is_not_followed(tree: Path) -> None:
    """As `/` is, where a folder of images holds a link to /proc/self."""
    (tree / "deep" / "above").symlink_to(tree)
    (tree / "deep" / "root").symlink_to("/")
    assert [path.name for path in walk(tree / "deep")] == ["c.webp"]


def test_links_to_other_folders_are_followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "far.jpg").touch()
    (tree / "link").symlink_to(other)
    assert tree / "link" / "far.jpg" in list(walk(tree))


def test_patterns_end_where_links_lead_back(tree: Path) -> None:
    (tree / "one").symlink_to(tree)
    (tree / "two").symlink_to(tree)
    (tree / "deep" / "far").symlink_to(tree / "deep" / "er")
    found = list(find([str(tree / "**" / "*.[jw]*")]))
    assert {path.name for path in found} == {"b.jpg", "c.webp"}
    assert len(found) < 10
    assert len(list(find([str(tree / "**")], recursive=True))) < 20


@pytest.mark.parametrize(
    "pattern",
    ["*", "*.jpg", "**", "**/*", "**/*.webp", "d*/**", "d*/*/", "d??p/er/*", "deep/e[r]/c.*", "**/er/*", "*/*/*.webp",
     ".*", "[a-b].*", "none*", "deep/**/c.webp", "**/", "./*.jpg", "deep/../*.jpg"],
)  # fmt: skip
def test_patterns_are_those_of_glob(tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    for given in (pattern, str(tree / pattern)):
        found = [Path(path) for path in matches(given)]
        assert len(found) == len(set(found))
        assert set(found) == set(map(Path, glob.glob(given, recursive=True)))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_a_thousand_folders_in_each_other_are_no_error(tree: Path) -> None:
    with nested(tree, 1200, "far.jpg"):  # more than Python calls nest
        assert "far.jpg" in [path.name for path in walk(tree)]
        assert "far.jpg" in [path.name for path in find([str(tree / "**" / "*.jpg")])]


def test_what_systems_leave_is_no_image(tree: Path) -> None:
    for name in ("@eaDir/b.jpg/SYNOFILE_THUMB_M.jpg", "deep/__MACOSX/._c.webp", "lost+found/x.jpg", "._b.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    assert [path.name for path in walk(tree)] == ["a.PNG", "b.jpg", "c.webp"]


@pytest.mark.parametrize("name", ["x" * 5000, "y/" * 3000, "nul\0byte.jpg", "nul\0*.jpg"])
def test_names_that_no_file_can_have_are_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(DataError) as caught:
        find([name])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_named_file_is_taken_whatever_its_name(tree: Path) -> None:
    assert list(find([tree / "odd.bin"])) == [tree / "odd.bin"]


def test_patterns_match_images_and_folders(tree: Path) -> None:
    assert list(find([str(tree / "*.jpg")])) == [tree / "b.jpg"]
    assert list(find([str(tree / "*")])) == [tree / "a.PNG", tree / "b.jpg"]
    assert list(find([str(tree / "*")], recursive=True))[2:] == [tree / "deep" / "er" / "c.webp"]
    assert list(find([str(tree / "**" / "*.webp")])) == [tree / "deep" / "er" / "c.webp"]


def test_brackets_in_a_real_name_are_no_pattern(tree: Path) -> None:
    (tree / "x[1].jpg").touch()
    assert list(find([str(tree / "x[1].jpg")])) == [tree / "x[1].jpg"]


def test_images_come_in_the_order_given_as_often_as_given(tree: Path) -> None:
    assert list(find([tree / "b.jpg", tree, tree / "b.jpg"])) == [
        tree / "b.jpg", tree / "a.PNG", tree / "b.jpg", tree / "b.jpg",
    ]  # fmt: skip


def test_all_paths_are_checked_before_any_is_taken(tree: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find([tree / "b.jpg", tree / "gone.jpg"])


def test_images_only_below_a_folder_are_pointed_out(tree: Path) -> None:
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
    ("name", "words"), [("gone.jpg", "no such file"), ("*.gif", "no images"), ("empty", "no images")]
)
def test_nothing_found_is_an_error_that_names_the_path(tree: Path, name: str, words: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(DataError, match=words) as caught:
        find([str(tree / name)])
    assert str(tree / name) in str(caught.value)
