"""Parses the markers of a JPEG file, to count its scans and to repair a missing end marker.

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
"""The most scans of an image; encoders write about ten."""
MOST_SCANNED: Final = 3_000_000_000
"""The most pixels times scans. Each scan processes the whole image again, even if it has only a few bytes."""

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
"""Test data to put in place of possibly missing data; see `mended`."""


@dataclass(frozen=True)
class Segment:
    """A marker and its segment.

    Attributes:
        marker: second byte of the marker.
        data: content of the segment, without its length.
        end: offset at which the segment ends.
    """

    marker: int
    data: bytes
    end: int


def segments(content: bytes, start: int = 0) -> Iterator[Segment]:
    """Yields the segments from an offset to the end marker; skips the coded data of scans."""
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
    """Rejects an image with too many scans to decode.

    Args:
        stream: the file, positioned where `image` left it, after the header of the first scan.
        image: the opened image.

    Raises:
        ImageError: there are too many scans.
    """
    begin = stream.tell()
    length = 8 + 2 * image.layers
    stream.seek(max(0, begin - length))
    header = stream.read(length)
    # One scan of all components, as in nearly all files. Nothing after it is decoded.
    single = header.rfind(b"\xff\xda") == 0 and header[4] == image.layers and "progressive" not in image.info
    if not single:
        stream.seek(0)
        scans = 1 + sum(segment.marker == _SCAN for segment in segments(stream.read(), begin))
        if scans > min(MOST_SCANS, max(1, MOST_SCANNED // (image.width * image.height))):
            raise ImageError(f"{image.width}x{image.height} pixels in {scans:,} scans are more than is decoded.")
    stream.seek(begin)


def lacks_end(stream: Any) -> bool:
    """Returns whether a file does not end with the end marker; restores the position of the stream."""
    place = stream.tell()
    stream.seek(-2, io.SEEK_END)
    tail = stream.read(2)
    stream.seek(place)
    return bool(tail != _END_MARKER)


def mended(content: bytes) -> bytes | None:
    """Returns a file with its missing end marker added; None if it has one, or if more is missing.

    The image is complete if the decoded pixels do not depend on the data appended to it: a decoder that still needs
    data turns it into pixels. Scans that are missing completely are detected from the headers.
    """
    content = content.rstrip(b"\xff")  # half of a marker or of a stuffed byte
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
    """Returns whether a file has no end marker, but scans for all bits of all coefficients of all components."""
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
            if not bits & 0x0F:  # the scan includes the lowest bit
                for component in data[1 : 1 + 2 * count : 2]:
                    missing.get(component, set()).difference_update(range(first, last + 1))
    return bool(missing) and not any(missing.values())
