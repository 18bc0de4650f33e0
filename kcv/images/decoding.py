"""Decodes and resizes untrusted images to RGB uint8 arrays, in the same way for all verbs.

Training, evaluation, prediction and export all read images here, so a model always gets the same pixels. Pillow's modes
are converted band by band, because the conversion needs many bytes per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kcv.errors import ImageError
from kcv.images.opening import MAX_PIXELS, opened

RESIZE_MODES: Final = ("squash", "crop", "letterbox")
"""`squash` ignores the aspect ratio, `crop` keeps the middle square, `letterbox` pads with mid grey (128)."""

LETTERBOX_GREY: Final = 128

_LEAST_GAP: Final = 3
"""The least ratio of a JPEG's size after reduction by its decoder to the target size; the antialiased resize does the
rest. Photographs differ by 0.1 to 0.3 of 255 levels on average from a full decode."""

_ORIENTATION_TAG: Final = 0x0112


def decode(source: Path | bytes | NDArray[np.uint8], *, name: str | None = None) -> NDArray[np.uint8]:
    """Decodes one image to upright RGB.

    EXIF orientation is applied, transparency is composited on white, 16-bit grey is scaled to 8 bits, and only the
    first frame of an animation is used. 32-bit integers are read as 16-bit values; floats as 0-1 if none is above 1,
    otherwise as 0-255.

    Args:
        source: a file, the bytes of a file, or uint8 pixels [h, w], [h, w, 1], [h, w, 3] or [h, w, 4].
        name: name of the image in error messages; by default its path.

    Returns:
        uint8 [h, w, 3], writable unless `source` was an RGB array, which is returned unchanged.

    Raises:
        ImageError: the image is missing, truncated, in an unknown format, or larger than `MAX_PIXELS`.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "image")
    with opened(source, name) as image:
        return _pixels(_upright(image))


@dataclass(frozen=True)
class Examined:
    """A decoded image with facts about its file.

    Attributes:
        pixels: the pixels that `decode` returns.
        format: the file format, one of `FORMATS`; None for an array.
        numbers: `16-bit` or `float` if its values had more than 8 bits, otherwise None.
        extent: the smallest and the largest of these values.
    """

    pixels: NDArray[np.uint8]
    format: str | None
    numbers: str | None = None
    extent: tuple[float, float] = (0.0, 255.0)


