"""Pictures given to a model in Python: paths or arrays, brought to its size and stacked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kcv.errors import ImageError
from kcv.images.decoding import load


def stack(pictures: Iterable[str | Path | NDArray[np.uint8]], size: int, mode: str) -> NDArray[np.uint8]:
    """Reads a batch.

    Args:
        pictures: paths, or RGB pixels, uint8 [height, width, 3]; at least one.
        size: side of the result, pixels.
        mode: one of `RESIZE_MODES`.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        ImageError: naming the first picture that cannot be read.
    """
    return np.stack([_read(picture, size, mode) for picture in pictures])


def _read(picture: str | Path | NDArray[np.uint8], size: int, mode: str) -> NDArray[np.uint8]:
    if isinstance(picture, np.ndarray) and (picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3):
        # A model in a program is given pixels on purpose; grey ones are more likely a mistake there than in a file.
        raise ImageError(f"a picture must be uint8 [height, width, 3], not {picture.dtype} {list(picture.shape)}")
    return load(Path(picture) if isinstance(picture, str) else picture, size, mode)
