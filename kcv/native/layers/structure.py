"""Layers without weights that combine tensors (sums, products, concatenation) or only move values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from keras import layers
from torch import Tensor

from kcv.native.layers.lowered import Lowered, Target, Value, compute_dtype, lowers, require


def _together(inputs: Sequence[Value]) -> bool:
    """Whether to hold the inputs as [n, c, h, w]; raises `Unsupported` if their ranks differ."""
    require(len({len(value.shape) for value in inputs}) == 1, "inputs of different ranks")
    return any(value.transposed for value in inputs)


def _fold(layer: Any, inputs: Sequence[Value], combine: Callable[[Tensor, Tensor], Tensor]) -> Lowered:
    transposed, dtype = _together(inputs), compute_dtype(layer)

    def run(training: bool, *tensors: Tensor) -> Tensor:
        return reduce(combine, [x.to(dtype) for x in tensors])

    return Lowered(run, input_transposed=transposed, output_transposed=transposed)


@lowers(layers.Add)
def lower_add(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Add`; accumulates into the first input if it has no other consumer."""
    transposed, dtype = _together(inputs), compute_dtype(layer)
    first = inputs[0]
    if not (target.in_place and first.reusable and first.dtype == dtype and _same_shapes(inputs)):
        lowered = _fold(layer, inputs, torch.add)
        return Lowered(lowered.run, transposed, transposed, output_reusable=True)

    def run(training: bool, x: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            x = x.add_(other.to(dtype))
        return x

    return Lowered(run, transposed, transposed, output_reusable=True)


@lowers(layers.Multiply)
def lower_multiply(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Multiply`."""
    return _spare(_fold(layer, inputs, torch.mul))


@lowers(layers.Subtract)
def lower_subtract(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Subtract`."""
    return _spare(_fold(layer, inputs, torch.sub))


@lowers(layers.Average)
def lower_average(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Average`."""
    count = len(inputs)
    total = _fold(layer, inputs, torch.add)
    return Lowered(
        lambda training, *x: total.run(training, *x) / count, total.input_transposed, total.output_transposed, True
    )


@lowers(layers.Maximum)
def lower_maximum(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Maximum`."""
    return _fold(layer, inputs, torch.maximum)


@lowers(layers.Minimum)
def lower_minimum(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Minimum`."""
    return _fold(layer, inputs, torch.minimum)


@lowers(layers.Concatenate)
def lower_concatenate(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Concatenate`."""
    transposed, dtype = _together(inputs), compute_dtype(layer)
    axis = layer.axis % len(inputs[0].shape)
    if transposed:
        axis = (0, 2, 3, 1)[axis]
    return Lowered(
        lambda training, *x: torch.cat([part.to(dtype) for part in x], axis),
        transposed,
        transposed,
        output_reusable=True,
    )


def _same_shapes(inputs: Sequence[Value]) -> bool:
    return len({value.shape for value in inputs}) == 1 and None not in inputs[0].shape[1:]


def _spare(lowered: Lowered) -> Lowered:
    return Lowered(lowered.run, lowered.input_transposed, lowered.output_transposed, output_reusable=True)


@lowers(layers.Flatten)
def lower_flatten(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Flatten`, in the order of Keras' layout."""
    dtype = compute_dtype(layer)
    # Keras transposes channels_first images to channels last before it flattens them.
    turn = layer.data_format == "channels_first" and len(inputs[0].shape) > 1

    def run(training: bool, x: Tensor) -> Tensor:
        x = x.to(dtype)
        return (x.movedim(1, -1) if turn else x).flatten(1)

    return Lowered(run)


@lowers(layers.Reshape, rearranges=True)
def lower_reshape(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Reshape`."""
    dtype, shape = compute_dtype(layer), tuple(layer.target_shape)
    return Lowered(lambda training, x: x.to(dtype).reshape(x.shape[0], *shape))


@lowers(layers.Permute, rearranges=True)
def lower_permute(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Permute`."""
    dtype, order = compute_dtype(layer), (0, *layer.dims)
    return Lowered(lambda training, x: x.to(dtype).permute(order))


@lowers(layers.Identity, rearranges=True)
def lower_identity(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Identity`."""
    (value,) = inputs
    dtype = compute_dtype(layer)
    return Lowered(
        lambda training, x: x.to(dtype), input_transposed=value.transposed, output_transposed=value.transposed
    )