def examine(
    source: Path | bytes | NDArray[np.uint8], *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Examined:
    """Decodes an image like `decode`, and returns its format and value range too; refuses more than `max_pixels`."""
    if isinstance(source, np.ndarray):
        return Examined(_from_array(source, name or "image"), None)
    with opened(source, name, max_pixels=max_pixels) as image:
        # Pillow reports a JPEG with several images as MPO.
        pixels, kind = _pixels(_upright(image)), "JPEG" if image.format == "MPO" else image.format
        if not is_deep(image):
            return Examined(pixels, kind)
        return Examined(pixels, kind, "float" if image.mode == "F" else "16-bit", extent(image))


def dimensions(source: Path | bytes | NDArray[np.uint8], *, name: str | None = None) -> tuple[int, int]:
    """Returns (height, width) from the header only, before any EXIF rotation.

    Raises:
        ImageError: in the same cases as `decode`, as far as the header shows them.
    """
    if isinstance(source, np.ndarray):
        return source.shape[0], source.shape[1]
    with opened(source, name) as image:
        return image.height, image.width


def resize(pixels: NDArray[np.uint8], size: int, mode: str) -> NDArray[np.uint8]:
    """Resizes RGB pixels to a square by antialiased bilinear interpolation (Pillow).

    Args:
        pixels: uint8 [h, w, 3]; returned unchanged if h = w = `size`.
        size: side of the result, in pixels.
        mode: one of `RESIZE_MODES`.

    Returns:
        uint8 [size, size, 3].
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize mode {mode!r} is not one of {', '.join(RESIZE_MODES)}")
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    return _resize(Image.fromarray(pixels), (width, height), size, mode)


def load(
    source: Path | bytes | NDArray[np.uint8],
    size: int,
    mode: str,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Decodes and resizes one image to uint8 [size, size, 3]. Raises the errors of `decode`.

    A JPEG that is much larger is first reduced by its decoder, which is several times faster and changes the result
    only by about a rounding error. A file of more than `max_pixels` is refused.
    """
    if isinstance(source, np.ndarray):
        return resize(decode(source, name=name), size, mode)
    with opened(source, name, max_pixels=max_pixels) as image:
        width, height = image.size
        scale = _reduction(image, size, mode)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
        upright = _upright(image)
        if upright.size == (size, size) and scale == 1:
            return _pixels(upright)
        reduced = (width / scale, height / scale) if scale > 1 and upright.size == image.size else upright.size
        return _resize(upright, reduced, size, mode)


def _reduction(image: Image.Image, size: int, mode: str) -> int:
    """Returns the factor (1, 2, 4 or 8) by which a JPEG decoder may reduce an image with the target size `size` px."""
    if image.format != "JPEG":
        return 1
    largest = (max if mode == "letterbox" else min)(image.size) // (_LEAST_GAP * size)
    turned = _orientation(image) != 1
    for scale in (8, 4, 2):
        # The last row and column of a reduced image may cover only a fraction of a pixel. `_resize` knows the
        # fraction, but not the side where it is after a rotation.
        whole = image.width % scale == image.height % scale == 0
        if scale <= largest and (whole or not turned):
            return scale
    return 1


def _resize(image: Image.Image, extent: tuple[float, float], size: int, mode: str) -> NDArray[np.uint8]:
    """Resizes the part of an RGB or grey image between its upper left corner and `extent` (width, height)."""
    bilinear = Image.Resampling.BILINEAR
    width, height = extent
    if mode == "letterbox":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        canvas = Image.new(image.mode, (size, size), (LETTERBOX_GREY,) * len(image.getbands()))
        resized = image.resize(inner, bilinear, box=(0, 0, width, height))
        canvas.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return _pixels(canvas)
    left = top = 0.0
    if mode == "crop":
        # Resampling only the middle square is equivalent to resizing the whole image and cropping, and cheaper.
        shorter = min(width, height)
        left, top, width, height = (width - shorter) / 2, (height - shorter) / 2, shorter, shorter
    return _pixels(image.resize((size, size), bilinear, box=(left, top, left + width, top + height)))


def _upright(image: Image.Image) -> Image.Image:
    """Returns an image as RGB or grey (`L`), rotated by its EXIF orientation."""
    image.load()
    return turned(to_eight_bits(image), _orientation(image))


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Returns the RGB pixels of an RGB or grey image."""
    return np.array(image) if image.mode == "RGB" else np.repeat(np.asarray(image)[:, :, None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF: the pixels are still usable
        return 1


def _from_array(pixels: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ImageError(f"{label}: pixels must be uint8 [h, w, 3], not {pixels.dtype} {list(pixels.shape)}.")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    channels = pixels.shape[2]
    if channels == 3:
        return pixels
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    if channels == 4:
        return np.array(to_eight_bits(Image.fromarray(np.ascontiguousarray(pixels))))
    raise ImageError(f"{label}: pixels must have 1, 3 or 4 channels, not {channels}.")


def stack(images: Iterable[str | Path | NDArray[np.uint8]], size: int, mode: str) -> NDArray[np.uint8]:
    """Reads images into a batch.

    Args:
        images: at least one path, or RGB pixels, uint8 [height, width, 3].
        size: side of the result, in pixels.
        mode: one of `RESIZE_MODES`.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        ImageError: an image cannot be read; the message names the first one.
    """
    return np.stack([_read(image, size, mode) for image in images])


def _read(image: str | Path | NDArray[np.uint8], size: int, mode: str) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3):
        # Arrays are passed deliberately; in an array, grey pixels are more likely a mistake than in a file.
        raise ImageError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
    return load(Path(image) if isinstance(image, str) else image, size, mode)


_BAND_PIXELS: Final = 2**21
"""Pixels of a band, which need some tens of MB during conversion."""

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation, as in PIL.ImageOps


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Returns an image transformed by its EXIF orientation (1-8)."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def is_deep(image: Image.Image) -> bool:
    """Returns whether pixel values have more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def extent(image: Image.Image) -> tuple[float, float]:
    """Returns the smallest and largest finite value of a deep image; (0, 0) if there is none."""
    least, greatest = np.inf, -np.inf
    for _, band in _bands(image):
        values = np.asarray(band)
        if image.mode == "F":
            values = values[np.isfinite(values)]
        if values.size:
            least, greatest = min(least, float(values.min())), max(greatest, float(values.max()))
    return (least, greatest) if least <= greatest else (0.0, 0.0)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Returns a loaded image as `L` or `RGB`.

    Transparency is composited on white, and 16-bit grey is scaled to 8 bits. 32-bit integers are read as 16-bit values;
    floats as 0-1 if none is above 1, otherwise as 0-255.
    """
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # "I", "I;16", "I;16B": variants of 16-bit grey
        return _grey(image, _of_integers)
    if image.mode == "F":
        scale = 255.0 if _brightest(image) <= 1.0 else 1.0
        return _grey(image, lambda values: _of_floats(values, scale))
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("L" if image.mode == "1" else "RGB")


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yields the bands of a loaded image from top to bottom, each with its first row."""
    rows = max(1, _BAND_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def _grey(image: Image.Image, convert: Callable[[NDArray[np.generic]], NDArray[np.uint8]]) -> Image.Image:
    pixels = np.empty((image.height, image.width), np.uint8)
    for top, band in _bands(image):
        pixels[top : top + band.height] = convert(np.asarray(band))
    return Image.fromarray(pixels)


def _of_integers(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    grey = np.clip(values, 0, 65535).astype(np.uint32)
    levels: NDArray[np.uint8] = ((grey * 255 + 32767) // 65535).astype(np.uint8)
    return levels


def _of_floats(values: NDArray[np.generic], scale: float) -> NDArray[np.uint8]:
    known = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
    with np.errstate(over="ignore"):  # the largest floats become white too
        levels: NDArray[np.uint8] = np.clip(known * scale + 0.5, 0, 255).astype(np.uint8)
    return levels


def _brightest(image: Image.Image) -> float:
    """Returns the largest value, at least 0; infinity counts as 255 and NaN as 0."""
    bands = (np.nan_to_num(np.asarray(band), nan=0.0, posinf=255.0, neginf=0.0) for _, band in _bands(image))
    return max(float(values.max(initial=0.0)) for values in bands)


def _on_white(image: Image.Image) -> Image.Image:
    whole = Image.new("RGB", image.size)
    for top, band in _bands(image):
        overlay = band.convert("RGBA")
        whole.paste(Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert("RGB"), (0, top))
    return whole
