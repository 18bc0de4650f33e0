"""Batches of images for inference, as tensors on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from kcv.data.batches import Batch, SplitBatches
from kcv.data.dataset import Images
from kcv.data.order import Indices, Share


class InferenceBatches(SplitBatches):
    """A split in its own order, unchanged, with plain one-hot targets.

    Args:
        images: any split.
        batch_size: the most images in a batch; all are nearly equal in size.
        device: where the batches are made.
        workers: as for `TrainingBatches`.
        num_classes: width of the targets.
        share: of the batches, that are the same whoever makes them; together the processes give each once.

    Raises:
        DataError: no images.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        device: torch.device | str,
        num_classes: int,
        workers: int | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__(images, num_classes, batch_size, device, workers)
        begin, end = (share or Share()).bounds(self._steps)
        parts = np.array_split(np.arange(len(images)), self._steps)
        places = torch.split(torch.arange(len(images), device=self._device), [len(part) for part in parts])
        self._parts, self._places = parts[begin:end], places[begin:end]
        self._steps = end - begin

    def __iter__(self) -> Iterator[Batch]:
        """Yields the images from first to last."""
        for where, images in zip(self._places, self._images(self._parts, self._places), strict=True):
            yield images, self._targets(where, 0.0)

    def without_images(self) -> Iterator[tuple[Indices, Tensor]]:
        """Yields positions in the split and targets of each batch."""
        for part, where in zip(self._parts, self._places, strict=True):
            yield part, self._targets(where, 0.0)
