"""Reads where the files of a .zip are from its central directory (PKWARE, APPNOTE.TXT 6.3, sections 4.3 to 4.5)."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import Any, Final

from kcv.data.archives.members import DEFLATED, MOST_MEMBERS, STORED, Member, member_name
from kcv.errors import DataError
from kcv.images.files import is_image_name

_MOST_DIRECTORY: Final = 2**30
_END: Final = struct.Struct("<4s4H2LH")
_END_64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_WIDE: Final = 2**32 - 1  # a number that stands in the extra field
_ENCRYPTED, _UTF8 = 0x1, 0x800
_UNIX: Final = 3


def members(stream: Any, archive: str, links: list[str] | None = None) -> Iterator[Member]:
    """Yields the regular files of a .zip that are images by their names; other files with an offset of -1.

    Args:
        stream: opened for reading.
        archive: its name, for messages.
        links: gets the name of each link.

    Raises:
        DataError: the directory is damaged or too large, or an image is encrypted or packed in a way that is not read.
    """
    count, directory = _directory(stream, archive)
    if count > MOST_MEMBERS:
        raise DataError(f"{archive}: holds more than {MOST_MEMBERS:,} members.")
    for values, raw, rest in _entries(directory, count, archive):
        _, made, _, flags, method, _, _, crc, packed, size, _, _, _, _, _, mode, offset = values
        name = member_name(_decoded(raw, flags), archive)
        if raw.endswith((b"/", b"\\")) or not name:
            continue
        if made >> 8 == _UNIX and stat.S_IFMT(mode >> 16) not in (0, stat.S_IFREG):
            if links is not None and stat.S_ISLNK(mode >> 16):
                links.append(name)
            continue
        if not is_image_name(name.rpartition("/")[2]):
            yield Member(name, -1, 0, 0)
            continue
        _require_readable(flags, method, archive)
        size, packed, offset = _wide(rest, size, packed, offset, archive)
        yield Member(name, offset, packed, size, method, crc)


def _entries(directory: bytes, count: int, archive: str) -> Iterator[tuple[tuple[Any, ...], bytes, bytes]]:
    """Yields the fixed fields, the name and the extra field of each entry of a directory."""
    at = 0
    for _ in range(count):
        if len(directory) - at < _ENTRY.size or directory[at : at + 4] != b"PK\1\2":
            raise DataError(f"{archive}: is damaged (its directory ends early).")
        values = _ENTRY.unpack_from(directory, at)
        named, extra, comment = values[10:13]
        at += _ENTRY.size
        if at + named + extra + comment > len(directory):
            raise DataError(f"{archive}: is damaged (its directory ends early).")
        yield values, directory[at : at + named], directory[at + named : at + named + extra]
        at += named + extra + comment


def _require_readable(flags: int, method: int, archive: str) -> None:
    if flags & _ENCRYPTED:
        raise DataError(f"{archive}: is encrypted; unpack it first.")
    if method not in (STORED, DEFLATED):
        raise DataError(f"{archive}: is packed by method {method}, which is not read; pack it as usual (deflate).")


def _decoded(raw: bytes, flags: int) -> str:
    """Returns a name as text: UTF-8 where the archive says so, or where it is; else code page 437."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return os.fsdecode(raw) if flags & _UTF8 else raw.decode("cp437")


def _directory(stream: Any, archive: str) -> tuple[int, bytes]:
    """Returns the number of entries and the bytes of the central directory."""
    whole = stream.seek(0, os.SEEK_END)
    begin = max(whole - _END.size - 2**16, 0)
    stream.seek(begin)
    tail = stream.read(_END.size + 2**16)
    place = tail.rfind(b"PK\5\6")
    if place < 0 or len(tail) - place < _END.size:
        raise DataError(f"{archive}: is no .zip, or cut off.")
    _, disk, first, _, count, size, offset, _ = _END.unpack_from(tail, place)
    if 0xFFFF in (disk, first, count) or _WIDE in (size, offset):
        locator = begin + place - _LOCATOR.size
        stream.seek(max(locator, 0))
        found = stream.read(_LOCATOR.size) if locator >= 0 else b""
        if found[:4] == b"PK\6\7":
            end = _LOCATOR.unpack(found)[2]
            stream.seek(min(end, whole))
            wide = stream.read(_END_64.size)
            if len(wide) < _END_64.size or wide[:4] != b"PK\6\6":
                raise DataError(f"{archive}: is damaged (its end).")
            _, _, _, _, disk, first, _, count, size, offset = _END_64.unpack(wide)
    if disk or first:
        raise DataError(f"{archive}: is one of several parts, which is not read.")
    if size > _MOST_DIRECTORY or offset + size > whole:
        raise DataError(f"{archive}: is damaged, or its directory is larger than {_MOST_DIRECTORY:,} bytes.")
    stream.seek(offset)
    return count, stream.read(size)


def _wide(extra: bytes, size: int, packed: int, offset: int, archive: str) -> tuple[int, int, int]:
    """Returns sizes and offset of an entry, from its extra field where they need 64 bits."""
    values = [size, packed, offset]
    wanted = [i for i, value in enumerate(values) if value == _WIDE]
    at = 0
    while wanted and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            if length < 8 * len(wanted) or at + 4 + 8 * len(wanted) > len(extra):
                break
            for number, i in enumerate(wanted):
                (values[i],) = struct.unpack_from("<Q", extra, at + 4 + 8 * number)
            wanted = []
        at += 4 + length
    if wanted or max(values) >= 2**60:
        raise DataError(f"{archive}: is damaged (the size of a member).")
    return values[0], values[1], values[2]
