"""Layers that only move values: flatten, reshape, permute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kcv.native.layers.lowered import Lowered, Target, Value, compute_dtype


def lower_flatten(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Flatten`, in the order that Keras' layout has."""
    dtype = compute_dtype(layer)
    # Keras turns channels_first images to channels last before it flattens them.
    turn = layer.data_format == "channels_first" and len(inputs[0].shape) > 1

    def run(training: bool, x: Tensor) -> Tensor:
        x = x.to(dtype)
        return (x.movedim(1, -1) if turn else x).flatten(1)

    return Lowered(run)


def lower_reshape(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Reshape`."""
    dtype, shape = compute_dtype(layer), tuple(layer.target_shape)
    return Lowered(lambda training, x: x.to(dtype).reshape(x.shape[0], *shape))


def lower_permute(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Permute`."""
    dtype, order = compute_dtype(layer), (0, *layer.dims)
    return Lowered(lambda training, x: x.to(dtype).permute(order))


def lower_identity(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Identity`."""
    (value,) = inputs
    dtype = compute_dtype(layer)
    return Lowered(lambda training, x: x.to(dtype), wants_moved=value.moved, gives_moved=value.moved)


def to_torch_order(training: bool, x: Tensor) -> Tensor:
    """Moves [n, h, w, c] to [n, c, h, w], as a view."""
    return x.permute(0, 3, 1, 2)


def to_keras_order(training: bool, x: Tensor) -> Tensor:
    """Moves [n, c, h, w] to [n, h, w, c], as a view."""
    return x.permute(0, 2, 3, 1)


def torch_dtype(name: str) -> torch.dtype:
    """Returns the torch dtype of a Keras dtype's name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
