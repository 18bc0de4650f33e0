"""An image under its heat map as PNG, drawn without matplotlib."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LEAST_SIDE = 256  # px
_STRONGEST = 0.75  # opacity of the map at the hottest place


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """Returns a PNG of at least 256 px: the hotter a place, the less of the image is visible there.

    Args:
        pixels: the image at the model's size, uint8 [size, size, 3].
        heat: float32 [size, size] in 0-1.
    """
    factor = max(1, math.ceil(_LEAST_SIDE / len(pixels)))
    side = len(pixels) * factor
    hot = np.asarray(Image.fromarray(heat).resize((side, side), Image.Resampling.BILINEAR))[..., None]
    large = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    # Black, red, yellow, white: brighter with the heat, so that it reads in grey as well.
    colours = 255 * np.clip(3 * hot - np.arange(3), 0, 1)
    mixed = (1 - _STRONGEST * hot) * large + _STRONGEST * hot * colours
    stream = io.BytesIO()
    Image.fromarray(np.rint(mixed).astype(np.uint8)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
