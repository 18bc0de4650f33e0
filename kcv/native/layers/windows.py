"""Convolution, pooling and padding of images, and Dense, whose kernels use the same layout as convolutions.

Keras' kernels become the views that torch needs. Keras' `same` padding may be larger at the end than at the start.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from keras import layers
from torch import Tensor
from torch.autograd.function import once_differentiable

from kcv.native.kernels import Sides
from kcv.native.layers.activations import native_activation, then
from kcv.native.layers.depthwise import depthwise, slow_elsewhere
from kcv.native.layers.few_pixels import convolution, few_pixels
from kcv.native.layers.lowered import (
    Lowered,
    Run,
    Target,
    Value,
    compute_dtype,
    left_to_keras,
    lowers,
    needs_transposing,
    require,
)
from kcv.native.layers.padding import padded, same_sides
from kcv.native.storage import restride

left_to_keras(layers.Conv2DTranspose, layers.SeparableConv2D, convolution=True)
left_to_keras(layers.Cropping2D, layers.UpSampling2D, rearranges=True)


@lowers(layers.Conv2D, convolution=True)
def lower_conv2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Conv2D`, including grouped and dilated convolutions."""
    kernel = _kernel(layer, layer.kernel)
    # Keras stores [h, w, in, out] in that order; torch needs [out, in, h, w]. With the storage in torch's order the
    # view is free.
    restride(kernel, (3, 2, 0, 1), target.memory_format)
    return _convolution(layer, kernel, lambda k: k.permute(3, 2, 0, 1), layer.groups, target)


@lowers(layers.DepthwiseConv2D, convolution=True)
def lower_depthwise_conv2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `DepthwiseConv2D`; with a window of one pixel it is a scale for each channel."""
    kernel = _kernel(layer, layer.kernel)
    channels, multiplier = kernel.shape[2:]
    if kernel.numel() == channels and max(layer.strides) == 1 and not layer.use_bias:
        return _scale(layer, kernel)
    restride(kernel, (2, 3, 0, 1), target.memory_format)
    if multiplier == 1:
        return _convolution(layer, kernel, lambda k: k.permute(2, 3, 0, 1), channels, target)
    size = (channels * multiplier, 1, *kernel.shape[:2])
    return _convolution(layer, kernel, lambda k: k.permute(2, 3, 0, 1).reshape(size), channels, target)


def _scale(layer: Any, kernel: Tensor) -> Lowered:
    transposed, dtype = needs_transposing(layer), compute_dtype(layer)

    def run(training: bool, x: Tensor) -> Tensor:
        return x.to(dtype) * kernel.view(-1, 1, 1).to(dtype)

    output_reusable = native_activation(layer.activation) is None
    return Lowered(
        then(run, layer.activation),
        input_transposed=transposed,
        output_transposed=transposed,
        output_reusable=output_reusable,
    )


@lowers(layers.Dense)
def lower_dense(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Dense`."""
    kernel, bias, dtype = _kernel(layer, layer.kernel), _bias(layer), compute_dtype(layer)

    def run(training: bool, x: Tensor) -> Tensor:
        weight = kernel.t().to(dtype)
        return F.linear(x.to(dtype), weight, None if bias is None else bias.to(dtype))

    return Lowered(then(run, layer.activation), output_reusable=native_activation(layer.activation) is None)


def _convolution(layer: Any, kernel: Tensor, view: Callable[[Tensor], Tensor], groups: int, target: Target) -> Lowered:
    require(layer.padding in ("same", "valid"), f"padding {layer.padding!r}")
    bias, dtype, memory_format = _bias(layer), compute_dtype(layer), target.memory_format
    strides: tuple[int, int] = tuple(layer.strides)
    dilation = tuple(layer.dilation_rate)
    same = layer.padding == "same"
    pre_strided = _to_be_thinned(layer, kernel, groups)
    across, strides = (strides, (1, 1)) if pre_strided else ((1, 1), strides)
    size = tuple(layer.kernel_size)
    mixed = dtype != kernel.dtype
    is_product = size == (1, 1) and groups == 1
    undilated_depthwise = groups > 1 and kernel.shape[2:] in ((groups, 1), (1, groups)) and dilation == (1, 1)
    plain = groups == 1 and dilation == (1, 1)

    def run(
        training: bool,
        x: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        sides: Sides = (0, 0, 0, 0),
    ) -> Tensor:
        weight, offset = view(kernel), bias
        if scale is not None and shift is not None:
            weight = weight * scale[:, None, None, None]
            offset = shift if bias is None else torch.addcmul(shift, bias, scale)
        if mixed:
            weight = weight.to(dtype)
            offset = None if offset is None else offset.to(dtype)
        if is_product and x.shape[2:] == (1, 1) and not torch.compiler.is_exporting():
            return F.linear(x.flatten(1).to(dtype), weight.flatten(1), offset)[:, :, None, None]
        if pre_strided:
            x = x[:, :, :: across[0], :: across[1]]
        x = x.to(dtype, memory_format=memory_format)
        if same:
            sides = same_sides(x, size, strides, dilation)
        if undilated_depthwise and training and slow_elsewhere(x, weight, strides, sides, target.kernels):
            return depthwise(x, weight, offset, strides, sides, target.kernels)
        if plain and few_pixels(x, weight, strides, sides):
            return convolution(x, weight, offset, strides, sides)
        x, padding = padded(x, sides)
        return F.conv2d(x, weight, offset, strides, padding, dilation, groups)

    def with_padding(sides: Sides) -> Run:
        return then(functools.partial(run, sides=sides), layer.activation)

    transposed = needs_transposing(layer)
    return Lowered(
        then(run, layer.activation),
        input_transposed=transposed,
        output_transposed=transposed,
        output_reusable=native_activation(layer.activation) is None,
        padded=None if same or size == (1, 1) else with_padding,
        scaled=run if native_activation(layer.activation) is None else None,
    )


