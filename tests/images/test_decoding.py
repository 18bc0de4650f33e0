"""Images as people and programs really write them, whole and damaged, to RGB."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from sklearn.datasets import load_sample_image

from kcv import images
from kcv.errors import ImageError

Array = np.ndarray[Any, np.dtype[np.uint8]]


def encoded(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def noise(height: int, width: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"IDAT" + zlib.compress(b"\0")
    chunks = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, content)
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


def palette_with_transparency() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=0)


def half_transparent() -> bytes:
    return encoded(Image.new("RGBA", (2, 2), (0, 100, 200, 128)))


MODES: dict[str, tuple[Callable[[], bytes], tuple[int, int, int], int]] = {
    "L": (lambda: encoded(Image.new("L", (2, 2), 100)), (100, 100, 100), 0),
    "1": (lambda: encoded(Image.new("1", (2, 2), 1)), (255, 255, 255), 0),
    "LA, clear": (lambda: encoded(Image.new("LA", (2, 2), (100, 0))), (255, 255, 255), 0),
    "RGBA, half": (half_transparent, (127, 177, 227), 1),
    "P, clear": (palette_with_transparency, (255, 255, 255), 0),
    "RGB, one colour clear": (
        lambda: encoded(Image.new("RGB", (2, 2), (9, 8, 7)), transparency=(9, 8, 7)), (255, 255, 255), 0,
    ),
    "16-bit, white": (lambda: encoded(Image.fromarray(np.full((2, 2), 65535, np.uint16))), (255, 255, 255), 0),
    "16-bit, grey": (lambda: encoded(Image.fromarray(np.full((2, 2), 32896, np.uint16))), (128, 128, 128), 0),
    "32-bit": (lambda: encoded(Image.fromarray(np.full((2, 2), 32896, np.int32)), "TIFF"), (128, 128, 128), 0),
    "float 0-1": (lambda: encoded(Image.new("F", (2, 2), 0.5), "TIFF"), (128, 128, 128), 0),
    "float 0-255": (lambda: encoded(Image.new("F", (2, 2), 200.0), "TIFF"), (200, 200, 200), 0),
    "float nan": (lambda: encoded(Image.new("F", (2, 2), float("nan")), "TIFF"), (0, 0, 0), 0),
    "CMYK": (lambda: encoded(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF"), (0, 255, 255), 0),
    "CMYK, JPEG": (lambda: encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), (0, 255, 255), 3),
    "YCbCr": (lambda: encoded(Image.new("YCbCr", (8, 8), (76, 85, 255)), "JPEG"), (254, 0, 0), 3),
    "WebP": (lambda: encoded(Image.new("RGB", (8, 8), (40, 50, 60)), "WEBP", lossless=True), (40, 50, 60), 0),
    "BMP": (lambda: encoded(Image.new("RGB", (2, 2), (40, 50, 60)), "BMP"), (40, 50, 60), 0),
    "PPM": (lambda: encoded(Image.new("RGB", (2, 2), (40, 50, 60)), "PPM"), (40, 50, 60), 0),
}  # fmt: skip


@pytest.mark.parametrize("case", MODES)
def test_every_mode_becomes_the_right_rgb(case: str) -> None:
    make, colour, tolerance = MODES[case]
    pixels = images.decode(make())
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert np.abs(pixels[0, 0].astype(int) - colour).max() <= tolerance


def test_lossless_pixels_come_back_as_they_were(tmp_path: Path) -> None:
    pixels = noise(5, 7)
    path = tmp_path / "ein Bild ä.png"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(images.decode(path), pixels)
    assert np.array_equal(images.decode(path.read_bytes()), pixels)
    assert images.dimensions(path) == (5, 7)
    assert images.decode(path).flags.writeable, "torch.from_numpy warns about arrays that are not"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = noise(3, 5)
    undo: dict[int, Callable[[Array], Array]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](upright))
    assert np.array_equal(images.decode(encoded(Image.fromarray(stored), exif=exif)), upright)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format_name in ("GIF", "WEBP"):
        content = encoded(frames[0], format_name, save_all=True, append_images=frames[1:])
        red, _, blue = images.decode(content)[0, 0]
        assert red > 240
        assert blue < 15


def test_arrays_are_taken_as_pixels() -> None:
    rgb = noise(2, 3)
    assert images.decode(rgb) is rgb
    assert np.array_equal(images.decode(rgb[:, :, 0]), np.repeat(rgb[:, :, :1], 3, axis=2))
    assert np.array_equal(images.decode(rgb[:, :, :1]), np.repeat(rgb[:, :, :1], 3, axis=2))
    clear = np.zeros((2, 2, 4), np.uint8)
    assert (images.decode(clear) == 255).all()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2, 3), np.uint8), np.zeros(3, np.uint8)]
)
def test_arrays_that_are_no_image_are_refused(array: Array) -> None:
    with pytest.raises(ImageError, match=r"^x: pixels must"):
        images.decode(array, name="x")


def jpeg() -> bytes:
    return encoded(Image.fromarray(noise(64, 64)), "JPEG")


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"<html>404 not found</html>", "known format"),
    "truncated": (lambda: jpeg()[: len(jpeg()) // 2], "truncated"),
    "header only": (lambda: jpeg()[:20], "cannot be read"),
    "png cut": (lambda: encoded(Image.fromarray(noise(32, 32)))[:600], "cannot be read"),
    "bomb": (lambda: huge_png(20_000, 20_000), "20000x20000 pixels"),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    make, words = BROKEN[case]
    path = tmp_path / "photo.jpg"
    path.write_bytes(make())
    with pytest.raises(ImageError) as caught:
        images.decode(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_raise_anything_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    formats = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
    content = bytearray(encoded(Image.fromarray(noise(16, 16)), formats[seed % len(formats)]))
    for position in random.integers(0, min(len(content), 200), 6):
        content[position] = random.integers(256)
    try:
        pixels = images.decode(bytes(content), name="x")
    except ImageError as error:
        assert str(error).startswith("x: ")
    else:
        assert pixels.shape[2] == 3


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        images.decode(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="is a folder"):
        images.decode(tmp_path)


def test_a_large_photo_below_the_limit_is_no_bomb() -> None:
    # 100 million pixels: Pillow's own open() warns here, and warnings are errors in these tests.
    assert images.dimensions(huge_png(10_000, 10_000)) == (10_000, 10_000)


def test_damaged_metadata_neither_fails_nor_warns() -> None:
    content = encoded(Image.fromarray(noise(8, 8)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff garbage")
    program = "import sys; from kcv import images; print(images.decode(sys.stdin.buffer.read()).shape)"
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert done.stdout.split() == b"(8, 8, 3)".split()
    assert done.stderr == b""


def test_threads_leave_the_warning_filters_alone() -> None:
    contents = [jpeg(), huge_png(20_000, 20_000)] * 20

    def decode(content: bytes) -> str:
        try:
            return str(images.decode(content).shape)
        except ImageError:
            return "refused"

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decode, contents)) == ["(64, 64, 3)", "refused"] * 20
    assert list(warnings.filters) == before


def test_resize_gives_back_what_already_fits() -> None:
    pixels = noise(8, 8)
    for mode in images.RESIZE_MODES:
        assert images.resize(pixels, 8, mode) is pixels


def test_resize_is_antialiased() -> None:
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = np.repeat(checkers[:, :, None], 3, axis=2).astype(np.uint8)
    small = images.resize(pixels, 8, "squash")
    assert np.abs(small.astype(int) - 127).max() <= 3, "each pixel is the mean of black and white"


def three_stripes() -> Array:
    """A wide image, 10x30: red, green, blue from left to right."""
    pixels = np.zeros((10, 30, 3), np.uint8)
    for i in range(3):
        pixels[:, 10 * i : 10 * i + 10, i] = 255
    return pixels


def test_squash_keeps_all_of_the_image() -> None:
    squashed = images.resize(three_stripes(), 30, "squash")
    assert squashed.shape == (30, 30, 3)
    assert [int(squashed[15, x].argmax()) for x in (4, 15, 25)] == [0, 1, 2]


@pytest.mark.parametrize("turned", [False, True])
def test_crop_keeps_the_middle(turned: bool) -> None:
    stripes = three_stripes().swapaxes(0, 1) if turned else three_stripes()
    cropped = images.resize(np.ascontiguousarray(stripes), 10, "crop")
    assert (cropped == [0, 255, 0]).all()


def test_crop_is_resize_of_the_shorter_side_then_cut() -> None:
    pixels = noise(40, 60)
    reference = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR))[:, 5:25]
    assert np.abs(images.resize(pixels, 20, "crop").astype(int) - reference).max() <= 1


def test_letterbox_pads_with_mid_grey() -> None:
    boxed = images.resize(three_stripes(), 30, "letterbox")
    assert (boxed[:10] == 128).all()
    assert (boxed[20:] == 128).all()
    assert np.array_equal(boxed[10:20], three_stripes())


@pytest.mark.parametrize("mode", images.RESIZE_MODES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_shapes_are_fine(mode: str, shape: tuple[int, int]) -> None:
    pixels = images.load(encoded(Image.fromarray(noise(*shape))), 32, mode)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="stretch"):
        images.resize(noise(2, 2), 8, "stretch")


@pytest.mark.parametrize("mode", images.RESIZE_MODES)
@pytest.mark.parametrize("shape", [(900, 1200), (1203, 641), (427, 640), (70, 70), (600, 90)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_reduced_by_its_decoder_without_a_visible_difference(
    mode: str, shape: tuple[int, int], orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    photograph.resize((shape[1], shape[0]), Image.Resampling.LANCZOS).save(path, quality=92, exif=exif)
    ours = images.load(path, 64, mode).astype(int)
    exact = images.resize(images.decode(path), 64, mode).astype(int)
    assert ours.shape == (64, 64, 3)
    assert np.abs(ours - exact).mean() < 0.4
    assert np.abs(ours - exact).max() <= 8


def test_the_decoder_does_the_first_part_of_a_large_reduction(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def watched(self: Any, mode: Any, size: tuple[int, int]) -> Any:
        asked.append(size)
        return draft(self, mode, size)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", watched)
    large = Image.new("RGB", (3200, 2400))
    images.load(encoded(large, "JPEG"), 96, "squash")
    images.load(encoded(large, "JPEG"), 224, "letterbox")
    images.load(encoded(large, "JPEG"), 900, "crop")
    images.load(encoded(large, "PNG"), 96, "squash")
    assert asked == [(400, 300), (800, 600)]
