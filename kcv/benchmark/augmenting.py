"""The same augmentation in kcv and four alternatives: shift by up to an eighth, flip, erase a quarter-side square."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from kcv.benchmark.policies import in_kcv
from kcv.config import AugmentConfig
from kcv.data.augment.keras_cv import installed
from kcv.data.augment.tf_pipeline import Pipeline
from kcv.data.augment.warp import GREY

Candidate: TypeAlias = tuple[Callable[[], Any], int]
"""The function to time, and the number of images it augments per call."""

_STREAMED: Final = 8
"""Batches that keras-cv's pipeline augments per call: opening it is a negligible part of a long epoch."""


def candidates(pixels: NDArray[np.uint8], device: str) -> dict[str, Candidate]:
    """Returns the functions to time, by name; `keras_cv` only if its extra is installed.

    Args:
        pixels: uint8 [b, size, size, 3].
        device: the device that kcv, torchvision_v2 and Keras use.
    """
    count = len(pixels)
    found: dict[str, Candidate] = {
        "kcv": (_kcv(pixels, device), count),
        "torchvision": (_torchvision(pixels), count),
        "torchvision_v2": (_torchvision_v2(pixels, device), count),
        "keras": (_keras(pixels, device), count),
    }
    if installed():
        found["keras_cv"] = (_keras_cv(pixels), count * _STREAMED)
    return found


def _kcv(pixels: NDArray[np.uint8], device: str) -> Callable[[], Any]:
    size = pixels.shape[1]
    return in_kcv(AugmentConfig(crop_padding=size // 8, flip="random", cutout=size // 4), pixels, device)


def _torchvision(pixels: NDArray[np.uint8]) -> Callable[[], Any]:
    size = pixels.shape[1]
    augment = transforms.Compose(
        [
            transforms.RandomCrop(size, padding=size // 8, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.RandomErasing(p=1.0, scale=_square(size), ratio=(1.0, 1.0), value=GREY),
        ]
    )
    images = [Image.fromarray(image) for image in pixels]
    return lambda: torch.stack([augment(image) for image in images])


def _torchvision_v2(pixels: NDArray[np.uint8], device: str) -> Callable[[], Any]:
    size = pixels.shape[1]
    augment = v2.Compose(
        [
            v2.RandomCrop(size, padding=size // 8, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.RandomErasing(p=1.0, scale=_square(size), ratio=(1.0, 1.0), value=GREY),
        ]
    )
    images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).contiguous()
    return lambda: augment(images)


def _keras(pixels: NDArray[np.uint8], device: str) -> Callable[[], Any]:
    import keras

    size = pixels.shape[1]
    images = torch.from_numpy(pixels).to(device).float()
    with keras.device(device):
        layers = [
            keras.layers.RandomTranslation(1 / 8, 1 / 8, fill_mode="reflect", interpolation="nearest", seed=0),
            keras.layers.RandomFlip("horizontal", seed=0),
            keras.layers.RandomErasing(1.0, scale=_square(size), fill_value=GREY, seed=0),
        ]

    def work() -> Any:
        with keras.device(device), torch.no_grad():
            changed = images
            for layer in layers:
                changed = layer(changed, training=True)
            return changed

    return work


def _keras_cv(pixels: NDArray[np.uint8]) -> Callable[[], Any]:
    layers: list[dict[str, Any]] = [
        {"name": "RandomTranslation", "height_factor": 1 / 8, "width_factor": 1 / 8, "interpolation": "nearest"},
        {"name": "RandomFlip"},
        {"name": "RandomCutout", "height_factor": 1 / 4, "width_factor": 1 / 4, "fill_value": float(GREY)},
    ]
    pipeline = Pipeline(layers, pixels.shape[1], 10, "cpu")
    images, targets = torch.from_numpy(pixels), torch.zeros(len(pixels), 10)
    return lambda: list(pipeline.stream(((0, step), images, targets) for step in range(_STREAMED)))


def _square(size: int) -> tuple[float, float]:
    """Returns the fraction of an image covered by a square of a quarter of its side, as a range."""
    part = (size // 4) ** 2 / size**2
    return part, part
