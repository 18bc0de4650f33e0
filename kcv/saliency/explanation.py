"""What explains images: heat maps of classes and their probabilities, by whatever computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Explanation:
    """Heat maps of one batch.

    Attributes:
        maps: float32 [n, size, size] in 0-1; zero everywhere if no part of the image supports the class more than
            another.
        classes: the explained class of each image, int64 [n].
        probabilities: its probability (0-1), float64 [n].
    """

    maps: NDArray[np.float32]
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]


class Explaining(Protocol):
    """Explains batches of images, by one method at one layer."""

    @property
    def note(self) -> str:
        """The method and the layer, for a heading."""

    def explain(self, pixels: NDArray[np.uint8], position: int | None) -> Explanation:
        """Explains one batch.

        Args:
            pixels: RGB, uint8 [n, size, size, 3], at the model's size.
            position: the class to explain; None for the most probable one of each image.

        Raises:
            ArtifactError: the model cannot be run.
        """
