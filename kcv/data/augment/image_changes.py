"""Changes that are functions of (seed, epoch, image) alone: geometry, operations at random, blur and greyscale.

All numbers of a batch are drawn at once. On a CPU the images are then changed a few at a time, see
`kcv.data.augment.parts`. No image depends on those beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.config import AugmentConfig
from kcv.data.augment import automatic, filters, geometry
from kcv.data.augment.image_rng import ImageRng
from kcv.data.augment.parts import parts
from kcv.data.augment.warp import resized_crop, warp

Step: TypeAlias = Callable[[Tensor, slice], Tensor]
"""Images, pixels or planes, and which part of the batch they are, to changed images."""


class ImageChanges:
    """The configured changes of single images.

    Args:
        config: the augmentation settings.
        size: side of the images, in pixels.
    """

    def __init__(self, config: AugmentConfig, size: int) -> None:
        self._config = config
        self._size = size
        self.flips = geometry.moves(config)
        """Whether these changes can flip images left to right in passing."""
        self.active = self.flips or config.auto_augment != "none" or bool(config.grayscale or config.blur)

    def __call__(self, images: Tensor, chance: ImageRng, mirrored: Tensor | None) -> Tensor:
        """Returns the changed images, uint8 [b, size, size, 3]; the argument stays as it is.

        Args:
            images: uint8 [b, size, size, 3].
            chance: the random numbers of these images.
            mirrored: bool [b], on the device of the images: which ones are flipped left to right, where `flips`.
        """
        config, count = self._config, len(images)
        if mirrored is None:
            mirrored = torch.zeros(count, dtype=torch.bool, device=images.device)
        crop: Step | None = None
        steps: list[Step] = []
        if self.flips:
            moved = geometry.draw(config, self._size, chance)
            if moved.boxes is not None and moved.only_crops:
                crop = _cropping(torch.from_numpy(moved.boxes), mirrored)
            else:
                steps.append(_warping(moved, self._size, mirrored, projective=config.perspective > 0))
        if (drawn := automatic.draw(config, self._size, chance)) is not None:
            steps.append(lambda some, part: automatic.apply(some, drawn[part]))
        if config.blur:
            steps.append(self._blurring(chance, images.device))
        if config.grayscale:
            colourless = chance.uniform("grayscale", 1)[:, 0] < config.grayscale
            steps.append(lambda some, part: _some(some, colourless[part], lambda few, _: filters.grayscale(few)))
        return self._apply(images, crop, steps)

    def _apply(self, images: Tensor, crop: Step | None, steps: Sequence[Step]) -> Tensor:
        """Runs `crop` on pixels and then the steps on planes of colour, both for a few images at a time."""
        result = torch.empty_like(images)
        for part in parts(images):
            some = images[part] if crop is None else crop(images[part], part)
            if steps:
                planes = some.permute(0, 3, 1, 2).contiguous()
                for step in steps:
                    planes = step(planes, part)
                some = planes.permute(0, 2, 3, 1)
            result[part] = some
        return result

    def _blurring(self, chance: ImageRng, device: torch.device) -> Step:
        blurred = chance.uniform("blur", 1)[:, 0] < self._config.blur
        sigma = self._size * chance.between("sigma", *filters.SIGMA)[:, 0]
        own = torch.from_numpy(sigma.astype(np.float32)).to(device)
        radius = filters.blur_radius(self._size)

        def blur(some: Tensor, part: slice) -> Tensor:
            return _some(some, blurred[part], lambda few, which: filters.gaussian_blur(few, own[part][which], radius))

        return blur


def _cropping(boxes: Tensor, mirrored: Tensor) -> Step:
    return lambda some, part: resized_crop(some, boxes[part], mirrored[part])


def _warping(moved: geometry.Geometry, size: int, mirrored: Tensor, *, projective: bool) -> Step:
    """Returns the step that crops, deforms and flips: all of it in one pass over the pixels."""
    matrices = torch.from_numpy(moved.matrices(size).astype(np.float32)).to(mirrored.device)
    matrices[:, :, 0] *= 1.0 - 2.0 * mirrored[:, None]
    return lambda some, part: warp(some, matrices[part], fill=None, projective=projective)


def _some(planes: Tensor, chosen: NDArray[np.bool_], change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Returns the images with the chosen ones changed; `change` also gets their positions."""
    if not chosen.any():
        return planes
    where = torch.from_numpy(np.flatnonzero(chosen)).to(planes.device)
    if chosen.all():
        return change(planes, where)
    return planes.index_copy(0, where, change(planes.index_select(0, where), where))
