"""Batches of frozen features in place of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from kcv.data.batches import Batch, InferenceBatches, TrainingBatches, as_loader
from kcv.data.dataset import Images
from kcv.inference import outputs

Features = NDArray[np.float32]
"""[images, features], often a file that is mapped into memory."""


class FeatureBatches(IterableDataset[Batch]):
    """The batches of a split, with frozen features [b, features] where the images were.

    Args:
        batches: what they stand for: order, targets and, where nothing is kept, images.
        forward: from images to features.
        views: kept features, of one augmented view of all images each; an epoch takes one view, in turn. None: the
            features of each batch are computed when it is its turn.
    """

    def __init__(
        self,
        batches: TrainingBatches | InferenceBatches,
        forward: outputs.Forward,
        views: Sequence[Features] | None,
    ) -> None:
        self._batches = batches
        self._forward = forward
        self._views = views
        self._epoch = self._start = 0

    @property
    def images(self) -> Images:
        """What the batches are made of."""
        return self._batches.images

    def __len__(self) -> int:
        """Returns the number of batches in one pass."""
        return len(self._batches)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Chooses the epoch and its first step (both from 0) that the next iteration gives."""
        self._epoch, self._start = epoch, start
        if isinstance(self._batches, TrainingBatches):
            self._batches.set_epoch(epoch, start)

    def seen(self, epoch: int) -> int:
        """Returns how many images of an epoch are this process's."""
        return self._batches.seen(epoch) if isinstance(self._batches, TrainingBatches) else len(self.images)

    def loader(self) -> DataLoader[Batch]:
        """Returns these batches as Keras' `fit` takes them."""
        return as_loader(self)

    def __iter__(self) -> Iterator[Any]:
        """Yields features and targets; None for a step before the start."""
        if self._views is None:
            for batch in self._batches:
                if batch is None:
                    yield None
                    continue
                with torch.no_grad():
                    features = self._forward(batch[0]).float()
                yield features, *batch[1:]
            return
        view = self._views[self._epoch % len(self._views)]
        for step, (places, targets) in enumerate(self._batches.without_images()):
            if step < self._start:
                yield None
            else:
                batch = torch.from_numpy(np.asarray(view[places])).to(targets.device), targets
                training = self._batches if isinstance(self._batches, TrainingBatches) else None
                yield training.weighed(self._epoch, step, batch) if training else batch
