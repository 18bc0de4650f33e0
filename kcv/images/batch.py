"""Stacks the images passed to a model in Python (paths or arrays) at its input size."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kcv.errors import ImageError
from kcv.images.decoding import load


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
