"""A classifier for the tests of predictions: it counts what it is given, and knows dark images from bright ones."""

from __future__ import annotations

import numpy as np


class Brightness:
    """Gives up after so many images.

    Attributes:
        seen: the images that it was given.
    """

    class_names, image_size, resize, threshold = ("dark", "bright"), 8, "squash", None
    preferred_batch, concurrent = 2, False

    def __init__(self, last: int = 10**9) -> None:
        self.seen, self.last = 0, last

    def predict(self, images: list[np.ndarray], *, batch_size: int | None = None) -> np.ndarray:
        """Returns how dark and how bright images are, float32 [n, 2]."""
        self.seen += len(images)
        if self.seen > self.last:
            raise MemoryError
        share = np.array([image.mean() / 255 for image in images], np.float32)
        return np.stack([1 - share, share], axis=1)
