"""Opens untrusted image files: only known formats, bounded sizes and memory, and one line per error."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import (  # importing a plugin registers it in Image.OPEN
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from kcv.errors import FormatError, ImageError, one_line
from kcv.images import jpeg, png

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""The supported formats; Pillow's other formats are not safe for untrusted files (EPS runs Ghostscript, ...)."""

MAX_PIXELS: Final = 178_956_970
"""An image with more pixels (half a GiB as RGB) counts as a decompression bomb; Pillow's error has the same limit."""

_MOST_TILE_BYTES = 64 * 2**20  # of a tile in a small TIFF
_PIXEL_BYTES = 4  # in most modes
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}  # in other modes

# Damaged metadata of valid pixels needs no warning. Set once, because `catch_warnings` is not thread-safe.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Pillow already warns at half of the limit, which is still an acceptable size.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, module=r"PIL\.")


@contextmanager
def opened(source: Path | bytes, name: str | None = None, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Opens an image for the duration of the block, and turns any error of a decoder in it into one line.

    Args:
        source: a file, or the bytes of a file.
        name: name of the image in error messages; by default its path.
        max_pixels: the most pixels of the image, up to `MAX_PIXELS`.

    Raises:
        ImageError: the image cannot be opened, or decoding it in the block fails.
    """
    label = name or (str(source) if isinstance(source, Path) else "image")
    try:
        with _stream(source) as stream:
            image = _open(stream, min(max_pixels, MAX_PIXELS))
            with room(_bytes_of(image)):
                yield image
    except ImageError as error:
        raise type(error)(f"{label}: {error}") from None
    except Exception as error:  # on damaged bytes, decoders raise many kinds of errors (struct.error, SyntaxError, ...)
        raise ImageError(f"{label}: cannot be read as an image ({one_line(error)}).") from error


@contextmanager
def _stream(source: Path | bytes) -> Iterator[Any]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    if not source.is_file():  # this check also prevents `open` from blocking on a named pipe
        if not source.is_dir():
            raise ImageError("no such file.")
        readable = os.access(source, os.R_OK | os.X_OK)
        raise ImageError("is a folder, not an image." if readable else "a folder that cannot be read.")
    with source.open("rb") as stream:
        yield stream


def _open(stream: Any, max_pixels: int) -> Image.Image:
    """Opens an image like `Image.open`, but only in `FORMATS` and with kcv's size limit.

    Pillow's own check warns between half of its limit and the limit. Warnings cannot be caught or silenced safely in a
    thread, so the plugins are called directly.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageError("the file is empty.")
    for format_name in FORMATS:
        factory, accept = Image.OPEN[format_name]
        if accept is None or accept(prefix) is not True:
            continue
        stream.seek(0)
        image = _made(factory, stream, format_name)
        if image.width * image.height > max_pixels:
            raise ImageError(f"{image.width}x{image.height} pixels are more than the allowed {max_pixels:,}.")
        looked_at: Image.Image = _looked_at(image, stream)
        return looked_at
    raise FormatError(f"not an image in a known format ({', '.join(FORMATS)}).")


def _made(factory: Any, stream: Any, format_name: str) -> Any:
    """Returns the image that a plugin opens from a stream."""
    try:
        return factory(stream, "")
    except ValueError:
        if format_name != "PNG":
            raise
        # Large texts before the pixels are no reason to reject the image.
        stream.seek(0)
        return factory(io.BytesIO(png.without_large_texts(stream.read())), "")


def _looked_at(image: Image.Image, stream: Any) -> Image.Image:
    """Checks the cost of decoding an image, repairs harmless damage, and returns the image to use."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        jpeg.check_scans(stream, image)
        if jpeg.lacks_end(stream):
            place = stream.tell()
            stream.seek(0)
            with room(_bytes_of(image)):
                whole = jpeg.mended(stream.read())
            if whole is not None:
                return JpegImagePlugin.JpegImageFile(io.BytesIO(whole), "")
            stream.seek(place)
    elif isinstance(image, PngImagePlugin.PngImageFile):
        png.ignore_large_texts(image)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image)
    return image


def _check_tiles(image: TiffImagePlugin.TiffImageFile) -> None:
    """Rejects a TIFF with tiles far larger than the image, because each tile is unpacked completely."""
    sides = [image.tag_v2.get(tag, 1) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH)]
    if not all(isinstance(side, int) for side in sides):
        raise ImageError("its tiles have no size.")
    tile, whole = sides[0] * sides[1] * _PIXEL_BYTES, image.width * image.height * _PIXEL_BYTES
    if tile > max(_MOST_TILE_BYTES, 2 * whole):
        raise ImageError(f"tiles of {sides[0]}x{sides[1]} pixels are more than its {image.width}x{image.height} need.")


def _bytes_of(image: Image.Image) -> int:
    """Returns the approximate number of bytes for decoding an image: in its own mode and as RGB."""
    progressive = 6 if "progressive" in image.info else 0  # its coefficients
    return image.width * image.height * (_BYTES.get(image.mode, _PIXEL_BYTES) + _PIXEL_BYTES + progressive)


MOST_BYTES: Final = 2**30
"""The most bytes of large images decoded at the same time; a larger image is decoded alone."""
SMALL: Final = 32 * 2**20
"""Bytes up to which an image need not wait; one such image per thread is harmless."""

_changed = threading.Condition()
_held = 0
_own = threading.local()


@contextmanager
def room(size: int) -> Iterator[None]:
    """Waits until the images in other threads leave enough memory, and reserves it for the duration of the block.

    Args:
        size: bytes that the image will need.
    """
    global _held
    if size <= SMALL or getattr(_own, "waits", False):  # a thread must not wait for itself
        yield
        return
    size = min(size, MOST_BYTES)
    with _changed:
        _changed.wait_for(lambda: _held + size <= MOST_BYTES)
        _held += size
    _own.waits = True
    try:
        yield
    finally:
        _own.waits = False
        with _changed:
            _held -= size
            _changed.notify_all()


def _forget() -> None:
    """Resets the reservations in a forked process, which does not contain the other threads."""
    global _changed, _held
    _changed, _held = threading.Condition(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
