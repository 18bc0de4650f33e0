"""Sound pictures with one piece of their structure removed, doubled, made huge or emptied: pixels, or one line."""

from __future__ import annotations

import io
import random
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kcv import images
from kcv.errors import ImageError
from kcv.images import jpeg

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(PIXELS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(stream, kind, **({"exif": exif} if kind in ("PNG", "JPEG") else {}), **options)
    return stream.getvalue()


def check(content: bytes, what: str) -> None:
    """Reads a picture in each of the ways that there are."""
    began = time.thread_time()
    for read in (images.decode, images.dimensions, lambda data: images.load(data, 8, "crop")):
        try:
            read(content)
        except ImageError as error:
            assert "\n" not in str(error), what
    assert time.thread_time() - began < 5, what  # of the processor: nothing hangs


def changed(data: bytes) -> Iterator[bytes]:
    """Yields what may become of the content of a piece."""
    yield b""
    yield data[: len(data) // 2]
    yield bytes(len(data))
    yield b"\xff" * len(data)
    yield data * 2
    yield data + bytes(70_000)
    chance = random.Random(len(data))
    for _ in range(4):
        mutated = bytearray(data)
        if mutated:
            mutated[chance.randrange(len(mutated))] ^= 1 << chance.randrange(8)
        yield bytes(mutated)


def png_pieces(content: bytes) -> list[tuple[bytes, bytes]]:
    pieces, start = [], 8
    while start < len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        pieces.append((kind, content[start + 8 : start + 8 + length]))
        start += 12 + length
    return pieces


def png_of(pieces: list[tuple[bytes, bytes]], length: int | None = None, at: int = -1) -> bytes:
    made = b"\x89PNG\r\n\x1a\n"
    for number, (kind, data) in enumerate(pieces):
        told = length if number == at and length is not None else len(data)
        made += struct.pack(">I", told) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return made


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16", "LA"])
def test_chunks_of_a_png(mode: str) -> None:
    if mode == "I;16":
        stream = io.BytesIO()
        Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200).save(stream, "PNG")
        content = stream.getvalue()
    else:
        content = encoded("PNG", mode, icc_profile=bytes(100), **({"transparency": 3} if mode == "P" else {}))
    pieces = png_pieces(content)
    pieces[1:1] = [(b"zTXt", b"a\0\0" + zlib.compress(b"text")), (b"iTXt", b"a\0\1\0en\0b\0" + zlib.compress(b"text"))]
    pieces[1:1] = [(b"gAMA", bytes(4)), (b"acTL", struct.pack(">II", 2, 0)), (b"pHYs", bytes(9)), (b"eXIf", b"II*\0")]
    for number, (kind, data) in enumerate(pieces):
        before, after = pieces[:number], pieces[number + 1 :]
        check(png_of(before + after), f"without {kind!r}")
        check(png_of([*before, pieces[number], *pieces[number:]]), f"two {kind!r}")
        check(png_of([*after, pieces[number], *before]), f"{kind!r} turned")
        for length in (2**32 - 1, 2**31 - 1, len(data) + 1, 0):
            check(png_of(pieces, length, number), f"{kind!r} of {length}")
        for other in changed(data):
            check(png_of([*before, (kind, other), *after]), f"{kind!r} {other[:20]!r}")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_segments_of_a_jpeg(options: dict[str, Any]) -> None:
    content = encoded("JPEG", **options)
    pieces, start = [], 2
    for segment in jpeg.segments(content):
        pieces.append(content[start : segment.end])  # with the coded data before it
        start = segment.end
    assert b"\xff\xd8" + b"".join(pieces) == content
    for number, piece in enumerate(pieces):
        before, after = pieces[:number], pieces[number + 1 :]
        for made in ([], [piece] * 2, [piece] * 50, [piece[: len(piece) // 2]], *([data] for data in changed(piece))):
            check(b"\xff\xd8" + b"".join([*before, *made, *after]), f"{piece[:6]!r} {len(made)}")
        marker = piece.rfind(b"\xff", 0, len(piece) - 1) if len(piece) > 4 else 0
        for length in (0, 1, 2, 0xFFFF):
            cut = piece[: marker + 2] + struct.pack(">H", length) + piece[marker + 4 :]
            check(b"\xff\xd8" + b"".join([*before, cut, *after]), f"{piece[:6]!r} of {length}")


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_tags_of_a_tiff(compression: str) -> None:
    content = encoded("TIFF", compression=compression)
    (place,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, place)
    tags = [content[place + 2 + 12 * number : place + 14 + 12 * number] for number in range(count)]
    tail = content[place + 2 + 12 * count :]

    def made(tags: list[bytes]) -> bytes:
        # Behind the old directory, so that offsets stay right.
        new = len(content)
        directory = struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
        return content[:4] + struct.pack("<I", new) + content[8:place] + content[place:] + directory + tail

    for number, tag in enumerate(tags):
        before, after = tags[:number], tags[number + 1 :]
        name, kind, length, _ = struct.unpack("<HHII", tag)
        check(made(before + after), f"without {name}")
        check(made([*before, tag, *tags[number:]]), f"two {name}")
        for other in (0, 1, 2, 3, 4, 5, 12, 13, 99):
            check(made([*before, struct.pack("<HH", name, other) + tag[4:], *after]), f"{name} of kind {other}")
        for other in (0, 2, length + 1, 10**6, 2**32 - 1):
            check(made([*before, struct.pack("<HHI", name, kind, other) + tag[8:], *after]), f"{name}, {other} of them")
        for value in (0, 1, 3, 255, 20_000, 2**16 - 1, 2**31 - 1, 2**32 - 1, len(content), place):
            check(made([*before, tag[:8] + struct.pack("<I", value), *after]), f"{name} is {value}")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "PPM", "TIFF", "PNG", "JPEG"])
def test_random_changes(kind: str) -> None:
    content, chance = encoded(kind), random.Random(kind)
    for number in range(150):
        mutated = bytearray(content)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(min(len(mutated), 200 if number % 2 else len(mutated)))
            mutated[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        check(bytes(mutated[: chance.randrange(20, len(mutated))] if number % 5 == 0 else mutated), f"{kind} {number}")
