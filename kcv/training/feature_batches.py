"""Batches of frozen features that replace batches of images."""

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
"""float32 [images, features], often a memory-mapped file."""


class FeatureBatches(IterableDataset[Batch]):
    """The batches of a split, with frozen features [b, features] in place of the images.

    Args:
        batches: the batches to replace; they provide order, targets and, if no features are stored, images.
        forward: computes features from images.
        views: stored features, each for one augmented view of all images; epochs cycle through the views. None: the
                features of each batch are computed on demand.
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
        """The images behind the features."""
        return self._batches.images

    def __len__(self) -> int:
        """Returns the number of batches per pass."""
        return len(self._batches)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Selects the epoch and its first step (both from 0) for the next iteration."""
        self._epoch, self._start = epoch, start
        if isinstance(self._batches, TrainingBatches):
            self._batches.set_epoch(epoch, start)

    def seen(self, epoch: int) -> int:
        """Returns how many images of an epoch this process sees."""
        return self._batches.seen(epoch) if isinstance(self._batches, TrainingBatches) else len(self.images)

    def loader(self) -> DataLoader[Batch]:
        """Returns a data loader over these batches for Keras' `fit`."""
        return as_loader(self)

    def __iter__(self) -> Iterator[Any]:
        """Yields features and targets; None for steps before the start."""
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
