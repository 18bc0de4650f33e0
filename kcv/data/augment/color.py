"""Random brightness, contrast, saturation and hue of a batch of images: one small matrix per image.

Each of the four is linear in a pixel's colour, so together they are `matrix @ rgb + offset`, with one rounding and one
clamp at the end, while torchvision's ColorJitter has four. Hue is a rotation of the chroma plane of YIQ, as in NVIDIA
DALI's `color_twist`, not a conversion through HSV: perceived brightness (luma) stays the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kcv.data.augment.parts import parts
from kcv.data.augment.rng import BatchRng

# Rows: luma, then the two chroma axes of YIQ (FCC NTSC, 1953).
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def jitter(images: Tensor, strength: float, hue: float, chance: BatchRng) -> Tensor:
    """Draws each image's four changes and applies them.

    Args:
        images: uint8 [b, h, w, 3], RGB.
        strength: brightness, contrast and saturation factors come from [max(0, 1 - strength), 1 + strength].
        hue: the hue shift, in turns of the colour circle, comes from [-hue, hue].
        chance: the random numbers of this batch, on the device of `images`.

    Returns:
        uint8 [b, h, w, 3].
    """
    low = max(0.0, 1.0 - strength)
    drawn = chance.uniform(4)[..., 0]
    brightness, contrast, saturation = low + (1.0 + strength - low) * drawn[:3]
    return adjust(images, brightness, contrast, saturation, hue * (2.0 * drawn[3] - 1.0))


def adjust(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, turns: Tensor) -> Tensor:
    """Changes each image's colours by its own factors.

    Args:
        images: uint8 [b, h, w, 3], RGB.
        brightness: float32 [b], a factor on all values.
        contrast: float32 [b], a factor on the distance from the image's mean luma.
        saturation: float32 [b], a factor on the distance from the pixel's own luma.
        turns: float32 [b], hue shift as a fraction of the colour circle; positive from red to green.

    Returns:
        uint8 [b, h, w, 3], rounded once and clamped to 0 to 255.
    """
    yiq = torch.tensor(_YIQ, dtype=torch.float64)
    luma = yiq[:1]
    quarter = torch.tensor(((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)), dtype=torch.float64)
    grey = luma.expand(3, 3)
    basis = torch.stack((grey, torch.eye(3, dtype=torch.float64) - grey, torch.linalg.inv(yiq) @ quarter @ yiq))
    basis = basis.to(images.device, torch.float32)

    angle = 2.0 * math.pi * turns
    weights = torch.stack((torch.ones_like(angle), saturation * angle.cos(), saturation * angle.sin()), dim=1)
    gain = brightness * contrast
    matrix = gain[:, None, None] * torch.tensordot(weights, basis, dims=1)

    result = torch.empty_like(images)
    for part in parts(images):
        pixels = images[part].reshape(len(matrix[part]), -1, 3).to(torch.float32)
        mean = pixels.mean(dim=1) @ basis[0, 0]
        # A grey offset passes through saturation and hue unchanged, so it can be added last.
        offset = ((1.0 - contrast[part]) * brightness[part] * mean)[:, None, None].expand(-1, 1, 3)
        changed = torch.baddbmm(offset, pixels, matrix[part].transpose(1, 2))
        result[part] = changed.round_().clamp_(0, 255).to(torch.uint8).view(images[part].shape)
    return result
