"""Reads PNG files with texts or colour profiles larger than Pillow's limit, because only the pixels are needed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Final

from PIL import PngImagePlugin

from kcv.errors import ImageError

MOST_UNPACKED: Final = 64 * 2**20
"""The most bytes that the texts and profiles of a file may unpack to."""

_PACKED = (b"zTXt", b"iTXt", b"iCCP")
_SIGNATURE = 8  # bytes


def without_large_texts(content: bytes) -> bytes:
    """Returns a file without the text and profile chunks that exceed Pillow's limit.

    Raises:
        ImageError: the texts and profiles unpack to more than `MOST_UNPACKED`.
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
    """Makes an opened image skip texts after its pixels that exceed Pillow's limit."""
    if image.png is not None:
        for kind in _PACKED:
            name = f"chunk_{kind.decode()}"
            setattr(image.png, name, _lenient(getattr(image.png, name)))


def _lenient(read: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    def read_or_pass(position: int, length: int) -> bytes:
        try:
            return read(position, length)
        except ValueError:  # the chunk was read, but is too large to unpack
            return b""

    return read_or_pass


def _unpacked(data: bytes, most: int) -> int:
    """Returns the unpacked size of a text or profile: above `most` if it is larger, 0 if it is not compressed."""
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
    """Returns the offset of the text in an iTXt chunk: after two flags, a language and a translated keyword."""
    language = data.find(b"\0", start + 3)
    keyword = data.find(b"\0", language + 1) if language >= 0 else -1
    return (keyword + 1,) if keyword >= 0 else ()
