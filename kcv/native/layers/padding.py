"""Padding: Keras' `same`, which may be wider at the end than at the start, and the padding layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kcv.native.layers.lowered import Lowered, Target, Value, compute_dtype, is_moved


def same_padding(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int] = (1, 1), mode: str = "constant"
) -> tuple[Tensor, tuple[int, int]]:
    """Pads an image tensor so that a window operation gives ceil(size / stride).

    Args:
        x: [n, c, h, w].
        kernel: window height and width.
        strides: of the window.
        dilation: of the window.
        mode: of `torch.nn.functional.pad`, where torch's operation cannot pad by itself.

    Returns:
        The tensor, padded only where the two sides differ, and the padding that is left to torch's operation.
    """
    top, bottom = _sides(x.shape[2], kernel[0], strides[0], dilation[0])
    left, right = _sides(x.shape[3], kernel[1], strides[1], dilation[1])
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), mode=mode), (0, 0)


def _sides(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Returns the padding before and after, as TensorFlow defined it: what is odd goes to the end."""
    window = (kernel - 1) * dilation + 1
    total = window - 1 if stride == 1 else max(0, (-(-size // stride) - 1) * stride + window - size)
    return total // 2, total - total // 2


def lower_zero_padding2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `ZeroPadding2D`."""
    (top, bottom), (left, right) = layer.padding
    dtype, moved = compute_dtype(layer), is_moved(layer)
    sides = (left, right, top, bottom)
    return Lowered(lambda training, x: F.pad(x.to(dtype), sides), wants_moved=moved, gives_moved=moved, spares=True)
