"""Random numbers that belong to an image and an epoch, whatever batch or process the image is in.

Each number is a hash of (seed, epoch, image, purpose, position): SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable
pseudorandom number generators", OOPSLA), restarted for each image. Nothing is drawn in sequence, so a change that is
switched on or off alters no number of another one. They are computed on the host, where they also decide which images
share an operation, without waiting for a device.
"""

from __future__ import annotations

import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

_IMAGES: Final = 2
"""The domain of these numbers, beside those of `kcv.data.order`."""

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, as in SplitMix64


class ImageRng:
    """Draws numbers for each of some images.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        indices: int64 [b], each image's position in the training set.

    Example:
        >>> ImageRng(seed=1, epoch=0, indices=np.array([7, 8])).uniform("rotation", 1).shape
        (2, 1)
    """

    def __init__(self, seed: int, epoch: int, indices: NDArray[np.int64]) -> None:
        self._seed = seed
        self._epoch = epoch
        self._places = indices.astype(np.uint64) + np.uint64(1)
        self.count = len(indices)

    def uniform(self, purpose: str, each: int) -> NDArray[np.float64]:
        """Returns float64 [b, each] in 0 to 1 (exclusive).

        Args:
            purpose: names what the numbers are for; each name has its own.
            each: how many numbers per image.
        """
        entropy = (self._seed, self._epoch, _IMAGES, zlib.crc32(purpose.encode()))
        start = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
        with np.errstate(over="ignore"):
            own = _mixed(start + self._places * _STEP)
            bits = _mixed(own[:, None] + np.arange(1, each + 1, dtype=np.uint64) * _STEP)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def between(self, purpose: str, low: float, high: float, each: int = 1) -> NDArray[np.float64]:
        """Returns float64 [b, each], uniform in `low` to `high`."""
        return low + (high - low) * self.uniform(purpose, each)

    def integers(self, purpose: str, count: int, each: int = 1) -> NDArray[np.int64]:
        """Returns int64 [b, each], uniform in 0 to `count` (exclusive)."""
        return (self.uniform(purpose, each) * count).astype(np.int64)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns SplitMix64's finaliser of each value."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
