"""Test-time augmentation: a model's logits as the mean over several views of each image (decision 027).

A view is the image, shifted by some pixels, or mirrored, or both; what a shift uncovers is filled with the mirrored
edge, as in training (`augment.crop_padding`). It is a function of the pixels at the model's size, so that a `.keras`
file, an ONNX file and the graph of an export see the same bytes.

The idea is that of Krizhevsky, Sutskever and Hinton (NeurIPS 2012), who averaged ten crops.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kcv.common.text import printable, shortened
from kcv.errors import UsageError
from kcv.metrics.temperature import TTA_NAME

if TYPE_CHECKING:
    import torch

Pixels = TypeVar("Pixels", "NDArray[np.uint8]", "torch.Tensor")
Rows = TypeVar("Rows", "NDArray[np.float32]", "torch.Tensor")

MOST_VIEWS = 64

_CORNER = 16
_FARTHEST = 8
"""Shifts are this part of a side: to each corner, and at most."""
_BASES = (2, 3)
"""Bases of the sequences that shifts down and right are taken from."""


@dataclass(frozen=True, eq=False)
class View:
    """What a model sees in place of an image.

    Attributes:
        rows: for each of its rows, which row of the image it is, int64 [size].
        columns: the same for its columns.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def of(cls, size: int, down: int = 0, right: int = 0, *, mirrored: bool = False) -> View:
        """Returns the view of an image that is shifted by some pixels, then mirrored left to right.

        Args:
            size: side of the image, in pixels.
            down: the shift, less than `size` up or down.
            right: the shift to the right.
            mirrored: whether it is mirrored.
        """
        columns = _shifted(size, right)
        return cls(_shifted(size, down), columns[::-1] if mirrored else columns)

    def __call__(self, images: Pixels) -> Pixels:
        """Returns the view of a batch of images.

        Args:
            images: RGB 0-255, [n, size, size, 3], of NumPy or torch.
        """
        return _take(_take(images, self.rows, 1), self.columns, 2)


@dataclass(frozen=True)
class Tta:
    """A test-time augmentation.

    Attributes:
        name: `flip`, `five_crop`, or a number of views.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> Tta:
        """Returns the augmentation of a name.

        Raises:
            UsageError: there is none of that name.
        """
        if not re.fullmatch(TTA_NAME, text):
            raise UsageError(
                f"--tta: received {printable(shortened(repr(text)))}, allowed: flip, five_crop, or a number of views "
                f"from 2 to {MOST_VIEWS}."
            )
        return cls(text)

    def views(self, size: int, *, mirrored: bool = False) -> list[View]:
        """Returns the views of an image, the first of them the image itself.

        `flip`: and its mirror image. `five_crop`: and the image shifted to each of the four corners, by 1/16 of a side.
        A number: and the image shifted by up to 1/8 of a side, evenly spread over all such shifts; for a model that was
        trained on mirror images, every other view is mirrored. They are the same for each image, on every machine, and
        the first views of a larger number.

        Args:
            size: side of the images, in pixels.
            mirrored: whether the model was trained on mirror images.
        """
        if self.name == "flip":
            return [View.of(size), View.of(size, mirrored=True)]
        if self.name == "five_crop":
            reach = min(max(1, size // _CORNER), size - 1)
            return [View.of(size), *(View.of(size, a * reach, b * reach) for a in (-1, 1) for b in (-1, 1))]
        shifts = itertools.islice(_shifts(size), int(self.name))
        flips = itertools.cycle((False, mirrored))
        return [View.of(size, *shift, mirrored=flip) for shift, flip in zip(shifts, flips, strict=False)]


def _shifts(size: int) -> Iterator[tuple[int, int]]:
    """Yields shifts down and right: none, then all others of up to a part of a side, in an even order; then again.

    The order is that in which points of a Halton sequence (Numerische Mathematik 2, 1960) come to them.
    """
    reach = min(max(1, size // _FARTHEST), size - 1)
    choices = 2 * reach + 1
    while True:
        yield (0, 0)
        seen = {(0, 0)}
        for index in itertools.count(1):
            if len(seen) == choices**2:
                break
            down, right = (choices * number // base**digits for number, base, digits in _halton(index))
            shift = (down - reach, right - reach)
            if shift not in seen:
                seen.add(shift)
                yield shift


def _halton(index: int) -> Iterator[tuple[int, int, int]]:
    """Yields a point of the Halton sequence by coordinate: the numerator, and the base and power of the denominator."""
    for base in _BASES:
        number, digits, left = 0, 0, index
        while left:
            number, digits, left = number * base + left % base, digits + 1, left // base
        yield number, base, digits


def _shifted(size: int, by: int) -> NDArray[np.int64]:
    """Returns which pixel of a side each pixel of its shifted copy is; beyond an edge, the mirrored ones."""
    place = np.abs(np.arange(size) - by)
    found: NDArray[np.int64] = np.minimum(place, 2 * (size - 1) - place).astype(np.int64)
    return found


def averaged(forward: Callable[[Pixels], Rows], images: Pixels, views: Sequence[View]) -> Rows:
    """Returns the mean of a model's logits over views of a batch, one view after another.

    Args:
        forward: the model: images to logits, [n, classes].
        images: RGB 0-255, [n, size, size, 3].
        views: the views; one or more.
    """
    total = forward(views[0](images))
    for view in views[1:]:
        total = total + forward(view(images))
    mean: Any = total / len(views)  # float32 as well: NumPy keeps the dtype beside a Python number
    found: Rows = mean
    return found


def _take(images: Pixels, places: NDArray[np.int64], axis: int) -> Pixels:
    if np.array_equal(places, np.arange(len(places))):
        return images
    if isinstance(images, np.ndarray):
        return images.take(places, axis)
    import torch

    return torch.index_select(images, axis, torch.from_numpy(places.copy()).to(images.device))
