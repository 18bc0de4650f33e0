"""Samples a batch of images at other positions: one matrix per image, however many changes it is composed of.

Positions are in halves of the side from the centre: (-1, -1) is the outer corner at the top left, (1, 1) that at the
bottom right, and pixel i has its centre at (2 i + 1) / size - 1 (grid_sample's coordinates without aligned corners). A
matrix maps a position of the result, (x, y, 1), to where it comes from, up to a factor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 128
"""The value of blanked pixels: mid-grey, which the model's normalisation maps to about zero."""


def warp(planes: Tensor, matrices: Tensor, *, fill: int | None, projective: bool, nearest: bool = False) -> Tensor:
    """Samples each image at the positions that its matrix gives.

    Args:
        planes: uint8 [n, 3, size, size].
        matrices: float32 [n, 3, 3], from positions of the result to positions of the image.
        fill: the value outside the image, 0 to 255; None mirrors the image.
        projective: whether the last row of a matrix may be other than (0, 0, 1).
        nearest: take the nearest pixel instead of a bilinear mean.

    Returns:
        uint8 [n, 3, size, size], rounded to the nearest value.
    """
    values = planes.to(torch.float32)
    if fill is not None:
        values.sub_(fill)
    sampled = F.grid_sample(
        values,
        positions(matrices, planes.shape[-1], projective),
        mode="nearest" if nearest else "bilinear",
        padding_mode="reflection" if fill is None else "zeros",
        align_corners=False,
    )
    # All values are means of pixels, in 0 to 255 up to rounding, so truncation after adding a half rounds them.
    return sampled.add_(0.5 if fill is None else fill + 0.5).clamp_(0, 255).to(torch.uint8)


def positions(matrices: Tensor, size: int, projective: bool) -> Tensor:
    """Returns where each pixel of the result comes from, x and y: float32 [n, size, size, 2]."""
    axis = (2 * torch.arange(size, device=matrices.device, dtype=torch.float32) + 1) / size - 1
    along, down = matrices[:, :, 0, None] * axis, torch.addcmul(matrices[:, :, 2, None], matrices[:, :, 1, None], axis)
    grid = along[:, :2, None].permute(0, 2, 3, 1) + down[:, :2, None].permute(0, 3, 2, 1)
    if projective:  # dividing by 1 changes nothing, so it does not matter which images are computed together
        grid.div_((along[:, 2, None, :] + down[:, 2, :, None])[..., None])
    return grid


def resized_crop(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Enlarges a box of each image to the whole image, bilinearly, and flips it left to right.

    On a CPU torch resizes bytes as such, four times as fast as it samples a grid; boxes are never larger than the
    image, so there is nothing to smooth. Elsewhere it is one pass over the batch, equal up to rounding.

    Args:
        images: uint8 [n, size, size, 3].
        boxes: int64 [n, 4]: top, left, height, width; on the CPU.
        mirrored: bool [n], on the device of the images.

    Returns:
        uint8 [n, size, size, 3].
    """
    if images.device.type != "cpu":
        return sampled_crop(images, boxes.to(images.device), mirrored)
    size = images.shape[1]
    result = torch.empty_like(images)
    for number, (top, left, height, width) in enumerate(boxes.tolist()):
        box = images[number : number + 1, top : top + height, left : left + width].permute(0, 3, 1, 2)
        large = F.interpolate(box, (size, size), mode="bilinear", antialias=True)
        result[number] = (large.flip(3) if mirrored[number] else large)[0].permute(1, 2, 0)
    return result


def sampled_crop(images: Tensor, boxes: Tensor, mirrored: Tensor) -> Tensor:
    """As `resized_crop`, with everything on the device of the images, in one pass."""
    size = images.shape[1]
    axis = torch.arange(size, device=images.device, dtype=torch.float32)
    columns = torch.where(mirrored[:, None], size - 1 - axis, axis)
    top, left, height, width = boxes.to(torch.float32).T[..., None]
    # As in resizing, a pixel beside the edge of the box takes the edge, not what lies outside of the box.
    y = (top + ((axis + 0.5) * height / size - 0.5).clamp(min=0)).minimum(top + height - 1)
    x = (left + ((columns + 0.5) * width / size - 0.5).clamp(min=0)).minimum(left + width - 1)
    x, y = ((place * 2 + 1) / size - 1 for place in (x, y))
    grid = torch.stack((x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), dim=-1)
    planes = images.permute(0, 3, 1, 2).to(torch.float32)
    sampled = F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return sampled.add_(0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
