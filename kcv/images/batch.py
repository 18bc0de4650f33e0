"""Images given to a model in Python: paths or arrays, brought to its size and stacked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kcv.errors import ImageError
from kcv.images.decoding import load


def stack(images: Iterable[str | Path | NDArray[np.uint8]], size: int, mode: str) -> NDArray[np.uint8]:
    """Reads a batch.

    Args:
        images: paths, or RGB pixels, uint8 [height, width, 3]; at least one.
        size: side of the result, pixels.
        mode: one of `RESIZE_MODES`.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        ImageError: naming the first image that cannot be read.
    """
    return np.stack([_read(image, size, mode) for image in images])


def _read(image: str | Path | NDArray[np.uint8], size: int, mode: str) -> NDArray[np.uint8]:
    if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3):
        # A model in a program is given pixels on purpose; grey ones are more likely a mistake there than in a file.
        raise ImageError(f"an image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
    return load(Path(image) if isinstance(image, str) else image, size, mode)
