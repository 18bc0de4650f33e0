"""Batches of images for training and for inference, as tensors on the device.

A small data set stays on the device as one uint8 tensor, and a batch is one `index_select` from it; a large one streams
from disk (`kcv.data.streaming`). Both give the same batches bit for bit.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kcv.config import AugmentConfig
from kcv.data.augment.keras_layers import KerasPipeline
from kcv.data.augment.pipeline import Augment
from kcv.data.augment.rng import BatchRng
from kcv.data.augment.tf_pipeline import Pipeline, Plain
from kcv.data.dataset import Images
from kcv.data.order import STEP, BatchSlice, Indices, ProcessShard, shuffled, window_shuffle
from kcv.data.row_images import RowImages
from kcv.data.sampling import sampled
from kcv.data.streaming import StreamedPixels, default_workers
from kcv.errors import ConfigError, DataError

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images [b, size, size, 3], uint8 or float32 in 0 to 255, and targets, float32 [b, classes]; both on the device."""


_PIPELINES: Mapping[str, type[Pipeline | KerasPipeline]] = {"keras_cv": Pipeline, "keras": KerasPipeline}
"""What runs the layers of other libraries, by `augment.library`."""


class SplitBatches(IterableDataset[Batch]):
    """The common base of training and inference batches: images on the device, and a loader for Keras.

    Attributes:
        images: the images that the batches are made of.
    """

    def __init__(
        self, images: Images, num_classes: int, batch_size: int, device: torch.device | str, workers: int | None
    ) -> None:
        if not len(images):
            raise DataError("there are no images to make batches of")
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size}: use 1 or more")
        self.images = images
        self._device = torch.device(device)
        self._num_classes = num_classes
        self._steps = -(-len(images) // batch_size)
        self._labels = torch.from_numpy(images.labels.copy()).to(self._device)
        self._pixels: InMemoryImages | StreamedPixels
        if images.pixels is None:
            workers = default_workers() if workers is None else workers
            self._pixels = StreamedPixels(images, self._device, workers)
        else:
            self._pixels = InMemoryImages(images.pixels, self._device)

    def __len__(self) -> int:
        """Returns the number of batches in one pass over the images."""
        return self._steps

    def loader(self) -> DataLoader[Batch]:
        """Returns these batches as a loader for Keras' `fit(..., shuffle=False)` and `evaluate`."""
        return as_loader(self)

    def close(self) -> None:
        """Ends the worker processes of streamed images, if any."""
        self._pixels.close()

    def _images(self, parts: Sequence[Indices], places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the images of each part; `places` holds the same positions on the device."""
        if isinstance(self._pixels, StreamedPixels):
            return self._pixels.stream(parts) if parts else iter(())
        return map(self._pixels.take, places)

    def _targets(self, indices: Tensor, smoothing: float) -> Tensor:
        """Returns one-hot float32 [b, classes], with `smoothing` of each image's weight spread over all classes."""
        rest = smoothing / self._num_classes
        targets = torch.full((len(indices), self._num_classes), rest, device=self._device)
        return targets.scatter_(1, self._labels[indices][:, None], 1.0 - smoothing + rest)


class TrainingBatches(SplitBatches):
    """A training split in random order, augmented, with smoothed labels.

    An epoch is one seeded permutation divided into `len(self)` nearly equal parts: each image occurs exactly once, and
    no tiny last batch disturbs the batch statistics. With `sampling`, an epoch is drawn by class instead and is as
    long (`kcv.data.sampling`): some images occur several times, and others not at all. On a given kind of device, all
    randomness in a batch follows from (seed, epoch, step) and never from the global generators, so that a resumed run
    gets the batches that an uninterrupted one would get.

    Each of several processes gets its shard of every batch, and together they see what a single process would see: the
    same images with the same augmentation. There are two exceptions: mixup and CutMix find partners within the shard,
    and layers of Keras and keras-cv draw separately for each shard.

    Iteration repeats the epoch that was last set (initially 0): call `set_epoch` when an epoch begins, e.g.
    `keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.set_epoch(epoch))`.

    Args:
        images: the training split.
        num_classes: width of the targets.
        batch_size: the maximum number of images per batch, over all processes.
        augment: the augmentation.
        label_smoothing: fraction of each target that is spread evenly over all classes, 0 to 1.
        seed: seed of order and augmentation, 0 or more.
        device: the device of the batches.
        workers: processes that decode streamed images; None for all cores but one. Unused for images in memory.
        share: the process's shard of each batch.
        shuffle_buffer: bytes of encoded images that are held and shuffled if they come from Parquet files too large
            for memory; those are read sequentially, with their row groups in random order.
        sampling: `none`, `balanced` or `sqrt`: how often images of each class are drawn.

    Raises:
        DataError: there are no images, or a batch has fewer images than there are processes.
        ConfigError: an augmentation does not fit the images' size, or needs an extra that is not installed; or images
            that are read sequentially should be drawn by class.
    """

    def __init__(
        self,
        images: Images,
        *,
        num_classes: int,
        batch_size: int,
        augment: AugmentConfig | None = None,
        label_smoothing: float = 0.0,
        seed: int,
        device: torch.device | str,
        workers: int | None = None,
        share: ProcessShard | None = None,
        shuffle_buffer: int = 2**28,
        sampling: str = "none",
    ) -> None:
        if sampling != "none" and images.by_row_group:
            raise ConfigError(
                [
                    f"data.sampling: received {sampling!r}, allowed: none, because the images stay in Parquet files "
                    "that are read from beginning to end; use data.class_weights, or a larger data.memory_budget_mb."
                ]
            )
        super().__init__(images, num_classes, batch_size, device, workers)
        self._sampling = sampling
        self._shuffle_buffer = shuffle_buffer
        self._share = share or ProcessShard()
        if len(images) // self._steps < self._share.size:
            raise DataError(
                f"batches of {len(images) // self._steps} of {len(images)} images cannot be shared by "
                f"{self._share.size} processes: use a larger batch_size, or fewer processes"
            )
        augment = augment or AugmentConfig()
        self._augment = Augment(augment, image_size=images.size, seed=seed)
        pipeline = _PIPELINES.get(augment.library)
        self._pipeline = None if pipeline is None else pipeline(augment.layers, images.size, num_classes, self._device)
        self._smoothing = label_smoothing
        self._seed = seed
        self._epoch = self._start = 0
        self._end: int | None = None
        self._parts: tuple[int, list[BatchSlice]] = (-1, [])
        self._places: tuple[int, tuple[Tensor, ...]] = (-1, ())

    def set_epoch(self, epoch: int, start: int = 0, end: int | None = None) -> None:
        """Sets the epoch of the next iteration; an iteration in progress keeps its own epoch.

        Args:
            epoch: counted from 0.
            start: the first step to make; the iteration yields None for each step before it.
            end: one past the last step to make; None for all remaining steps.
        """
        self._epoch, self._start, self._end = epoch, start, end

    def batch(self, epoch: int, step: int) -> Batch:
        """Returns one batch without making those before it; streamed images are decoded in this process.

        Raises:
            IndexError: `step` is not in [0, len(self)).
            DataError: an image cannot be read.
        """
        if not 0 <= step < len(self):
            raise IndexError(f"step={step}: an epoch has steps 0 to {len(self) - 1}")
        return self._finish(epoch, step, self._pixels.take(self.order(epoch)[step].indices))

    def order(self, epoch: int) -> list[BatchSlice]:
        """Returns this process's slice of each batch.

        Over all processes, slices form a permutation of the split, unless they are sampled by class.
        """
        if self._parts[0] != epoch:
            self._parts = (epoch, self._order(epoch))
        return self._parts[1]

    def _order(self, epoch: int) -> list[BatchSlice]:
        rows = self.images.samples.images
        if self._sampling != "none":
            return sampled(self.images.labels, self._sampling, self._steps, self._seed, epoch, self._share)
        if self.images.pixels is not None or not isinstance(rows, RowImages):
            return shuffled(len(self._labels), self._steps, self._seed, epoch, self._share)
        window = max(1, int(self._shuffle_buffer / rows.mean_bytes))
        return window_shuffle(rows.groups.of(rows.rows), self._steps, self._seed, epoch, self._share, window)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches of the epoch that is set when iteration starts; None for steps before the start step.

        With several processes, each batch has a third item, its weight: see `weighed`.
        """
        epoch, start, end = self._epoch, self._start, self._end
        yield from itertools.repeat(None, start)
        parts, places = self.order(epoch)[start:end], self._order_on_device(epoch)[start:end]
        images = enumerate(self._images([part.indices for part in parts], places), start)
        changed: Iterator[Batch] = (self._finish(epoch, step, taken) for step, taken in images)
        if self._pipeline is not None:  # another thread pulls from it, which must not read what `set_epoch` changes
            plain = (self._plain(epoch, i, taken, parts[i - start], places[i - start]) for i, taken in images)
            changed = self._pipeline.stream(plain)
        for step, batch in enumerate(changed, start):
            yield self.weighed(epoch, step, batch)

    def weighed(self, epoch: int, step: int, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Returns a batch; with several processes, followed by its weight.

        The weight is the number of images in this slice divided by the mean over the processes, a float32 scalar on
        the host.
        """
        if self._share.size == 1:
            return batch
        part = self.order(epoch)[step]
        return *batch, torch.tensor(len(part.indices) * self._share.size / part.total)

    def seen(self, epoch: int) -> int:
        """Returns the number of images that this process sees in an epoch."""
        return sum(len(part.indices) for part in self.order(epoch))

    def shared(self, share: ProcessShard) -> TrainingBatches:
        """Returns batches of each image once, for another shard; only one of the two may be iterated at a time."""
        other = copy.copy(self)
        other._share, other._parts, other._places, other._sampling = share, (-1, []), (-1, ()), "none"
        return other

    def unmixed(self) -> TrainingBatches:
        """Returns the same batches without mixup and CutMix; only one of the two may be iterated at a time."""
        other = copy.copy(self)
        other._augment = self._augment.unmixed()
        return other

    def without_images(self) -> Iterator[tuple[Indices, Tensor]]:
        """Yields the positions in the split and the targets of each batch of the current epoch."""
        for part, where in zip(self.order(self._epoch), self._order_on_device(self._epoch), strict=True):
            yield part.indices, self._targets(where, self._smoothing)

    def _order_on_device(self, epoch: int) -> tuple[Tensor, ...]:
        """Returns `order(epoch)` as tensors: one copy per epoch, because each copy makes the host wait."""
        if self._places[0] != epoch:
            parts = [part.indices for part in self.order(epoch)]
            whole = torch.from_numpy(np.concatenate(parts)).to(self._device)
            self._places = (epoch, torch.split(whole, [len(part) for part in parts]))
        return self._places[1]

    def _step_seed(self, epoch: int, step: int) -> int:
        state = np.random.SeedSequence((self._seed, epoch, STEP, step)).generate_state(1, np.uint64)[0]
        return int(state >> np.uint64(1))

    def _plain(self, epoch: int, step: int, images: Tensor, part: BatchSlice, where: Tensor) -> Plain:
        return (self._step_seed(epoch, step), part.begin), images, self._targets(where, self._smoothing)

    def _finish(self, epoch: int, step: int, images: Tensor) -> Batch:
        where, part = self._order_on_device(epoch)[step], self.order(epoch)[step]
        if self._pipeline is not None:
            return self._pipeline(self._plain(epoch, step, images, part, where))
        generator = torch.Generator(self._device).manual_seed(self._step_seed(epoch, step))
        targets = self._targets(where, self._smoothing)
        chance = BatchRng(generator, len(images), part.begin, part.total)
        return self._augment(images, targets, chance=chance, indices=where, epoch=epoch, places=part.indices)


Item = TypeVar("Item")


def as_loader(batches: IterableDataset[Item]) -> DataLoader[Item]:
    """Returns a loader of finished batches for Keras' `fit(..., shuffle=False)` and `evaluate`.

    The loader passes them on unchanged, in this process. A pass starts work only when its first batch is requested,
    because Keras creates an iterator at the end of each epoch and discards it.
    """
    # With its own generator, a pass does not draw a number from the global one.
    return DataLoader(batches, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())


def _as_it_is(batch: Any) -> Any:
    return batch


class InferenceBatches(SplitBatches):
    """A split in its own order, unchanged, with plain one-hot targets.

    Args:
        images: any split.
        batch_size: the maximum number of images per batch; all batches are nearly equal in size.
        device: the device of the batches.
        workers: as for `TrainingBatches`.
        num_classes: width of the targets.
        share: the process's shard of the batches. The batches do not depend on it; the processes together yield each
            batch once.

    Raises:
        DataError: there are no images.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        device: torch.device | str,
        num_classes: int,
        workers: int | None = None,
        share: ProcessShard | None = None,
    ) -> None:
        super().__init__(images, num_classes, batch_size, device, workers)
        begin, end = (share or ProcessShard()).bounds(self._steps)
        parts = np.array_split(np.arange(len(images)), self._steps)
        places = torch.split(torch.arange(len(images), device=self._device), [len(part) for part in parts])
        self._parts, self._places = parts[begin:end], places[begin:end]
        self._steps = end - begin

    def __iter__(self) -> Iterator[Batch]:
        """Yields the images from first to last."""
        for where, images in zip(self._places, self._images(self._parts, self._places), strict=True):
            yield images, self._targets(where, 0.0)

    def without_images(self) -> Iterator[tuple[Indices, Tensor]]:
        """Yields the positions in the split and the targets of each batch."""
        for part, where in zip(self._parts, self._places, strict=True):
            yield part, self._targets(where, 0.0)


class InMemoryImages:
    """Batches of one split that is stored on the device.

    Args:
        pixels: uint8 [n, size, size, 3].
        device: the device to store them on; on the CPU they are shared, not copied.
    """

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        # torch warns about read-only arrays; a copy avoids the warning.
        self._pixels = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).to(device)

    def take(self, indices: Indices | Tensor) -> Tensor:
        """Returns a copy of the images at `indices` (if a tensor, on the device), uint8 [b, size, size, 3]."""
        if not isinstance(indices, Tensor):
            indices = torch.from_numpy(indices).to(self._pixels.device)
        return self._pixels.index_select(0, indices)

    def close(self) -> None:
        """Does nothing, because nothing is open."""
