"""Augments whole batches of training images on their device, with separate random parameters per image.

torchvision.transforms.v2 draws one set of parameters per call: on a batch, all images would share one crop. Called per
image, it is slow (crop, flip and a blanked square at 32 px, batch 256, one core: 7,000 images/s versus 100,000 here).
The augmentations here are therefore index arithmetic and masks, without a loop over images; what needs torchvision's
kernels is in `kcv.data.augment.image_changes`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.config import AugmentConfig
from kcv.data.augment.color import jitter
from kcv.data.augment.image_changes import ImageChanges
from kcv.data.augment.image_rng import ImageRng
from kcv.data.augment.mix import inside, mix
from kcv.data.augment.rng import BatchRng
from kcv.data.augment.warp import GREY
from kcv.errors import ConfigError

ERASED_AREA = (0.02, 0.33)
"""Fraction of the image that random erasing blanks (Zhong et al. 2017, arXiv 1708.04896; as in torchvision)."""
ERASED_RATIO = (0.3, 3.3)
"""Height over width of the erased rectangle, log-uniform (same source)."""
_LARGE = 64  # px; below, one mask for the batch is faster than a loop over its boxes
_ERASING_TRIES = 10  # as in torchvision: rectangles drawn per image; the first that fits is used


class Augment:
    """The configured augmentation of one training set.

    Order: crop and flip (one gather); the changes of single images (`ImageChanges`, which also flip where they move
    pixels); colour; cutout and random erasing (one fill); then mixup or cutmix.

    Args:
        config: the augmentation settings; the defaults do nothing.
        image_size: side of the images, in pixels.
        seed: determines the changes of single images, and their first orientation if `flip` is `alternating`.

    Raises:
        ConfigError: a padding or square does not fit images of this size.
    """

    def __init__(self, config: AugmentConfig, *, image_size: int, seed: int) -> None:
        problems = []
        if config.crop_padding >= image_size:
            # Reflection does not repeat the edge pixel, so at most size - 1 pixels can be mirrored.
            problems.append(
                f"augment.crop_padding={config.crop_padding} is too much for images of {image_size} px: "
                f"use 0 to {image_size - 1}"
            )
        if config.cutout > image_size:
            problems.append(
                f"augment.cutout={config.cutout} is larger than the images of {image_size} px: use 0 to {image_size}"
            )
        if problems:
            raise ConfigError(problems)
        self._config = config
        self._size = image_size
        self._seed = seed
        self._changes = ImageChanges(config, image_size)

    def __call__(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        chance: BatchRng,
        indices: Tensor,
        epoch: int,
        places: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Augments one batch without modifying the arguments.

        Args:
            images: uint8 [b, size, size, 3].
            targets: float32 [b, classes].
            chance: the random numbers of this batch, on the device of `images`.
            indices: int64 [b], each image's position in the training set.
            epoch: counted from 0.
            places: `indices` on the host, where they are known there; otherwise they are fetched if they are needed.

        Returns:
            Images of the same shape, uint8 or, after mixup, float32 in 0 to 255; targets, mixed if the images are.
        """
        config = self._config
        mirrored = None
        if config.crop_padding or config.flip != "none":
            down, right, mirrored = self._shifts_and_flips(images, chance, indices, epoch)
            if config.crop_padding or not self._changes.flips:
                images, mirrored = shift_and_flip(images, down, right, mirrored[:, None]), None
        if self._changes.active:
            own = ImageRng(self._seed, epoch, indices.cpu().numpy() if places is None else places)
            images = self._changes(images, own, mirrored)
        if config.color_jitter or config.hue:
            images = jitter(images, config.color_jitter, config.hue, chance)
        if config.cutout or config.random_erasing:
            images = self._blank(images, chance)
        if config.mixup or config.cutmix:
            images, targets = mix(images, targets, config.mixup, config.cutmix, chance)
        return images, targets

    def unmixed(self) -> Augment:
        """Returns the same augmentation without mixup and CutMix."""
        return Augment(without_mixing(self._config), image_size=self._size, seed=self._seed)

    def _shifts_and_flips(
        self, images: Tensor, chance: BatchRng, indices: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        padding, flip = self._config.crop_padding, self._config.flip
        down, right = chance.integers(-padding, padding + 1, 2)[..., None]
        if flip == "alternating":
            mirrored = first_flip(indices, self._seed) ^ bool(epoch % 2)
        elif flip == "random":
            mirrored = chance.integers(0, 2, 1)[0] == 1
        else:
            mirrored = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        return down, right, mirrored

    def _blank(self, images: Tensor, chance: BatchRng) -> Tensor:
        config, size = self._config, images.shape[1]
        if not config.cutout and size >= _LARGE and images.device.type == "cpu":
            return fill_boxes(images, erasing_boxes(size, config.random_erasing, chance))
        blank = torch.zeros((), dtype=torch.bool, device=images.device)
        if config.cutout:
            # The centre may be anywhere, so a square may extend beyond the border (DeVries & Taylor 2017, arXiv
            # 1708.04552: better than squares that are always complete).
            centre = chance.integers(0, size, 2)
            top, left = centre - config.cutout // 2
            blank = blank | inside(top, top + config.cutout, left, left + config.cutout, size)
        if config.random_erasing:
            blank = blank | inside(*erasing_boxes(size, config.random_erasing, chance), size)
        return images.masked_fill(blank, GREY)


def without_mixing(config: AugmentConfig) -> AugmentConfig:
    """Returns the settings with mixup and CutMix off."""
    return config.model_copy(update={"mixup": 0.0, "cutmix": 0.0})


def fill_boxes(images: Tensor, boxes: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Returns the images with a grey box in each: box by box, which is faster than a mask where few are not empty.

    Args:
        images: uint8 [b, size, size, 3].
        boxes: int64 [b] each: top, bottom, left, right (bottom and right exclusive).
    """
    images = images.clone()
    for number, (top, bottom, left, right) in enumerate(torch.stack(boxes, dim=1).tolist()):
        if bottom > top and right > left:
            images[number, top:bottom, left:right] = GREY
    return images


def shift_and_flip(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Shifts each image's window over its mirror-padded surroundings, then flips it left to right, in one gather.

    Args:
        images: [b, size, size, c].
        down: int64 [b, 1], rows to move the window down (-size < down < size).
        right: int64 [b, 1], columns to move it right.
        mirrored: bool [b, 1].

    Returns:
        A tensor like `images`; equal to crops of `reflect`-padded images.
    """
    count, size, _, channels = images.shape
    last = size - 1
    axis = torch.arange(size, device=images.device)
    rows = last - (last - (axis + down).abs()).abs()
    columns = last - (last - (torch.where(mirrored, last - axis, axis) + right).abs()).abs()
    rows = rows + size * torch.arange(count, device=images.device)[:, None]
    # index_select on whole pixels of 3 bytes is 4 times as fast on CPU as images[b, rows, columns].
    # 32-bit positions, if they suffice, halve the traffic: 1.2 times as fast at 32 px, 1.3 to 1.7 at 224 px.
    kind = torch.int32 if images.numel() < 2**31 else torch.int64
    pixels = (rows * size).to(kind)[:, :, None] + columns.to(kind)[:, None, :]
    return images.reshape(-1, channels).index_select(0, pixels.flatten()).view(images.shape)


def first_flip(indices: Tensor, seed: int) -> Tensor:
    """Returns bool [b]: whether each image is mirrored in epoch 0, a fixed coin flip of its index and the seed.

    Alternating after that shows both orientations of every image in any two epochs, which random flips do not (Jordan
    2024, "94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498). The hash is splitmix64's finaliser.
    """
    start = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    value = (indices + start) * -7046029254386353131  # 0x9E3779B97F4A7C15 as int64; products wrap as intended
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        # The mask clears the sign bits of the arithmetic shift, because splitmix64 shifts in zeros.
        value = (value ^ ((value >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return (value >> 33) & 1 == 1


def erasing_boxes(size: int, probability: float, chance: BatchRng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws the rectangles of random erasing.

    Returns:
        int64 [count] each: top, bottom, left, right (bottom and right exclusive); an empty box if nothing is erased.
    """
    drawn = chance.uniform(5, _ERASING_TRIES)
    area = size * size * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * drawn[0])
    low, high = (math.log(ratio) for ratio in ERASED_RATIO)
    ratio = torch.exp(low + (high - low) * drawn[1])
    height, width = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (height < size) & (width < size)
    # Distinct scores, because argmax need not return the first of equal values on every device.
    score = fits * torch.arange(_ERASING_TRIES, 0, -1, device=chance.device)
    pick = score.argmax(dim=1, keepdim=True)
    erase = fits.any(dim=1) & (drawn[2, :, 0] < probability)
    height, width = (side.gather(1, pick).squeeze(1) * erase for side in (height, width))
    top = (drawn[3, :, 0] * (size - height + 1)).long().clamp_(max=size)
    left = (drawn[4, :, 0] * (size - width + 1)).long().clamp_(max=size)
    return top, top + height, left, left + width
