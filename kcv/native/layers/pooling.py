"""Pooling, over windows and over whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kcv.native.layers.lowered import Lowered, Target, Value, compute_dtype, is_moved
from kcv.native.layers.padding import same_padding


def lower_max_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `MaxPooling2D`."""
    return _window(layer, lambda x, size, strides, padding: F.max_pool2d(x, size, strides, padding))


def lower_average_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `AveragePooling2D`: padded cells are not counted."""
    return _window(
        layer, lambda x, size, strides, padding: F.avg_pool2d(x, size, strides, padding, count_include_pad=False)
    )


def _window(layer: Any, pool: Callable[..., Tensor]) -> Lowered:
    size, strides, same = tuple(layer.pool_size), tuple(layer.strides), layer.padding == "same"
    dtype, moved = compute_dtype(layer), is_moved(layer)

    def run(training: bool, x: Tensor) -> Tensor:
        x = x.to(dtype)
        padding = (0, 0)
        if same:
            x, padding = same_padding(x, size, strides, mode="replicate")
        return pool(x, size, strides, padding)

    return Lowered(run, wants_moved=moved, gives_moved=moved, spares=True)


def lower_global_average_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `GlobalAveragePooling2D`."""
    return _whole(layer, lambda x, keep: x.mean((2, 3), keepdim=keep))


def lower_global_max_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `GlobalMaxPooling2D`."""
    return _whole(layer, lambda x, keep: x.amax((2, 3), keepdim=keep))


def _whole(layer: Any, pool: Callable[[Tensor, bool], Tensor]) -> Lowered:
    keep, dtype, moved = bool(layer.keepdims), compute_dtype(layer), is_moved(layer)
    return Lowered(
        lambda training, x: pool(x.to(dtype), keep), wants_moved=moved, gives_moved=moved and keep, spares=False
    )
