"""Depthwise convolutions on CPUs, and other ways to the gradient of their weights than oneDNN's.

With windows of 5 px oneDNN needs 5 to 9 times as long for this gradient as for the forward pass. `kcv.native.kernels`
has a kernel for it, which needs about as long as the forward pass.

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

from kcv.native.kernels import Kernels


class _Depthwise(torch.autograd.Function):
    """`F.conv2d` with as many groups as channels, and another way to the gradient of its weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        kernels: Kernels | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        ctx.kernels = kernels if _kernels_take(kernels, weight, stride, padding) else None
        return F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        of_x = of_weight = None
        if wants_x:
            of_x, _, _ = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), x.shape[1],
                (True, False, False),
            )  # fmt: skip
        if wants_weight and ctx.kernels is not None:
            laid = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (gradient, x)]
            of_weight = ctx.kernels.depthwise_weight_gradient(*laid, weight.shape[2], ctx.stride[0], ctx.padding[0])
        elif wants_weight:
            of_weight = weight_gradient(gradient, x, weight.shape, ctx.stride, ctx.padding)
        return of_x, of_weight, gradient.sum((0, 2, 3)) if wants_bias else None, None, None, None


def slow_elsewhere(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], kernels: Kernels | None = None
) -> bool:
    """Whether torch's own gradient of the weights would be slow: on a CPU, in float32, where there is a faster way.

    Without kernels that is in images smaller than the window. Measured on 2 cores of an AMD EPYC (AVX2), float32,
    windows of 3, 5 and 7 px in images of 1 to 5 px: `depthwise` is 7 to 22 times as fast with batches of 16 and 32, and
    2.4 to 4 times with batches of 2. In images of the window's size or larger it is between half as fast and 1.7 times.

    Args:
        x: as for `depthwise`.
        weight: as for `depthwise`.
        stride: of the window.
        padding: on each side.
        kernels: as for `depthwise`.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or not weight.requires_grad or torch.compiler.is_compiling():
        return False
    smaller = x.shape[2] < weight.shape[2] or x.shape[3] < weight.shape[3]
    return smaller or _kernels_take(kernels, weight, stride, padding)


def _kernels_take(kernels: Kernels | None, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    """Whether there is a kernel: for windows of 5 and 7 px. In those of 3 px, oneDNN is as fast."""
    return (
        kernels is not None
        and weight.shape[2] == weight.shape[3]
        and weight.shape[2] in (5, 7)
        and len(weight) >= kernels.fewest_channels
        and stride[0] == stride[1]
        and padding[0] == padding[1]
        and weight.dtype == torch.float32
    )


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    kernels: Kernels | None = None,
) -> Tensor:
    """Computes a depthwise convolution with another way to the gradient of its weights.

    Args:
        x: [n, channels, h, w].
        weight: [channels, 1, kernel h, kernel w].
        bias: [channels], or None.
        stride: of the window.
        padding: on each side.
        kernels: compute the gradient of the weights where they can; None: torch's operations do.
    """
    result: Tensor = _Depthwise.apply(x, weight, bias, stride, padding, kernels)
    return result


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
