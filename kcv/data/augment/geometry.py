"""Random crops, rotations, shifts, zooms, shears and perspective, composed into one matrix per image.

An image is sampled once, however many of them are on: it is seen in perspective, turned and sheared, then cropped,
enlarged and flipped. What lies outside the image is its mirror image. Each is torchvision's operation of the same name;
a crop is taken from the image as it was decoded to the model's size, and enlarged.

Positions and matrices are those of `kcv.data.augment.warp`, but in double precision, and on the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kcv.config import AugmentConfig
from kcv.data.augment.image_rng import ImageRng

Matrices = NDArray[np.float64]
"""[n, 3, 3]."""

CROP_RATIO: Final = (3 / 4, 4 / 3)
"""Width over height of a random crop, log-uniform (Szegedy et al. 2015, arXiv 1409.4842; as in torchvision)."""
_TRIES: Final = 10  # as in torchvision: crops drawn per image; the first that fits is used

_CORNERS: Final = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


@dataclass(frozen=True)
class Geometry:
    """What was drawn for some images.

    Attributes:
        boxes: int64 [n, 4]: top, left, height and width of each crop in pixels; None without `resized_crop`.
        upright: bool [n]: False for images that are flipped upside down.
        moved: the matrices of all that is neither crop nor flip, from the result to the image; None if there are none.
    """

    boxes: NDArray[np.int64] | None
    upright: NDArray[np.bool_]
    moved: Matrices | None

    @property
    def only_crops(self) -> bool:
        """Whether all of it is a crop of each image."""
        return self.boxes is not None and self.moved is None and bool(self.upright.all())

    def matrices(self, size: int) -> Matrices:
        """Returns the matrices of everything, for images of `size` px, from the result to the image."""
        whole = np.tile(np.eye(3), (len(self.upright), 1, 1))
        if self.boxes is not None:
            top, left, height, width = self.boxes.T / size
            whole[:, 0, 0], whole[:, 0, 2] = width, 2 * left + width - 1
            whole[:, 1, 1], whole[:, 1, 2] = height, 2 * top + height - 1
        whole[:, :, 1] *= np.where(self.upright, 1.0, -1.0)[:, None]
        return whole if self.moved is None else self.moved @ whole


def moves(config: AugmentConfig) -> bool:
    """Returns whether a configuration has any change of this module."""
    return config.resized_crop < 1 or config.vertical_flip or _deforms(config)


def _deforms(config: AugmentConfig) -> bool:
    return any((config.rotation, config.translate, config.scale, config.shear, config.perspective))


def draw(config: AugmentConfig, size: int, chance: ImageRng) -> Geometry:
    """Draws the geometry of each image.

    Args:
        config: the augmentation settings.
        size: side of the images, in pixels.
        chance: the random numbers of the images.
    """
    boxes = crop_boxes(size, config.resized_crop, chance) if config.resized_crop < 1 else None
    upright = chance.uniform("vertical_flip", 1)[:, 0] >= (0.5 if config.vertical_flip else 0.0)
    moved: Matrices | None = None
    if _deforms(config):
        moved = np.asarray(np.linalg.inv(_deformations(config, chance)), np.float64)
    return Geometry(boxes, upright, moved)


def _deformations(config: AugmentConfig, chance: ImageRng) -> Matrices:
    """Returns the matrices from an image to its deformation: perspective, then all that is affine."""
    angle = chance.between("rotation", -config.rotation, config.rotation)[:, 0]
    shift = chance.between("translate", -2 * config.translate, 2 * config.translate, 2)
    zoom = chance.between("scale", 1 - config.scale, 1 + config.scale)[:, 0]
    shear = chance.between("shear", -config.shear, config.shear, 2)
    whole = affine(angle, shift, zoom, shear)
    if config.perspective:
        inwards = chance.uniform("perspective", 8).reshape(-1, 4, 2) * config.perspective
        whole = whole @ homography(_CORNERS - _CORNERS * inwards)
    return whole


def affine(
    angle: NDArray[np.float64],
    shift: NDArray[np.float64],
    zoom: NDArray[np.float64],
    shear: NDArray[np.float64],
    centre: tuple[float, float] = (0.0, 0.0),
) -> Matrices:
    """Returns matrices from an image to its affine change, with the meaning of torchvision's `affine`.

    Args:
        angle: [n], degrees, clockwise.
        shift: [n, 2], to the right and down, in halves of the side.
        zoom: [n], above 0; above 1 enlarges.
        shear: [n, 2], degrees, along x and y.
        centre: the position that is turned, zoomed and sheared about.
    """
    turn, (along, down) = np.radians(angle), np.radians(shear).T
    lean, tilt = np.tan(along), turn - down
    whole = np.tile(np.eye(3), (len(turn), 1, 1))
    whole[:, 0, 0] = np.cos(tilt) / np.cos(down)
    whole[:, 0, 1] = -np.cos(tilt) * lean / np.cos(down) - np.sin(turn)
    whole[:, 1, 0] = np.sin(tilt) / np.cos(down)
    whole[:, 1, 1] = -np.sin(tilt) * lean / np.cos(down) + np.cos(turn)
    whole[:, :2, :2] *= zoom[:, None, None]
    fixed = np.array(centre)
    whole[:, :2, 2] = shift + fixed - whole[:, :2, :2] @ fixed
    return whole


def homography(corners: NDArray[np.float64]) -> Matrices:
    """Returns matrices that move the corners of an image to other places.

    Args:
        corners: [n, 4, 2], the new positions (x, y) of the corners, clockwise from the top left; no three on a line.
    """
    (x, y), (u, v) = _CORNERS.T, corners.transpose(2, 0, 1)
    one, zero = np.ones_like(u), np.zeros_like(u)
    # u (g x + h y + 1) = a x + b y + c, and the same for v: eight equations for eight unknowns.
    first = np.stack((x * one, y * one, one, zero, zero, zero, -u * x, -u * y), axis=-1)
    second = np.stack((zero, zero, zero, x * one, y * one, one, -v * x, -v * y), axis=-1)
    system = np.concatenate((first, second), axis=1)
    solved = np.linalg.solve(system, np.concatenate((u, v), axis=1)[..., None])[..., 0]
    return np.concatenate((solved, np.ones((len(corners), 1))), axis=1).reshape(-1, 3, 3)


def crop_boxes(size: int, smallest: float, chance: ImageRng) -> NDArray[np.int64]:
    """Draws the crops of `resized_crop`.

    Args:
        size: side of the images, in pixels.
        smallest: the smallest area of a crop, as a fraction of the image's.
        chance: the random numbers of the images.

    Returns:
        int64 [n, 4]: top, left, height, width; the whole image where no crop of the drawn areas and ratios fits.
    """
    drawn = chance.uniform("resized_crop", 2 * _TRIES + 2)
    area = size * size * (smallest + (1 - smallest) * drawn[:, :_TRIES])
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    ratio = np.exp(low + (high - low) * drawn[:, _TRIES : 2 * _TRIES])
    sides = np.stack((np.sqrt(area / ratio), np.sqrt(area * ratio)), axis=-1).round().astype(np.int64)
    fits = ((sides > 0) & (sides <= size)).all(axis=-1)
    chosen = np.take_along_axis(sides, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    chosen = np.where(np.any(fits, axis=1, keepdims=True), chosen, size)
    corner = (drawn[:, -2:] * (size - chosen + 1)).astype(np.int64)
    return np.concatenate((corner, chosen), axis=1)
