"""Zeros around images: how many, and who adds them. torch's operations add as many on opposite sides, Keras may not."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kcv.native.kernels import Sides


def same_sides(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int] = (1, 1)) -> Sides:
    """Returns the padding with which a window operation gives ceil(size / stride).

    Args:
        x: images, [n, c, h, w].
        kernel: window height and width.
        strides: strides of the window.
        dilation: dilation of the window.
    """
    above_and_below = _sides(x.shape[2], kernel[0], strides[0], dilation[0])
    return *_sides(x.shape[3], kernel[1], strides[1], dilation[1]), *above_and_below


def _sides(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Returns the padding before and after, as in TensorFlow: the odd pixel goes to the end."""
    window = (kernel - 1) * dilation + 1
    total = window - 1 if stride == 1 else max(0, (-(-size // stride) - 1) * stride + window - size)
    return total // 2, total - total // 2


def padded(x: Tensor, sides: Sides, mode: str = "constant") -> tuple[Tensor, tuple[int, int]]:
    """Pads images where torch's operations cannot do so by themselves.

    Args:
        x: [n, c, h, w].
        sides: columns and rows to add.
        mode: mode of `torch.nn.functional.pad`.

    Returns:
        The images, padded if opposite sides differ; and the rows and columns left for torch's operation to add on each
        side.
    """
    if is_even(sides):
        return x, each_side(sides)
    return F.pad(x, sides, mode=mode), (0, 0)


def is_even(sides: Sides) -> bool:
    """Whether opposite sides get as much."""
    left, right, top, bottom = sides
    return left == right and top == bottom


def each_side(sides: Sides) -> tuple[int, int]:
    """Returns the rows and columns on each side, as torch's operations take them."""
    left, _, top, _ = sides
    return top, left
