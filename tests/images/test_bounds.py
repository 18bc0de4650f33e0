"""What an image may cost to decode, and damage that does not matter."""

from __future__ import annotations

import io
import struct
import threading
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from variants import variants

from kcv import images
from kcv.errors import ImageError
from kcv.images import jpeg, opening
from kcv.images.decoding import extent, to_eight_bits, turned

Array = np.ndarray[Any, np.dtype[np.uint8]]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def noise(height: int, width: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(size: int) -> bytes:
    return zlib.compress(np.random.default_rng(0).integers(32, 126, 10**5, dtype=np.uint8).tobytes() * (size // 10**5))


TEXTS = {
    "zTXt": b"workflow\0\0",
    "iTXt": b"XML:com.adobe.xmp\0\1\0\0\0",
    "iTXt of a language": b"words\0\1\0de\0Worte\0",
    "iCCP": b"scanner\0\0",
}


@pytest.mark.parametrize("behind", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_png_of_much_metadata_is_its_pixels(kind: str, behind: bool) -> None:
    pixels = noise(48, 64)
    png = encoded(Image.fromarray(pixels), "PNG")
    at = png.index(b"IEND" if behind else b"IDAT") - 4
    large = chunk(kind[:4].encode(), TEXTS[kind] + packed(2_000_000))
    assert np.array_equal(images.decode(png[:at] + large + png[at:]), pixels)
    assert images.dimensions(png[:at] + large + png[at:]) == (48, 64)


@pytest.mark.parametrize("kind", variants(TEXTS, fast=1))
def test_metadata_that_never_ends_is_refused(kind: str) -> None:
    png = encoded(Image.fromarray(noise(8, 8)), "PNG")
    at = png.index(b"IDAT") - 4
    large = chunk(kind[:4].encode(), TEXTS[kind] + packed(30_000_000))
    with pytest.raises(ImageError, match="unpack to more than 67,108,864 bytes"):
        images.decode(png[:at] + 3 * large + png[at:])


def ramp(height: int, width: int) -> Image.Image:
    levels = np.indices((height, width)).sum(0)[..., None] // np.array([5, 6, 7])
    return Image.fromarray((levels % 256).astype(np.uint8))


JPEGS = {
    "plain": {},
    "progressive": {"progressive": True},
    "full colour": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 4},
    "tables of its own": {"optimize": True},
}


@pytest.mark.parametrize("size", [(48, 64), (37, 53), (240, 320)])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_without_its_end_marker_is_whole_and_any_shorter_one_is_not(kind: str, size: tuple[int, int]) -> None:
    whole = encoded(ramp(*size), "JPEG", quality=90, **JPEGS[kind])
    pixels = images.decode(whole)
    for cut in (1, 2):
        assert np.array_equal(images.decode(whole[:-cut]), pixels)
        assert np.array_equal(images.load(whole[:-cut], 16, "squash"), images.load(whole, 16, "squash"))
    for cut in (*range(3, 60, 4), len(whole) // 3, len(whole) // 2):
        try:
            cut_short = images.decode(whole[:-cut])
        except ImageError:
            continue
        # A few bits of one coefficient may be missing where the image is whole all the same.
        assert cut == 3
        assert np.abs(cut_short.astype(int) - pixels).max() <= 1


def test_a_progressive_jpeg_that_lacks_whole_scans_is_cut_short() -> None:
    whole = encoded(ramp(64, 64), "JPEG", progressive=True)
    starts = [segment.end - len(segment.data) - 4 for segment in jpeg.segments(whole) if segment.marker == 0xDA]
    assert len(starts) > 5
    for start in starts[1:]:
        with pytest.raises(ImageError):
            images.decode(whole[:start])


def test_bytes_behind_a_jpeg_do_not_matter() -> None:
    whole = encoded(ramp(40, 40), "JPEG")
    assert np.array_equal(images.decode(whole + bytes(1000)), images.decode(whole))


def scanned(side: int, scans: int, *, progressive: bool) -> bytes:
    """A grey JPEG of one colour, whose scans each go over it again."""

    def segment(marker: int, data: bytes) -> bytes:
        return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data

    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    components = b"\1\x11\0" if progressive else b"\1\x11\0\2\x11\0\3\x11\0"
    head += segment(
        0xC2 if progressive else 0xC0, struct.pack(">BHHB", 8, side, side, len(components) // 3) + components
    )
    head += segment(0xC4, b"\0\1" + bytes(15) + b"\0") + segment(0xC4, b"\x10\1" + bytes(15) + b"\0")
    first = segment(0xDA, b"\1\1\0\0\0\0") if progressive else segment(0xDA, b"\1\1\0\0\x3f\0")
    later = segment(0xDA, b"\1\1\0\1\x3f\x10") if progressive else first
    return head + first + b"\x55" + segment(0xFE, b"\xff\xd9") + (later + b"\x55") * scans + b"\xff\xd9"


@pytest.mark.parametrize("progressive", [True, False])
@pytest.mark.parametrize(("side", "scans"), [(13_000, 50), (64, 1000)])
def test_scans_are_counted_before_any_is_decoded(side: int, scans: int, progressive: bool) -> None:
    with pytest.raises(ImageError, match=rf"{side}x{side} pixels in {scans + 1:,} scans"):
        images.load(scanned(side, scans, progressive=progressive), 32, "squash")


def tiled(width: int, height: int, tile: int) -> bytes:
    values = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1), (284, 3, 1),
              (322, 4, tile), (323, 4, tile), (324, 4, 0), (325, 4, 0)]  # fmt: skip
    data = zlib.compress(bytes(tile * tile))
    begin = 8 + 2 + 12 * len(values) + 4
    entries = {324: begin, 325: len(data)}
    ifd = b"".join(struct.pack("<HHII", tag, kind, 1, entries.get(tag, value)) for tag, kind, value in values)
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + ifd + bytes(4) + data


def test_tiles_may_be_larger_than_a_small_image_but_not_by_far() -> None:
    assert images.decode(tiled(16, 16, 512)).shape == (16, 16, 3)
    with pytest.raises(ImageError, match="tiles of 8000x8000 pixels are more than its 16x16 need"):
        images.decode(tiled(16, 16, 8000))


def test_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST_BYTES", 100)
    monkeypatch.setattr(opening, "SMALL", 10)
    inside, most = [], []
    gate = threading.Barrier(6)

    def take(size: int) -> None:
        gate.wait()
        with opening.room(size), opening.room(size):  # the same thread does not wait for itself
            inside.append(min(size, 100))
            most.append(sum(inside))
            threading.Event().wait(0.01)
            inside.remove(min(size, 100))

    threads = [threading.Thread(target=take, args=(size,)) for size in (60, 60, 40, 500, 30, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert max(most) <= 100
    assert len(most) == 6
    assert opening._held == 0


DEEP = {
    "16 bits": np.arange(600 * 500).reshape(600, 500).astype(np.uint16),
    "32 bits": (np.arange(600 * 500).reshape(600, 500) - 1000).astype(np.int32),
    "floats of 1": np.linspace(-0.1, 1, 600 * 500, dtype=np.float32).reshape(600, 500),
    "floats of 255": np.linspace(-9, 300, 600 * 500, dtype=np.float32).reshape(600, 500),
}


@pytest.mark.parametrize("kind", DEEP)
def test_bands_make_no_difference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(DEEP[kind])
    whole = np.asarray(to_eight_bits(image))
    monkeypatch.setattr("kcv.images.decoding._BAND_PIXELS", 7 * 500)
    assert np.array_equal(np.asarray(to_eight_bits(image)), whole)
    assert extent(image) == (float(DEEP[kind].min()), float(DEEP[kind].max()))


def test_bands_of_transparency_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 4), dtype=np.uint8), "RGBA")
    palette = colours.convert("RGB").quantize(16)
    palette.info["transparency"] = bytes(range(0, 256, 16))
    for image in (colours, colours.convert("LA"), palette):
        whole = np.asarray(to_eight_bits(image))
        monkeypatch.setattr("kcv.images.decoding._BAND_PIXELS", 7 * 50)
        assert np.array_equal(np.asarray(to_eight_bits(image)), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_are_those_of_pillow(orientation: int) -> None:
    image = Image.fromarray(noise(5, 7))
    image.getexif()[0x0112] = orientation
    assert np.array_equal(np.asarray(turned(image, orientation)), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("mode", images.RESIZE_MODES)
def test_grey_is_resized_as_its_colours_are(mode: str) -> None:
    grey = Image.fromarray(noise(61, 83)[:, :, 0])
    data = encoded(grey, "PNG")
    expected = images.resize(np.asarray(grey.convert("RGB")), 24, mode)
    assert np.array_equal(images.load(data, 24, mode), expected)


def test_a_float_image_takes_little_beside_itself() -> None:
    image = Image.new("F", (3000, 3000), 0.5)
    tracemalloc.start()  # NumPy's arrays; Pillow's own memory is not seen
    to_eight_bits(image)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 9_000_000 + 24 * 2**21  # the result, and a band or two
