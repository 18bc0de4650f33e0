"""Images with one piece of their structure (a chunk, a segment, a tag) removed, doubled, made huge or emptied."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from kcv.images import jpeg


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


def png_mutants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields a PNG with each chunk changed, and those that it might have."""
    pieces = png_pieces(content)
    pieces[1:1] = [(b"zTXt", b"a\0\0" + zlib.compress(b"text")), (b"iTXt", b"a\0\1\0en\0b\0" + zlib.compress(b"text"))]
    pieces[1:1] = [(b"gAMA", bytes(4)), (b"acTL", struct.pack(">II", 2, 0)), (b"pHYs", bytes(9)), (b"eXIf", b"II*\0")]
    for number, (kind, data) in enumerate(pieces):
        before, after = pieces[:number], pieces[number + 1 :]
        yield f"without {kind!r}", png_of(before + after)
        yield f"two {kind!r}", png_of([*before, pieces[number], *pieces[number:]])
        yield f"{kind!r} turned", png_of([*after, pieces[number], *before])
        for length in (2**32 - 1, 2**31 - 1, len(data) + 1, 0):
            yield f"{kind!r} of {length}", png_of(pieces, length, number)
        for other in changed(data):
            yield f"{kind!r} {other[:20]!r}", png_of([*before, (kind, other), *after])


def jpeg_mutants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields a JPEG with each segment changed."""
    pieces, start = [], 2
    for segment in jpeg.segments(content):
        pieces.append(content[start : segment.end])  # with the coded data before it
        start = segment.end
    assert b"\xff\xd8" + b"".join(pieces) == content
    for number, piece in enumerate(pieces):
        before, after = pieces[:number], pieces[number + 1 :]
        for made in ([], [piece] * 2, [piece] * 50, [piece[: len(piece) // 2]], *([data] for data in changed(piece))):
            yield f"{piece[:6]!r} {len(made)}", b"\xff\xd8" + b"".join([*before, *made, *after])
        marker = piece.rfind(b"\xff", 0, len(piece) - 1) if len(piece) > 4 else 0
        for length in (0, 1, 2, 0xFFFF):
            cut = piece[: marker + 2] + struct.pack(">H", length) + piece[marker + 4 :]
            yield f"{piece[:6]!r} of {length}", b"\xff\xd8" + b"".join([*before, cut, *after])


def tiff_mutants(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields a TIFF with each tag changed."""
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
        yield f"without {name}", made(before + after)
        yield f"two {name}", made([*before, tag, *tags[number:]])
        for other in (0, 1, 2, 3, 4, 5, 12, 13, 99):
            yield f"{name} of kind {other}", made([*before, struct.pack("<HH", name, other) + tag[4:], *after])
        for other in (0, 2, length + 1, 10**6, 2**32 - 1):
            yield f"{name}, {other} of them", made([*before, struct.pack("<HHI", name, kind, other) + tag[8:], *after])
        for value in (0, 1, 3, 255, 20_000, 2**16 - 1, 2**31 - 1, 2**32 - 1, len(content), place):
            yield f"{name} is {value}", made([*before, tag[:8] + struct.pack("<I", value), *after])
