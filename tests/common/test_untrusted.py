"""Files of strangers: whatever is wrong with them is one line that names the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from kcv.common import untrusted
from kcv.errors import ArtifactError, DataError


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    x: float
    names: list[str] = []


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON, or damaged"),
        (b"{", "is no JSON, or damaged"),
        (b"\xff{}", "is no JSON, or damaged"),
        (b"[]", "holds list in place of an object"),
        (b"{}", "x: Field required"),
        (b'{"x": "1"}', "x: Input should be a valid number"),
        (b'{"x": NaN}', "NaN is no number of JSON"),
        (b'{"x": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"x": 1e999}', "1e999 is too large"),
        (b'{"x": ' + b"9" * 5000 + b"}", "damaged"),
        (b'{"x": 1, "x": 2}', "a key stands twice"),
        (b'{"x": 1, "y": 2}', "y: Extra inputs are not permitted"),
        (b'{"x": 1, "names": [1]}', "names.0: Input should be a valid string"),
        (b'{"x": ' + nested(100_000) + b"}", "nested too deeply"),
        (b'{"x": ' + b'{"a": ' * 65 + b"1" + b"}" * 65 + b"}", "nested too deeply"),
    ],
)
def test_wrong_json_is_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        untrusted.read(path, Point, ArtifactError)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and words in text
    assert "\n" not in text


def test_sound_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    brackets = "[" * 1000 + '"\\'
    path.write_text(json.dumps({"x": 1.5, "names": [brackets]}))
    assert untrusted.read(path, Point, ArtifactError) == Point(x=1.5, names=[brackets])
    assert untrusted.parse_json(nested(64), "x", ArtifactError) is not None


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "closed").write_text("x")
    for path, words in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path / ("x" * 5000), "cannot be read: File name too long"),
        (Path("a\0b"), "cannot be read"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path / "closed" / "x", "cannot be read: Not a directory"),
    ):
        with pytest.raises(DataError, match=words):
            untrusted.read_bytes(path, 10, DataError)
    (tmp_path / "ten").write_bytes(b"x" * 10)
    assert len(untrusted.read_bytes(tmp_path / "ten", 10, DataError)) == 10
    with pytest.raises(DataError, match="is larger than 9 bytes"):
        untrusted.read_bytes(tmp_path / "ten", 9, DataError)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (KeyError("a"), "a.bin: is odd ('a')"),
        (MemoryError(), "a.bin: needs more memory than there is"),
        (RecursionError("deep"), "a.bin: is odd (nested too deeply)"),
        (OSError(5, "Input/output error"), "a.bin: cannot be read: Input/output error"),
        (OSError("a library's"), "a.bin: is odd (a library's)"),
        (ValueError("two\nlines"), "a.bin: is odd (two)"),
        (DataError("as it is"), "as it is"),
    ],
)
def test_whatever_a_library_raises_is_one_line(raised: Exception, words: str) -> None:
    with pytest.raises((ArtifactError, DataError)) as caught, untrusted.refusing("a.bin", ArtifactError, "is odd"):
        raise raised
    assert str(caught.value) == words


def test_no_link_is_followed_inside_a_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "below").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("x")
    (folder / "below" / "plain").write_text("x")
    (folder / "file").symlink_to(outside / "secret")
    (folder / "folder").symlink_to(outside)
    (folder / "dangling").symlink_to("nowhere")
    assert untrusted.inside(folder, "below", "plain", error=DataError) == folder / "below" / "plain"
    assert untrusted.inside(folder, "new/file", error=DataError) == folder / "new" / "file"
    (tmp_path / "named").symlink_to(folder)
    assert untrusted.inside(tmp_path / "named", "below/plain", error=DataError).read_text() == "x"
    wrong: list[Any] = [("file",), ("folder", "secret"), ("folder/secret",), ("dangling",)]
    for names in wrong:
        with pytest.raises(DataError, match="is a link, which is not followed here"):
            untrusted.inside(folder, *names, error=DataError)
    for names in (("..", "outside"), ("below/../../outside",), (str(outside),)):
        with pytest.raises(DataError, match="leads out of"):
            untrusted.inside(folder, *names, error=DataError)
    assert list(untrusted.files_inside(folder)) == [folder / "below" / "plain"]
