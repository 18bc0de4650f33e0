"""Archives that are no sound model file: refused in one line, in bounded time and memory."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from spoiling import Members

from kcv.artifact import read_info
from kcv.artifact.archive import open_archive
from kcv.errors import ArtifactError
from kcv.inference.opening import load

Pack = Callable[..., Path]


def entry(content: bytearray, name: bytes) -> int:
    """Returns where a member's entry in the directory begins."""
    position = content.find(b"PK\x01\x02")
    while content[position + 46 : position + 46 + len(name)] != name:
        position = content.find(b"PK\x01\x02", position + 4)
    return position


def data_of(content: bytearray, name: bytes) -> int:
    """Returns where a member's data begins."""
    header = int.from_bytes(content[(place := entry(content, name)) + 42 : place + 46], "little")
    lengths = [int.from_bytes(content[header + at : header + at + 2], "little") for at in (26, 28)]
    return header + 30 + sum(lengths)


def garbled(content: bytearray) -> None:
    place = data_of(content, b"kcv.json") + 20
    content[place : place + 200] = bytes(range(200))


def another_sum(content: bytearray) -> None:
    content[entry(content, b"kcv.json") + 16] ^= 0xFF


def far(content: bytearray) -> None:
    place, name = entry(content, b"kcv.json"), len(b"kcv.json")
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    content[place + 42 : place + 46] = b"\xff" * 4
    content[place + 30 : place + 32] = len(extra).to_bytes(2, "little")
    content[place + 46 + name : place + 46 + name] = extra
    end = content.rfind(b"PK\x05\x06")
    size = int.from_bytes(content[end + 12 : end + 16], "little") + len(extra)
    content[end + 12 : end + 16] = size.to_bytes(4, "little")


def not_utf8(content: bytearray) -> None:
    place = entry(content, b"assets/xx")
    content[place + 8 : place + 10] = (0x800).to_bytes(2, "little")
    content[place + 53 : place + 55] = b"\xff\xfe"


def method(number: int) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[(place := entry(content, b"kcv.json")) + 10 : place + 12] = number.to_bytes(2, "little")

    return change


def unpacks_to_less(content: bytearray) -> None:
    """Says that a member is small, and packs much more."""
    for place in (entry(content, b"kcv.json") + 24, data_of(content, b"kcv.json") - 30 - len(b"kcv.json") + 22):
        content[place : place + 4] = (10).to_bytes(4, "little")


CHANGES: dict[str, tuple[Callable[[bytearray], None], str]] = {
    "garbled deflate": (garbled, "its kcv.json is damaged"),
    "a checksum that is wrong": (another_sum, "its kcv.json is damaged"),
    "an offset of 2^64 - 1": (far, "would lie behind its end"),
    "a name that is no UTF-8": (not_utf8, "not a model file, or a damaged one"),
    "LZMA": (method(zipfile.ZIP_LZMA), "packed by a method"),
    "bzip2": (method(zipfile.ZIP_BZIP2), "packed by a method"),
    "a method that nobody knows": (method(99), "packed by a method"),
    "a member that is more than it says": (unpacks_to_less, "its kcv.json is damaged|description is damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_archive_is_refused(name: str, tiny: Members, pack: Pack) -> None:
    change, words = CHANGES[name]
    path = pack({**tiny, "assets/xx": b"1"}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    for use in (read_info, load):
        with pytest.raises(ArtifactError, match=words) as caught:
            use(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_many_members_are_refused_before_they_are_looked_at(tiny: Members, tmp_path: Path) -> None:
    for count, words in ((2_000, "holds 2,004 members"), (30_000, "its directory is larger than")):
        path = tmp_path / f"{count}.keras"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**tiny, **{f"assets/{number}": b"" for number in range(count)}}.items():
                archive.writestr(name, data)
        with pytest.raises(ArtifactError, match=words):
            read_info(path)


def test_a_packed_model_file_with_assets_opens(tiny: Members, pack: Pack) -> None:
    path = pack({**tiny, "assets/": b"", "assets/words": b"x" * 100}, zipfile.ZIP_DEFLATED)
    with open_archive(path) as archive:
        assert archive.read("assets/words") == b"x" * 100
    assert load(path, device="cpu").info == read_info(path)


def test_opening_takes_no_room_for_temporary_files(
    tiny: Members, pack: Pack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    load(pack(tiny), device="cpu")


def test_an_error_of_the_disk_is_told_as_one(tiny: Members, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    path = pack(tiny)
    monkeypatch.setattr("zipfile.ZipFile.open", fails)
    with pytest.raises(ArtifactError, match="cannot be read: Input/output error"):
        read_info(path)


def test_what_may_not_be_read_is_told_as_that(tiny: Members, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = pack(tiny)
    monkeypatch.setattr("kcv.common.untrusted.os.open", fails)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied"):
        read_info(path)
