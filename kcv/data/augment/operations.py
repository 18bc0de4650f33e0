"""The operations of RandAugment, TrivialAugment and AugMix: one strength per image, each as torchvision has it.

They take and return uint8 [n, 3, size, size] and work on all images of a batch that drew the same operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.data.augment import filters
from kcv.data.augment.geometry import Matrices, affine

Operation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Images and strengths, float32 [n], to changed images."""

_LUMA: Final = (0.2989, 0.587, 0.114)  # as in torchvision


def matrices(name: str, strength: NDArray[np.float64], size: int) -> Matrices:
    """Returns the matrices of a geometric operation, from the result to the image.

    Args:
        name: one of `GEOMETRIC`.
        strength: [n], with its sign: a slope, whole pixels (a fraction is cut off), or degrees counter-clockwise.
        size: side of the images, in pixels.
    """
    count = len(strength)
    angle, shift, shear = np.zeros(count), np.zeros((count, 2)), np.zeros((count, 2))
    centre = (0.0, 0.0)
    axis = int(name.endswith("Y"))
    if name == "Rotate":
        angle = -strength
    elif name.startswith("Translate"):
        shift[:, axis] = 2 * np.trunc(strength) / size
    else:
        shear[:, axis] = np.degrees(np.arctan(strength))
        centre = (-1.0, -1.0)
    return np.asarray(np.linalg.inv(affine(angle, shift, np.ones(count), shear, centre)), np.float64)


GEOMETRIC: Final = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""Operations that move pixels; they are matrices, see `matrices`."""


def _column(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]


def _luma(planes: Tensor) -> Tensor:
    """Returns the luma of each pixel, rounded down: float32 [n, 1, size, size]."""
    red, green, blue = planes.unbind(1)
    luma = red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return luma.floor_()[:, None]


def _blended(planes: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Returns `factor` of the image and the rest of the other, clamped and rounded down."""
    values = planes.to(torch.float32).mul_(factor).add_(other.mul_(1 - factor))
    return values.clamp_(0, 255).to(torch.uint8)


def _brightness(planes: Tensor, strength: Tensor) -> Tensor:
    return planes.to(torch.float32).mul_(_column(1 + strength)).clamp_(0, 255).to(torch.uint8)


def _color(planes: Tensor, strength: Tensor) -> Tensor:
    return _blended(planes, _luma(planes), _column(1 + strength))


def _contrast(planes: Tensor, strength: Tensor) -> Tensor:
    return _blended(planes, _luma(planes).mean(dim=(1, 2, 3), keepdim=True), _column(1 + strength))


def _sharpness(planes: Tensor, strength: Tensor) -> Tensor:
    return filters.sharpness(planes, 1 + strength)


def _posterize(planes: Tensor, strength: Tensor) -> Tensor:
    mask = 256 - torch.exp2(8 - strength)
    return planes & _column(mask).to(torch.uint8)


def _solarize(planes: Tensor, strength: Tensor) -> Tensor:
    # The first whole number that is not below the threshold.
    threshold = torch.ceil(255 * strength).to(torch.uint8)
    return torch.where(planes >= _column(threshold), ~planes, planes)


def _autocontrast(planes: Tensor, strength: Tensor) -> Tensor:
    stretched: Tensor = filters.torchvision_functions().autocontrast(planes)
    return stretched


def _equalize(planes: Tensor, strength: Tensor) -> Tensor:
    equalized: Tensor = filters.torchvision_functions().equalize(planes)
    return equalized


OPERATIONS: Final[Mapping[str, Operation]] = {
    "Brightness": _brightness,
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}
"""Operations that change values. Strengths: an addition to a factor of 1 (the first four), bits that are kept, the
threshold from which values are inverted (0 to 1), none."""
