"""Test-time augmentation: a model's logits as the mean over several views of each image (decision 027).

A view is the image, shifted by some pixels, or mirrored, or both; what a shift uncovers is filled with the mirrored
edge, as in training (`augment.crop_padding`). It is a function of the pixels at the model's size, so that a `.keras`
file, an ONNX file and the graph of an export see the same bytes.

The idea is that of Krizhevsky, Sutskever and Hinton (NeurIPS 2012), who averaged ten crops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from kcv.common.text import printable, shortened
from kcv.errors import UsageError

if TYPE_CHECKING:
    import torch

Pixels = TypeVar("Pixels", "NDArray[np.uint8]", "torch.Tensor")
Rows = TypeVar("Rows", "NDArray[np.float32]", "torch.Tensor")

MOST_VIEWS = 64
NAME = r"flip|five_crop|[2-9]|[1-5][0-9]|6[0-4]"
"""The names of test-time augmentations, as a pattern."""

_CORNER = 16
_FARTHEST = 8
"""Shifts are this part of a side: to each corner, and at most."""
_SEED = 0
_TRIES = 100


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
        if not re.fullmatch(NAME, text):
            raise UsageError(
                f"--tta: received {printable(shortened(repr(text)))}, allowed: flip, five_crop, or a number of views "
                f"from 2 to {MOST_VIEWS}."
            )
        return cls(text)

    def views(self, size: int) -> list[View]:
        """Returns the views of an image, the first of them the image itself.

        `flip`: and its mirror image. `five_crop`: and the image shifted to each of the four corners, by 1/16 of a side.
        A number: and random shifts of up to 1/8 of a side, half of them mirrored; the same for each image.

        Args:
            size: side of the images, in pixels.
        """
        if self.name == "flip":
            return [View.of(size), View.of(size, mirrored=True)]
        if self.name == "five_crop":
            reach = min(max(1, size // _CORNER), size - 1)
            return [View.of(size), *(View.of(size, a * reach, b * reach) for a in (-1, 1) for b in (-1, 1))]
        return [View.of(size, down, right, mirrored=flip) for down, right, flip in _drawn(size, int(self.name))]


def _drawn(size: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """Yields shifts down and right and whether it is mirrored: the image itself, then random views, none of them twice.

    A tiny image has few views; there some come twice.
    """
    rng = np.random.default_rng(_SEED)
    reach = min(max(1, size // _FARTHEST), size - 1)
    view: tuple[int, int, bool] = (0, 0, False)
    seen = set()
    for _ in range(count):
        yield view
        seen.add(view)
        for _ in range(_TRIES):
            down, right = (int(rng.integers(-reach, reach, endpoint=True)) for _ in range(2))
            view = (down, right, bool(rng.integers(0, 1, endpoint=True)))
            if view not in seen:
                break


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
