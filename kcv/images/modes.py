"""Converts Pillow's modes to 8-bit grey or RGB, band by band: the conversion needs many bytes per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
