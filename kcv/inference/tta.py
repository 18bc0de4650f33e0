"""Test-time augmentation: a model's logits as the mean over several views of each image (decision 027).

A view is a mirrored image, or a part of it that is enlarged to the image's size. It is a function of the pixels at the
model's size, so that a `.keras` file, an ONNX file and the graph of an export see the same bytes.

The idea is that of Krizhevsky, Sutskever and Hinton (NeurIPS 2012), who averaged ten crops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

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

_CROP = 7 / 8
"""The side of the smallest crop, relative to the image: 224 of 256 pixels, as usual."""
_SEED = 0
_TRIES = 100
_STEPS = 64
"""Weights are whole numbers of 64ths, so that float32 adds them exactly, in any order and on any device."""


@dataclass(frozen=True, eq=False)
class Axis:
    """How the pixels of one side are made: each is between two pixels of the image.

    Attributes:
        first: index of one of them, int64 [size].
        second: index of the other, int64 [size].
        share: weight of the second, in 64ths, float32 [size].
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: NDArray[np.float32]

    @classmethod
    def of(cls, size: int, start: int, side: int, *, reverse: bool = False) -> Axis:
        """Returns the axis that enlarges `side` pixels from `start` on to `size`, linearly between their centres."""
        place = np.clip(start + (np.arange(size) + 0.5) * side / size - 0.5, start, start + side - 1)
        first = np.floor(place).astype(np.int64)
        share = np.rint(_STEPS * (place - first)).astype(np.float32)
        found = cls(first, np.minimum(first + 1, start + side - 1), share)
        return cls(found.first[::-1], found.second[::-1], found.share[::-1]) if reverse else found


@dataclass(frozen=True, eq=False)
class View:
    """What a model sees in place of an image.

    Attributes:
        rows: how its rows are made.
        columns: how its columns are made.
    """

    rows: Axis
    columns: Axis

    def __call__(self, images: Pixels) -> Pixels:
        """Returns the view of a batch of images.

        Args:
            images: RGB 0-255, [n, size, size, 3], of NumPy or torch. Both give the same bytes.
        """
        if not (self.rows.share.any() or self.columns.share.any()):
            return _take(_take(images, self.rows.first, 1), self.columns.first, 2)
        whole = _blend(_blend(images, self.rows, 1), self.columns, 2)
        return cast("Pixels", _rounded(whole, _STEPS**2))


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
        """Returns the views of an image.

        `flip`: the image and its mirror image. `five_crop`: the corners and the centre, each 7/8 of a side. A number:
        the image, and random crops of 7/8 to all of a side, half of them mirrored; the same for each image.

        Args:
            size: side of the images, in pixels.
        """
        whole = View(Axis.of(size, 0, size), Axis.of(size, 0, size))
        if self.name == "flip":
            return [whole, View(whole.rows, Axis.of(size, 0, size, reverse=True))]
        least = max(1, round(_CROP * size))
        if self.name == "five_crop":
            last = size - least
            corners = ((0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2))
            return [View(Axis.of(size, top, least), Axis.of(size, left, least)) for top, left in corners]
        drawn = list(_crops(size, least, int(self.name)))
        return [
            View(Axis.of(size, top, side), Axis.of(size, left, side, reverse=mirrored))
            for side, top, left, mirrored in drawn
        ]


def _crops(size: int, least: int, count: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yields side, top, left and whether it is mirrored: the whole image, then random crops, none of them twice.

    A tiny image has few crops; there some come twice.
    """
    rng = np.random.default_rng(_SEED)
    crop, seen = (size, 0, 0, False), set()
    for _ in range(count):
        yield crop
        seen.add(crop)
        for _ in range(_TRIES):
            side = int(rng.integers(least, size, endpoint=True))
            top, left = (int(rng.integers(0, size - side, endpoint=True)) for _ in range(2))
            crop = (side, top, left, bool(rng.integers(0, 1, endpoint=True)))
            if crop not in seen:
                break


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


def _blend(images: Any, axis: Axis, at: int) -> Any:
    """Returns 64 times the numbers between two pixels of each row or column, float32 without any rounding."""
    share: Any = axis.share.reshape((-1, 1, 1) if at == 1 else (-1, 1))
    if not isinstance(images, np.ndarray):
        import torch

        share = torch.from_numpy(share.copy()).to(images.device)
    return _take(images, axis.first, at) * (_STEPS - share) + _take(images, axis.second, at) * share


def _rounded(values: Any, scale: int) -> Any:
    """Returns values / scale as uint8, halves upwards."""
    if isinstance(values, np.ndarray):
        return np.floor((values + scale // 2) / np.float32(scale)).astype(np.uint8)
    import torch

    return ((values + scale // 2) / scale).floor().to(torch.uint8)
