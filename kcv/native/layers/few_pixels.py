"""Convolutions of images with few pixels, on CPUs: the last layers of a network whose input is small.

oneDNN is far from its usual rate there: a convolution of one pixel is up to twice as fast where all images of a batch
are one. Two other ways compute the same:

- With a window of one pixel the images of a batch can be one image, a column of all their pixels. In channels-last
  memory that is only another view.
- With a larger window the batch is such a column, too, once the pixels under each position of the window are put side
  by side. The kernel, and its gradient, is then a matrix.

In bfloat16 such a column is multiplied by the kernel as a matrix, which is faster still. In float32 torch's matrix
product is slower: on AMD's CPUs it reaches half the rate of a convolution of one pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kcv.native.kernels import Sides
from kcv.native.layers.depthwise import image_gradient
from kcv.native.layers.padding import is_even, padded

_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_OF_AN_IMAGE = 4
"""Pixels of an output image up to which these ways are faster, for any number of images."""


@dataclass(frozen=True)
class _Limits:
    """When these ways are faster, by measurements on 2 cores of an AMD EPYC with AVX512-BF16.

    Attributes:
        pixels: output pixels of a batch up to which they are, whatever the size of an image.
        kernel: numbers in a kernel from which they are, if its window has one pixel.
        window: the same for larger windows.
    """

    pixels: int
    kernel: int
    window: int


_LIMITS = {torch.float32: _Limits(32, 100_000, 250_000), torch.bfloat16: _Limits(512, 16_000, 130_000)}


def few_pixels(x: Tensor, kernel: Tensor, stride: Sequence[int], sides: Sides) -> bool:
    """Whether `convolution` is faster than torch's; on CPUs only.

    Args:
        x: as for `convolution`.
        kernel: as for `convolution`.
        stride: of the window.
        sides: as for `convolution`.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not _ONEDNN:
        return False
    limits = _LIMITS.get(x.dtype)
    if limits is None or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if not kernel.is_contiguous(memory_format=torch.channels_last):
        return False
    if kernel.numel() < (limits.kernel if _is_product(kernel, stride, sides) else limits.window):
        return False
    height, width = _output_size(x, kernel, stride, sides)
    few = height * width <= _OF_AN_IMAGE or len(x) * height * width <= limits.pixels
    return few and min(height, width, len(x)) > 0


def convolution(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: tuple[int, int], sides: Sides) -> Tensor:
    """Computes a convolution that is neither grouped nor dilated.

    Args:
        x: images, [n, channels, h, w], in channels-last memory.
        kernel: [outputs, channels, kernel h, kernel w], in channels-last memory.
        bias: [outputs], or None.
        stride: of the window.
        sides: zeros around the images.

    Returns:
        [n, outputs, output h, output w], in channels-last memory.
    """
    size = _output_size(x, kernel, stride, sides)
    if _is_product(kernel, stride, sides):
        column = product(_column(x), kernel.flatten(1), bias)
    else:
        column = _Windows.apply(x, kernel, bias, stride, sides)
    return _images(column, len(x), size)


class _Windows(torch.autograd.Function):
    """The convolution with a window of several pixels; returns a column, [pixels, outputs]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None, stride: tuple[int, int], sides: Sides
    ) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.stride, ctx.sides = stride, sides
        return product(_windows(x, kernel, stride, sides), _matrix(kernel), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, kernel), stride, sides = ctx.saved_tensors, ctx.stride, ctx.sides
        wants_x, wants_kernel, wants_bias = ctx.needs_input_grad[:3]
        of_x = of_kernel = None
        if wants_x:  # in which oneDNN is as fast
            enlarged, padding = padded(x, sides)
            images = _images(gradient, len(x), _output_size(x, kernel, stride, sides))
            of_x = image_gradient(images, enlarged, kernel, stride, padding)
            of_x = of_x if is_even(sides) else F.pad(of_x, [-zeros for zeros in sides])
        if wants_kernel:
            matrix = product(gradient.t(), _windows(x, kernel, stride, sides).t())
            outputs, channels, height, width = kernel.shape
            of_kernel = matrix.view(outputs, height, width, channels).permute(0, 3, 1, 2)
        return of_x, of_kernel, gradient.sum(0) if wants_bias else None, None, None


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns the matrix product of `a`, [m, k], with the transpose of `b`, [n, k], and a bias, [n], added."""
    if a.dtype != torch.float32:
        return F.linear(a, b, bias)
    column = a.contiguous().view(1, len(a), 1, -1).permute(0, 3, 1, 2)
    return _column(F.conv2d(column, b.contiguous()[:, :, None, None], bias))


def _is_product(kernel: Tensor, stride: Sequence[int], sides: Sides) -> bool:
    return kernel.shape[2:] == (1, 1) and max(stride) == 1 and not any(sides)


def _output_size(x: Tensor, kernel: Tensor, stride: Sequence[int], sides: Sides) -> tuple[int, int]:
    left, right, top, bottom = sides
    height = (x.shape[2] + top + bottom - kernel.shape[2]) // stride[0] + 1
    return height, (x.shape[3] + left + right - kernel.shape[3]) // stride[1] + 1


def _windows(x: Tensor, kernel: Tensor, stride: Sequence[int], sides: Sides) -> Tensor:
    """Returns the pixels under each position of the window, [pixels, kernel h * kernel w * channels]."""
    left, right, top, bottom = sides
    images = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom)).contiguous()
    of_image, of_row, of_pixel, _ = images.stride()
    (height, width), channels = kernel.shape[2:], x.shape[1]
    under = images.as_strided(
        (len(x), *_output_size(x, kernel, stride, sides), height, width, channels),
        (of_image, of_row * stride[0], of_pixel * stride[1], of_row, of_pixel, 1),
    )
    return under.reshape(-1, height * width * channels)


def _matrix(kernel: Tensor) -> Tensor:
    """Returns a kernel as [outputs, kernel h * kernel w * channels], a view in channels-last memory."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


def _column(x: Tensor) -> Tensor:
    """Returns all pixels of a batch, [pixels, channels]: a view in channels-last memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _images(column: Tensor, images: int, size: tuple[int, int]) -> Tensor:
    return column.reshape(images, *size, -1).permute(0, 3, 1, 2)
