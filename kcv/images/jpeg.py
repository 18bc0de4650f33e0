"""What a JPEG file is made of, marker by marker: how many scans it has, and whether only its end is missing.

Source: ITU-T T.81, annexes B (markers) and G (progressive scans).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import JpegImagePlugin

from kcv.errors import ImageError

MOST_SCANS: Final = 500
"""Encoders write about ten."""
MOST_SCANNED: Final = 3_000_000_000
"""Pixels times scans. Each scan goes over the whole image again, however few bytes it has."""

_END, _SCAN, _START = 0xD9, 0xDA, 0xD8
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")  # stuffed bytes, restarts and TEM have no segment
_END_MARKER = b"\xff\xd9"
_TAILS = (
    b"",
    bytes(range(1, 0xFF)) * 4,
    b"\x55\xaa\x0f\xc3" * 256,
    b"".join(bytes([0xFF, 0xD0 + number % 8, *range(0x80, 0x90)]) for number in range(24)),  # restarts
    bytes(range(0xFE, 0x80, -1)) * 8,
    b"\x36\xdb\x6d" * 300,
)
"""What may stand in the place of missing data."""


@dataclass(frozen=True)
class Segment:
    """A marker and what belongs to it.

    Attributes:
        marker: its second byte.
        data: of the segment, without its length.
        end: where the file goes on.
    """

    marker: int
    data: bytes
    end: int


def segments(content: bytes, start: int = 0) -> Iterator[Segment]:
    """Yields the segments from a place in a file on, to the end marker; skips the coded data of scans."""
    while found := _MARKER.search(content, start):
        marker, start = found[1][0], found.end()
        if marker == _START:
            continue
        length = 0 if marker == _END else int.from_bytes(content[start : start + 2], "big")
        yield Segment(marker, content[start + 2 : start + length], start + length)
        if marker == _END:
            return
        start += max(2, length)


def check_scans(stream: Any, image: JpegImagePlugin.JpegImageFile) -> None:
    """Refuses an image of more scans than a decoder should be asked for.

    Args:
        stream: of the file, where `image` has left it, behind the header of the first scan.
        image: the opened image.

    Raises:
        ImageError: there are too many.
    """
    begin = stream.tell()
    length = 8 + 2 * image.layers
    stream.seek(max(0, begin - length))
    header = stream.read(length)
    # One scan of all components: nearly all files. Nothing behind it is decoded.
    single = header.rfind(b"\xff\xda") == 0 and header[4] == image.layers and "progressive" not in image.info
    if not single:
        stream.seek(0)
        scans = 1 + sum(segment.marker == _SCAN for segment in segments(stream.read(), begin))
        if scans > min(MOST_SCANS, max(1, MOST_SCANNED // (image.width * image.height))):
            raise ImageError(f"{image.width}x{image.height} pixels in {scans:,} scans are more than is decoded.")
    stream.seek(begin)


def lacks_end(stream: Any) -> bool:
    """Tells whether a file may lack the end marker: it stands not at its end, and the stream is back where it was."""
    place = stream.tell()
    stream.seek(-2, io.SEEK_END)
    tail = stream.read(2)
    stream.seek(place)
    return bool(tail != _END_MARKER)


def mended(content: bytes) -> bytes | None:
    """Returns a file with the end marker that it lacks; None where it has one, or where more is missing.

    All of the image is there if the decoder does the same whatever stands in the place of the end: where it still
    wants data, it makes pixels of what it gets. Scans that are missing as a whole are known from their headers.
    """
    content = content.rstrip(b"\xff")  # half of a marker, or of a stuffed byte
    if not _has_all_scans(content):
        return None
    pixels = None
    for tail in _TAILS:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(content + tail + _END_MARKER), "") as image:
            image.load()
            decoded = np.array(image)
        if pixels is not None and not np.array_equal(pixels, decoded):
            return None
        pixels = decoded
    return content + _END_MARKER


def _has_all_scans(content: bytes) -> bool:
    """Tells whether a file has no end marker, but scans for all bits of all coefficients of all components."""
    missing: dict[int, set[int]] = {}  # coefficients by component
    for segment in segments(content):
        data = segment.data
        if segment.marker == _END or (len(data) < 6 and segment.marker in _FRAMES | {_SCAN}):
            return False
        if segment.marker in _FRAMES:
            missing = {component: set(range(64)) for component in data[6 : 6 + 3 * data[5] : 3]}
        elif segment.marker == _SCAN:
            count = data[0]
            first, last, bits = data[-3:]
            if not bits & 0x0F:  # the lowest bit is in it
                for component in data[1 : 1 + 2 * count : 2]:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())
