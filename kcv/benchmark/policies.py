"""Each policy of augmentation in kcv, and its transforms in torchvision, applied to one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from kcv.config import AugmentConfig
from kcv.config.policies import POLICIES
from kcv.data.augment.filters import SIGMA, blur_radius
from kcv.data.augment.pipeline import ERASED_AREA, ERASED_RATIO, Augment
from kcv.data.augment.rng import BatchRng
from kcv.data.augment.warp import GREY

NAMES = tuple(name for name in POLICIES if name != "none")


def candidates(policy: str, pixels: NDArray[np.uint8], device: str) -> dict[str, tuple[Callable[[], Any], int]]:
    """Returns the functions to time, by name, each with the number of images that it augments per call.

    Args:
        policy: one of `NAMES`.
        pixels: uint8 [b, size, size, 3].
        device: the device that kcv uses; torchvision's transforms get the images one by one on the CPU.
    """
    config = AugmentConfig.model_validate({"policy": policy})
    return {
        "kcv": (in_kcv(config, pixels, device), len(pixels)),
        "torchvision": (_in_torchvision(config, pixels), len(pixels)),
    }


def in_kcv(config: AugmentConfig, pixels: NDArray[np.uint8], device: str) -> Callable[[], Any]:
    """Returns a function that augments the images as one batch, each time as in a further epoch."""
    augment = Augment(config, image_size=pixels.shape[1], seed=0)
    images, count = torch.from_numpy(pixels).to(device), len(pixels)
    targets, places = torch.zeros(count, 10, device=device), np.arange(count)
    indices = torch.from_numpy(places).to(device)
    chance = BatchRng(torch.Generator(device).manual_seed(0), count)
    epoch = 0

    def work() -> Tensor:
        nonlocal epoch
        changed, _ = augment(images, targets, chance=chance, indices=indices, epoch=epoch, places=places)
        epoch += 1
        return changed

    return work


def _in_torchvision(config: AugmentConfig, pixels: NDArray[np.uint8]) -> Callable[[], Any]:
    images = list(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
    transform = torchvision_twin(config, pixels.shape[1])
    return lambda: torch.stack([transform(image) for image in images])


def torchvision_twin(config: AugmentConfig, size: int) -> v2.Compose:
    """Returns the transforms of torchvision that do what a policy does, in the order of its training recipe."""
    deforms = config.rotation or config.shear
    shear = (-config.shear, config.shear) * 2 if config.shear else None
    smooth, radius = v2.InterpolationMode.BILINEAR, blur_radius(size)
    factor, blur = config.color_jitter, v2.GaussianBlur(2 * radius + 1, (SIGMA[0] * size, SIGMA[1] * size))
    automatic = {
        "none": None,
        "randaugment": v2.RandAugment(config.num_ops, config.magnitude, fill=GREY),
        "trivialaugment": v2.TrivialAugmentWide(fill=GREY),
        "augmix": v2.AugMix(fill=GREY),
    }[config.auto_augment]
    transforms = (
        config.perspective and v2.RandomPerspective(config.perspective, p=1.0),
        deforms and v2.RandomAffine(config.rotation, shear=shear, interpolation=smooth),
        config.resized_crop < 1 and v2.RandomResizedCrop(size, (config.resized_crop, 1.0), antialias=True),
        config.flip != "none" and v2.RandomHorizontalFlip(),
        automatic,
        (factor or config.hue) and v2.ColorJitter(factor, factor, factor, config.hue),
        config.grayscale and v2.RandomGrayscale(config.grayscale),
        config.blur and v2.RandomApply([blur], config.blur),
        config.random_erasing and v2.RandomErasing(config.random_erasing, ERASED_AREA, ERASED_RATIO, GREY),
    )
    return v2.Compose([transform for transform in transforms if transform])
