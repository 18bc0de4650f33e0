"""A classifier for the tests of predictions: it counts what it is given, and knows dark images from bright ones."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np

from kcv.inference.classifier import Classifier


class Brightness(Classifier):
    """Gives up after so many images.

    Attributes:
        seen: the images that it was given.
    """

    info = SimpleNamespace(class_names=("dark", "bright"), image_size=8, resize="squash", threshold=None, sets=None)
    preferred_batch, concurrent = 2, False

    def __init__(self, last: int = 10**9) -> None:
        self.seen, self.last = 0, last

    def _probabilities(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Returns how dark and how bright images are, float32 [n, 2]."""
        images = [image for batch in batches for image in batch]
        self.seen += len(images)
        if self.seen > self.last:
            raise MemoryError
        share = np.array([image.mean() / 255 for image in images], np.float32)
        return np.stack([1 - share, share], axis=1)
