"""PNG files whose texts or colour profiles are larger than Pillow unpacks: their pixels are sound, and all we want."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import PngImagePlugin

from kcv.errors import ImageError

MOST_UNPACKED: Final = 64 * 2**20
"""Bytes that the texts and profiles of a file may unpack to."""

_PACKED = (b"zTXt", b"iTXt", b"iCCP")
_SIGNATURE = 8  # bytes


def without_large_texts(content: bytes) -> bytes:
    """Returns a file without the chunks that hold more than Pillow unpacks.

    Raises:
        ImageError: they unpack to more than `MOST_UNPACKED`.
    """
    kept, left = [content[:_SIGNATURE]], MOST_UNPACKED
    start = _SIGNATURE
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        chunk = content[start : start + 12 + length]
        start += len(chunk)
        if kind in _PACKED:
            size = _unpacked(chunk[8:-4], left)
            left -= size
            if left < 0:
                raise ImageError(f"its texts and profiles unpack to more than {MOST_UNPACKED:,} bytes.")
            if size > PngImagePlugin.MAX_TEXT_CHUNK:
                continue
        kept.append(chunk)
    return b"".join(kept)


def ignore_large_texts(image: PngImagePlugin.PngImageFile) -> None:
    """Makes an opened image pass over texts behind its pixels that are larger than Pillow unpacks."""
    if image.png is not None:
        for kind in _PACKED:
            name = f"chunk_{kind.decode()}"
            setattr(image.png, name, _lenient(getattr(image.png, name)))


def _lenient(read: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    def read_or_pass(position: int, length: int) -> bytes:
        try:
            return read(position, length)
        except ValueError:  # it was read, but is too large to be unpacked
            return b""

    return read_or_pass


def _unpacked(data: bytes, most: int) -> int:
    """Returns the size of a packed text or profile; more than `most` where it is larger, 0 where it is not packed."""
    start = data.find(b"\0")
    for begin in (start + 2, *_after_languages(data, start)):
        size, unpacker, rest = 0, zlib.decompressobj(), data[begin:]
        try:
            while rest and size <= most:
                size += len(unpacker.decompress(rest, 2**20))
                rest = unpacker.unconsumed_tail
        except zlib.error:
            continue
        return size
    return 0


def _after_languages(data: bytes, start: int) -> tuple[int, ...]:
    """Returns where the text of an iTXt chunk begins: behind two flags, a language and a translated keyword."""
    language = data.find(b"\0", start + 3)
    keyword = data.find(b"\0", language + 1) if language >= 0 else -1
    return (keyword + 1,) if keyword >= 0 else ()
