"""Tensors of the Open Inference Protocol: numbers in JSON or as bytes, checked before they are used.

Source: Open Inference Protocol v2, and its extension for binary data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.serving.problems import Problem

_MOST_AXES = 4


def pixels_of(values: Any, where: str, max_pixels: int, shape: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """Returns pixels that were sent as lists of numbers.

    Args:
        values: whole numbers from 0 to 255, nested or flat.
        where: what the message calls them.
        max_pixels: the most pixels of an image.
        shape: their shape, where it is sent beside them.

    Returns:
        uint8 [height, width, channels], or [n, height, width, channels] if `shape` says so.

    Raises:
        Problem: 400, they are no such numbers; 422, the image is too large.
    """
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError):
        raise Problem(400, f"{where}: the rows differ in length.") from None
    if found.dtype.kind not in "iu" or found.size == 0:
        raise Problem(400, f"{where}: pixels are whole numbers from 0 to 255.")
    if found.min() < 0 or found.max() > 255:
        raise Problem(400, f"{where}: pixels are whole numbers from 0 to 255.")
    if shape is not None:
        if math.prod(shape) != found.size:
            raise Problem(400, f"{where}: holds {found.size:,} numbers, its shape {list(shape)} needs others.")
        found = found.reshape(shape)
    elif found.ndim not in (2, 3):
        raise Problem(400, f"{where}: an image has the shape [height, width, 3], not {list(found.shape)}.")
    return checked(found.astype(np.uint8), where, max_pixels)


def checked(pixels: NDArray[np.uint8], where: str, max_pixels: int) -> NDArray[np.uint8]:
    """Returns pixels, uint8 [height, width, channels] or [n, height, width, channels], unless they are too large."""
    sides = pixels.shape[:2] if pixels.ndim < 4 else pixels.shape[1:3]
    if math.prod(sides) > max_pixels:
        raise Problem(422, f"{where}: {sides[1]}x{sides[0]} pixels are more than the allowed {max_pixels:,}.")
    return pixels


def shape_of(value: Any, where: str) -> list[int]:
    """Returns a shape from JSON.

    Raises:
        Problem: 400, it is none.
    """
    sound = isinstance(value, list) and 1 <= len(value) <= _MOST_AXES
    if not sound or not all(type(side) is int and 0 < side < 2**31 for side in value):
        raise Problem(400, f"{where}: a shape is a list of at most {_MOST_AXES} whole numbers above 0.")
    found: list[int] = value
    return found


def split_bytes(content: bytes, where: str, most: int) -> list[bytes]:
    """Returns the elements of a binary BYTES tensor, each after its length (4 bytes, little-endian).

    Args:
        content: the tensor.
        where: what the message calls it.
        most: the most elements.

    Raises:
        Problem: 400, a length is wrong, or there are too many.
    """
    found: list[bytes] = []
    start = 0
    while start < len(content):
        end = start + 4
        length = struct.unpack_from("<I", content, start)[0] if end <= len(content) else len(content)
        if end + length > len(content) or len(found) == most:
            raise Problem(400, f"{where}: the lengths of its elements are wrong, or there are more than {most:,}.")
        found.append(content[end : end + length])
        start = end + length
    return found


def join_bytes(elements: Sequence[bytes]) -> bytes:
    """Returns a binary BYTES tensor; the opposite of `split_bytes`."""
    return b"".join(part for element in elements for part in (struct.pack("<I", len(element)), element))
