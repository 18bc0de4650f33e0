"""Reads where the files of a .tar are, header by header, without unpacking it.

POSIX ustar and pax headers, and GNU long names (IEEE Std 1003.1, "pax"; GNU tar manual, "Basic Tar Format").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from kcv.data.archives.members import MOST_MEMBERS, MOST_NAME_BYTES, Member, member_name
from kcv.errors import DataError

_BLOCK: Final = 512
_MOST_HEADERS: Final = 2**20  # bytes of one extended header
_LONG_NAME: Final = b"L"
_ABOUT_NEXT: Final = (b"x", _LONG_NAME)
_ABOUT_ALL: Final = (b"g", b"K")
_FILES: Final = (b"0", b"\0", b"7")
_LINKS: Final = (b"1", b"2")
_RECORD: Final = re.compile(rb"(\d{1,7}) ([^=\n]*)=")


def members(stream: Any, archive: str, links: list[str] | None = None) -> Iterator[tuple[Member, Any]]:
    """Yields the regular files of a tar archive, in order, with the stream at their first byte.

    Folders, links and devices are passed over. What is read of a file between two steps does not matter if the stream
    can seek; otherwise it must not be more than the file.

    Args:
        stream: opened for reading; it needs `read`, `tell`, and `seek` or to be read forwards (`Forwards`).
        archive: its name, for messages.
        links: gets the name of each link.

    Raises:
        DataError: a header is damaged, or a name leads out of the archive.
    """
    extended: dict[bytes, bytes] = {}
    for _ in range(MOST_MEMBERS):
        header = stream.read(_BLOCK)
        if not header.strip(b"\0"):
            return  # the two empty blocks at the end, or the end of a file that lacks them
        size, at = _size(header, archive), stream.tell()
        kind = header[156:157]
        if kind in _ABOUT_NEXT:
            extended |= _about_next(stream, kind, size, archive)
        elif kind not in _ABOUT_ALL:
            size = _number(extended.get(b"size"), size, archive)
            name = extended.get(b"path") or _name(header)
            if kind == b"S" or any(key.startswith(b"GNU.sparse") for key in extended):
                raise DataError(f"{archive}: holds a sparse file, which is not read.")
            if kind in _FILES and name.strip(b"./") and not name.endswith(b"/"):
                yield Member(member_name(name, archive), at, size, size), stream
            elif kind in _LINKS and links is not None:
                links.append(member_name(name, archive))
            extended = {}
        stream.seek(at + -(-size // _BLOCK) * _BLOCK)
    raise DataError(f"{archive}: holds more than {MOST_MEMBERS:,} members.")


def _about_next(stream: Any, kind: bytes, size: int, archive: str) -> dict[bytes, bytes]:
    """Returns what a header says about the member that follows it."""
    if size > _MOST_HEADERS:
        raise DataError(f"{archive}: holds a header of {size:,} bytes; {_MOST_HEADERS:,} are allowed.")
    content: bytes = stream.read(size)
    if len(content) != size:
        raise DataError(f"{archive}: is cut off.")
    return {b"path": content.rstrip(b"\0")} if kind == _LONG_NAME else _records(content, archive)


def _size(header: bytes, archive: str) -> int:
    """Returns the size in a header whose checksum is right."""
    if len(header) < _BLOCK:
        raise DataError(f"{archive}: is cut off, or no tar archive.")
    told = header[148:156].strip(b" \0")
    blank = header[:148] + b" " * 8 + header[156:]
    if not told.isdigit() or not re.fullmatch(rb"[0-7]+", told) or int(told, 8) != sum(blank):
        raise DataError(f"{archive}: is no tar archive, or damaged (a header is not what its checksum says).")
    field = header[124:136]
    if field[0] & 0x80:
        return _bounded(int.from_bytes(field[1:], "big"), archive)
    digits = field.strip(b" \0")
    if digits and not re.fullmatch(rb"[0-7]+", digits):
        raise DataError(f"{archive}: is damaged (a size is no number).")
    return _bounded(int(digits or b"0", 8), archive)


def _number(text: bytes | None, otherwise: int, archive: str) -> int:
    if text is None:
        return otherwise
    if not text.isdigit() or len(text) > 18:
        raise DataError(f"{archive}: is damaged (a size is no number).")
    return _bounded(int(text), archive)


def _bounded(size: int, archive: str) -> int:
    if size >= 2**60:
        raise DataError(f"{archive}: is damaged (a file of {size:,} bytes).")
    return size


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _records(content: bytes, archive: str) -> dict[bytes, bytes]:
    """Returns the values of an extended header: its length, a key, `=`, a value and a line feed each."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content.rstrip(b"\0")):
        match = _RECORD.match(content, at, at + MOST_NAME_BYTES)
        length = int(match[1]) if match else 0
        if match is None or length <= match.end() - at or at + length > len(content):
            raise DataError(f"{archive}: is damaged (an extended header).")
        found[match[2]] = content[match.end() : at + length - 1]
        at += length
    return found


class Forwards:
    """A stream that can only be read forwards, with `tell` and a `seek` that reads.

    Args:
        stream: the stream.
        most: the largest number of bytes that it may have.
        archive: its name, for messages.
    """

    def __init__(self, stream: Any, most: int, archive: str) -> None:
        self._stream = stream
        self._most = most
        self._archive = archive
        self._at = 0

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes.

        Raises:
            DataError: the stream is longer than allowed.
        """
        content: bytes = self._stream.read(size)
        self._at += len(content)
        if self._at > self._most:
            raise DataError(f"{self._archive}: unpacks to more than {self._most:,} bytes, which is refused.")
        return content

    def tell(self) -> int:
        """Returns the number of bytes read."""
        return self._at

    def seek(self, to: int) -> None:
        """Reads on to a position; does nothing at the end of the stream."""
        while self._at < to and self.read(min(to - self._at, 2**20)):
            pass
