"""Gaussian blur, greyscale and sharpness of a batch of images."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = (0.1 / 224, 2.0 / 224)
"""Standard deviation of the blur, as a fraction of the side: 0.1 to 2 px in images of 224 px (Chen et al. 2020, arXiv
2002.05709, appendix A)."""


def blur_radius(size: int) -> int:
    """Returns how many pixels the widest blur reaches in images of a size: three standard deviations."""
    return min(max(1, math.ceil(3 * SIGMA[1] * size)), size - 1)


def gaussian_blur(planes: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blurs each image by its own standard deviation: torchvision's `gaussian_blur`, as two passes of shifted sums.

    torchvision convolves with the whole square of a kernel, and with one for all images.

    Args:
        planes: uint8 [n, 3, size, size].
        sigma: float32 [n], in pixels, above 0.
        radius: of the kernel, which has `2 radius + 1` pixels; below the size.

    Returns:
        uint8 [n, 3, size, size], rounded; the border is mirrored.
    """
    places = torch.arange(radius + 1, device=planes.device, dtype=torch.float32)
    weights = torch.exp(-0.5 * (places / sigma[:, None]).square())
    weights = (weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1]))[:, :, None, None, None]
    size = planes.shape[-1]
    values = F.pad(planes.to(torch.float32), (radius,) * 4, mode="reflect")
    for axis in (2, 3):
        wide, values = values, values.narrow(axis, radius, size) * weights[:, 0]
        for reach in range(1, radius + 1):
            both = wide.narrow(axis, radius - reach, size) + wide.narrow(axis, radius + reach, size)
            values.addcmul_(both, weights[:, reach])
    return values.add_(0.5).clamp_(0, 255).to(torch.uint8)


def torchvision_functions() -> Any:
    """Returns `torchvision.transforms.v2.functional`.

    It is imported on first use: it brings torch's compiler along, which takes longer than torch itself.
    """
    from torchvision.transforms.v2 import functional

    return functional


def grayscale(planes: Tensor) -> Tensor:
    """Returns uint8 [n, 3, size, size] without colour: torchvision's `rgb_to_grayscale`."""
    colourless: Tensor = torchvision_functions().rgb_to_grayscale(planes, num_output_channels=3)
    return colourless


def sharpness(planes: Tensor, factor: Tensor) -> Tensor:
    """Sharpens each image, or smooths it, by its own factor: torchvision's `adjust_sharpness`.

    Args:
        planes: uint8 [n, 3, size, size].
        factor: float32 [n], 0 or more: 0 smooths, 1 changes nothing.

    Returns:
        uint8 [n, 3, size, size]; the outermost pixels stay as they are.
    """
    values = planes.to(torch.float32)
    kernel = torch.full((3, 1, 3, 3), 1 / 13, device=planes.device)
    kernel[:, :, 1, 1] = 5 / 13
    inner = values[:, :, 1:-1, 1:-1]
    smooth = F.conv2d(values, kernel, groups=3).round_()
    inner.add_(smooth.sub_(inner).mul_((1 - factor)[:, None, None, None]))
    return values.clamp_(0, 255).to(torch.uint8)