def _to_be_thinned(layer: Any, kernel: Tensor, groups: int) -> bool:
    """Whether a strided convolution skips pixels entirely, so that they must be removed beforehand.

    oneDNN (in torch 2.15, on a CPU with AVX-512) writes out of bounds in the gradient of strided 1x1 convolutions in
    channels_last whose number of input channels is not a multiple of 16. Removing the pixels first avoids this.
    """
    strided = tuple(layer.kernel_size) == (1, 1) and max(layer.strides) > 1
    return strided and kernel.device.type == "cpu" and kernel.shape[2] * groups % 16 != 0


def _kernel(layer: Any, variable: Any) -> Tensor:
    """Returns the parameter behind a kernel; refuses layers that transform their kernel (LoRA, quantisation)."""
    require(not getattr(layer, "lora_enabled", False), "LoRA")
    require(getattr(layer, "quantization_mode", None) is None, "quantisation")
    return _parameter(variable)


def _bias(layer: Any) -> Tensor | None:
    return _parameter(layer.bias) if layer.use_bias else None


def _parameter(variable: Any) -> Tensor:
    value: Tensor = variable.value
    require(isinstance(value, torch.nn.Parameter), "a variable that is no torch parameter")
    return value


@lowers(layers.ZeroPadding2D, rearranges=True)
def lower_zero_padding2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `ZeroPadding2D`."""
    (top, bottom), (left, right) = layer.padding
    dtype, transposed = compute_dtype(layer), needs_transposing(layer)
    sides = (left, right, top, bottom)
    return Lowered(
        lambda training, x: F.pad(x.to(dtype), sides),
        input_transposed=transposed,
        output_transposed=transposed,
        output_reusable=True,
        padding=sides,
    )


@lowers(layers.MaxPooling2D, rearranges=True)
def lower_max_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `MaxPooling2D`."""
    return _window(layer, lambda x, size, strides, padding: F.max_pool2d(x, size, strides, padding))


@lowers(layers.AveragePooling2D, rearranges=True)
def lower_average_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `AveragePooling2D`; padded cells are not counted."""
    return _window(
        layer, lambda x, size, strides, padding: F.avg_pool2d(x, size, strides, padding, count_include_pad=False)
    )


def _window(layer: Any, pool: Callable[..., Tensor]) -> Lowered:
    size, strides, same = tuple(layer.pool_size), tuple(layer.strides), layer.padding == "same"
    dtype, transposed = compute_dtype(layer), needs_transposing(layer)

    def run(training: bool, x: Tensor) -> Tensor:
        x = x.to(dtype)
        padding = (0, 0)
        if same:
            x, padding = padded(x, same_sides(x, size, strides), mode="replicate")
        return pool(x, size, strides, padding)

    return Lowered(run, input_transposed=transposed, output_transposed=transposed, output_reusable=True)


@lowers(layers.GlobalAveragePooling2D)
def lower_global_average_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `GlobalAveragePooling2D`."""
    return _whole(layer, _average)


def _average(x: Tensor, keep: bool) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad and not torch.compiler.is_compiling():
        averages: Tensor = _Average.apply(x)
        return averages if keep else averages.flatten(1)
    return x.mean((2, 3), keepdim=keep)


class _Average(torch.autograd.Function):
    """The mean of each channel, [n, c, 1, 1], with the same gradient as torch's, which each pixel shares.

    torch's own writes it for each pixel, in contiguous memory, and adding that to images in channels-last memory takes
    several times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        of_each: Tensor = gradient / (ctx.shape[2] * ctx.shape[3])
        return of_each.expand(ctx.shape)


@lowers(layers.GlobalMaxPooling2D)
def lower_global_max_pooling2d(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `GlobalMaxPooling2D`."""
    return _whole(layer, lambda x, keep: x.amax((2, 3), keepdim=keep))


def _whole(layer: Any, pool: Callable[[Tensor, bool], Tensor]) -> Lowered:
    keep, dtype, transposed = bool(layer.keepdims), compute_dtype(layer), needs_transposing(layer)
    return Lowered(
        lambda training, x: pool(x.to(dtype), keep),
        input_transposed=transposed,
        output_transposed=transposed and keep,
        output_reusable=False,
    )
