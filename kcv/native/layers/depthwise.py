"""Depthwise convolutions on CPUs by other ways than oneDNN's, where these are faster.

With windows of 5 px oneDNN needs 5 to 9 times as long for the gradient of the weights as for the forward pass.
`kcv.native.kernels` has a kernel for it, which needs about as long as the forward pass. It also has kernels for images
with more padding on one side than on the other, as windows that move by two pixels often need: for oneDNN these have to
be copied, and the gradient back. Where it needs no copy, oneDNN is as fast in both.

In images that are smaller than the window oneDNN has no compiled kernel at all: its reference code is 10 to 100 times
slower than the forward pass. EfficientNet-B0 at 64 px spends a third of a training step in it, in its last blocks of 2
and 4 px. Where kernels of our own cannot be compiled, this helps: the gradient is itself a depthwise convolution, of
the images with the gradient of the output as its kernel, and in the forward direction that is fast. Each image of a
batch has its own kernel, so images become channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kcv.native.kernels import SIZES, Kernels, Sides, Window
from kcv.native.layers.padding import each_side, is_even, padded


class _DepthwiseInC(torch.autograd.Function):
    """A depthwise convolution by the kernels in C, but for what oneDNN is as fast in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.window, ctx.kernels = window, kernels
        if not is_even(window.sides):
            return kernels.depthwise(x, weight, bias, window)
        return F.conv2d(x, weight, bias, window.stride, each_side(window.sides), groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), window, kernels = ctx.saved_tensors, ctx.window, ctx.kernels
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        of_x = of_weight = None
        if wants_x and not is_even(window.sides):
            of_x = kernels.depthwise_image_gradient(gradient, x, weight, window)
        elif wants_x:
            of_x = image_gradient(gradient, x, weight, (window.stride, window.stride), each_side(window.sides))
        if wants_weight:
            of_weight = kernels.depthwise_weight_gradient(gradient, x, window)
        return of_x, of_weight, gradient.sum((0, 2, 3)) if wants_bias else None, None, None


class _DepthwiseSwapped(torch.autograd.Function):
    """A depthwise convolution whose weights get their gradient from `weight_gradient`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        of_x = image_gradient(gradient, x, weight, ctx.stride, ctx.padding) if wants_x else None
        of_weight = weight_gradient(gradient, x, weight.shape, ctx.stride, ctx.padding) if wants_weight else None
        return of_x, of_weight, gradient.sum((0, 2, 3)) if wants_bias else None, None, None


def slow_elsewhere(
    x: Tensor, weight: Tensor, stride: Sequence[int], sides: Sides, kernels: Kernels | None = None
) -> bool:
    """Whether a training step of torch's own would be slow: on a CPU, in float32, where there is a faster way.

    Without kernels that is in images smaller than the window. Measured on 2 cores of an AMD EPYC (AVX2), float32,
    windows of 3, 5 and 7 px in images of 1 to 5 px: `depthwise` is 7 to 22 times as fast with batches of 16 and 32, and
    2.4 to 4 times with batches of 2. In images of the window's size or larger it is between half as fast and 1.7 times.

    Args:
        x: as for `depthwise`.
        weight: as for `depthwise`.
        stride: of the window.
        sides: as for `depthwise`.
        kernels: as for `depthwise`.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or not weight.requires_grad or torch.compiler.is_compiling():
        return False
    if kernels is not None and _in_c(weight, stride, sides, kernels):
        return True
    left, right, top, bottom = (0, 0, 0, 0) if is_even(sides) else sides
    return x.shape[2] + top + bottom < weight.shape[2] or x.shape[3] + left + right < weight.shape[3]


def _in_c(weight: Tensor, stride: Sequence[int], sides: Sides, kernels: Kernels) -> bool:
    """Whether there is a faster kernel: for windows of 5 and 7 px, and for uneven padding."""
    size = weight.shape[2]
    return (
        size == weight.shape[3]
        and size in SIZES
        and stride[0] == stride[1]
        and (size > 3 or not is_even(sides))
        and len(weight) >= kernels.fewest_channels
        and weight.dtype == torch.float32
    )


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    sides: Sides,
    kernels: Kernels | None = None,
) -> Tensor:
    """Computes a depthwise convolution by another way than torch's.

    Args:
        x: [n, channels, h, w].
        weight: [channels, 1, kernel h, kernel w].
        bias: [channels], or None.
        stride: of the window.
        sides: zeros around the images.
        kernels: compute what they are faster in; None: torch's operations do.
    """
    result: Tensor
    if kernels is None or not _in_c(weight, stride, sides, kernels):
        x, padding = padded(x, sides)
        result = _DepthwiseSwapped.apply(x, weight, bias, stride, padding)
        return result
    window = Window(weight.shape[2], stride[0], sides)
    result = _DepthwiseInC.apply(x.contiguous(memory_format=torch.channels_last), weight, bias, window, kernels)
    return result


def image_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Returns torch's gradient of a convolution's images, which need not be depthwise.

    Args:
        gradient: of the output, [n, outputs, output h, output w].
        x: the images, [n, channels, h, w].
        weight: [outputs, channels / groups, kernel h, kernel w].
        stride: of the window.
        padding: on each side.
    """
    groups = x.shape[1] // weight.shape[1]
    of_x: Tensor
    of_x, _, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), groups, (True, False, False)
    )
    return of_x


def weight_gradient(
    gradient: Tensor, x: Tensor, shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Returns the gradient of a depthwise convolution's weights.

    The window is not dilated. Taken as a kernel, the gradient of the output is: its entries are a stride apart.

    Args:
        gradient: of the output, [n, channels, output h, output w].
        x: the images, [n, channels, h, w].
        shape: of the weights, [channels, 1, kernel h, kernel w].
        stride: of the window.
        padding: on each side.
    """
    images, channels, height, width = x.shape
    own = x.permute(2, 3, 0, 1).reshape(1, height, width, images * channels).permute(0, 3, 1, 2)
    kernels = gradient.reshape(images * channels, 1, *gradient.shape[2:])
    each = F.conv2d(own, kernels, padding=padding, dilation=stride, groups=images * channels)
    return each[..., : shape[2], : shape[3]].reshape(images, *shape).sum(0)
