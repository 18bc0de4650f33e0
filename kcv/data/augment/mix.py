"""Mixup and CutMix: blend training images, and their labels, in pairs.

Every image has its own proportion, while most implementations share one across a batch: the expected gradient is the
same and varies less. The partner of an image is the one before it in this process's slice, which is as good as any,
because batches come from a new random order each epoch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kcv.data.augment.rng import BatchRng


def mix(
    images: Tensor, targets: Tensor, mixup_alpha: float, cutmix_alpha: float, chance: BatchRng
) -> tuple[Tensor, Tensor]:
    """Applies mixup or CutMix to a batch; if both are on, each batch gets either one with equal probability.

    Args:
        images: uint8 [b, size, size, 3].
        targets: float32 [b, classes].
        mixup_alpha: parameter of the Beta distribution of mixup's proportion; 0 = off.
        cutmix_alpha: the same for CutMix; 0 = off.
        chance: the random numbers of this batch, on the device of `images`.

    Returns:
        Images (mixup: float32, CutMix: as given) and targets.
    """
    # torch has no public Beta distribution that takes a generator. These few numbers are drawn on the host from the
    # same seed, so that the host can also choose between the two without waiting for the device.
    host = np.random.default_rng(chance.seed)
    take_mixup = bool(mixup_alpha) and (not cutmix_alpha or host.random() < 0.5)
    alpha = mixup_alpha if take_mixup else cutmix_alpha
    keep = torch.from_numpy(host.beta(alpha, alpha, chance.total).astype(np.float32)).to(images.device)
    keep = chance.own(keep, dim=0)
    if take_mixup:
        return mixup(images, targets, keep)
    centre = chance.integers(0, images.shape[1], 2)
    return cutmix(images, targets, keep, centre[0], centre[1])


def mixup(images: Tensor, targets: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Blends each image with its neighbour (Zhang et al. 2017, arXiv 1710.09412).

    Args:
        images: [b, h, w, 3] in 0 to 255.
        targets: float32 [b, classes].
        keep: float32 [b] in 0 to 1, the fraction kept of each image.

    Returns:
        float32 [b, h, w, 3] in 0 to 255, and targets mixed in the same proportion.
    """
    values = images.to(torch.float32)
    blended = values.roll(1, 0).lerp_(values, keep[:, None, None, None])
    return blended, _mix_targets(targets, keep)


def cutmix(images: Tensor, targets: Tensor, keep: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Pastes a box of each image's neighbour over it (Yun et al. 2019, arXiv 1905.04899).

    Args:
        images: [b, size, size, 3].
        targets: float32 [b, classes].
        keep: float32 [b] in 0 to 1: the box is a square with an area of `1 - keep` of the image, if it fits.
        row: int64 [b], the row of the box's centre.
        column: int64 [b], its column.

    Returns:
        Images of the same dtype; targets mixed by the area actually replaced after the box was clipped at the border.
    """
    size = images.shape[1]
    side = (size * (1.0 - keep).clamp(0, 1).sqrt()).long()
    top, left = row - side // 2, column - side // 2
    bottom, right = (top + side).clamp(max=size), (left + side).clamp(max=size)
    top, left = top.clamp(min=0), left.clamp(min=0)
    kept = 1.0 - ((bottom - top) * (right - left)).to(torch.float32) / (size * size)
    mixed = torch.where(inside(top, bottom, left, right, size), images.roll(1, 0), images)
    return mixed, _mix_targets(targets, kept)


def inside(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, size: int) -> Tensor:
    """Returns a mask, bool [b, size, size, 1], of the pixels in each image's box, clipped to the image.

    Args:
        top: int64 [b], the first row.
        bottom: int64 [b], one past the last row.
        left: int64 [b], the first column.
        right: int64 [b], one past the last column.
        size: side of the images, in pixels.
    """
    axis = torch.arange(size, device=top.device)
    rows = (axis >= top[:, None]) & (axis < bottom[:, None])
    columns = (axis >= left[:, None]) & (axis < right[:, None])
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _mix_targets(targets: Tensor, keep: Tensor) -> Tensor:
    return targets.roll(1, 0).lerp_(targets, keep[:, None])
