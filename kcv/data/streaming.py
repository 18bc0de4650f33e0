"""Streams images that do not fit in memory: worker processes decode and resize them just before they are needed.

Workers do nothing random and do not know the epoch: the parent sends them the positions of each batch, so their batches
equal those from memory bit for bit, for any number of workers.

They start from a fork server, not by fork: by now the parent has OpenMP threads and perhaps a CUDA context and a
tracking thread, and a forked child would inherit locks that none of its threads will ever release. The cost is 2 s for
the server's import of torch, only once because the workers live as long as the object here, and the main script must be
importable (`if __name__ == "__main__":`).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from kcv.common.cores import usable_cores
from kcv.data.dataset import Images, Samples
from kcv.data.objects.images import ObjectImages
from kcv.data.order import Indices
from kcv.data.prefetch import prefetch
from kcv.data.row_images import RowImages
from kcv.data.workers import MOST_SILENCE, begin_pass, end_workers, leave_signals_to_parent, next_batch, worker_context
from kcv.errors import DataError, ImageError

PREFETCH = 2
"""The number of batches that each worker may be ahead."""


@dataclass(frozen=True)
class _Unreadable:
    """Sent by a worker instead of a batch; an exception would arrive with the worker's traceback as its message."""

    message: str


Sent: TypeAlias = Indices | tuple[Sequence[str], Sequence[bytes]]
"""What a worker receives per batch: positions in the split; or names and encoded images for rows of Parquet files,
which only the parent process reads."""


class _Reader(TorchDataset[Any]):
    """Runs in a worker: takes positions or encoded images and returns one batch of images."""

    def __init__(self, images: Images, as_array: bool) -> None:
        rows = isinstance(images.samples.images, RowImages)
        self._images = replace(images, samples=Samples([], images.labels[:0], [])) if rows else images
        self._as_array = as_array

    def __getitem__(self, sent: Sent) -> Tensor | NDArray[np.uint8] | _Unreadable:
        try:
            if isinstance(sent, tuple):
                names, encoded = sent
                labels = np.zeros(len(names), np.int64)
                images = replace(self._images, samples=Samples(encoded, labels, names))
                batch = read_batch(images, np.arange(len(names)))
            else:
                batch = read_batch(self._images, sent)
        except DataError as error:
            return _Unreadable(str(error))
        return batch if self._as_array else torch.from_numpy(batch)


@dataclass
class _Plan(Sampler[Sent]):
    """The batches of the current pass, set by the parent before each pass."""

    count: int = 0
    items: Callable[[], Iterator[Sent]] = field(default=lambda: iter(()))

    def __iter__(self) -> Iterator[Sent]:
        return self.items()

    def __len__(self) -> int:
        return self.count


class StreamedPixels:
    """Batches of one split, decoded when they are needed.

    Args:
        images: a split whose `pixels` are None.
        device: the device of the batches.
        workers: the number of decoding processes; 0 decodes in this one.
    """

    def __init__(self, images: Images, device: torch.device, workers: int) -> None:
        self._images = images
        self._device = device
        self._workers = workers
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = None
        self._end_workers: weakref.finalize[Any, Any] | None = None
        self._passes = 0

    def take(self, indices: Indices) -> Tensor:
        """Returns the images at `indices`, uint8 [b, size, size, 3] on the device, decoded in this process.

        Raises:
            DataError: an image cannot be read; the message names it.
        """
        return torch.from_numpy(read_batch(self._images, indices)).to(self._device)

    def stream(self, parts: Sequence[Indices]) -> Iterator[Tensor]:
        """Yields `take(part)` for each part, decoded ahead by the workers. One pass at a time.

        Raises:
            DataError: an image cannot be read, or a worker died.
        """
        rows = self._images.samples.images
        if self._workers == 0:
            if isinstance(rows, RowImages):
                reader = _Reader(self._images, as_array=False)
                yield from (self._accept(reader[sent]) for sent in self._sent(rows, parts))
            else:
                yield from map(self.take, parts)
            return
        self._passes += 1
        this_pass = self._passes
        self._plan.count = len(parts)
        self._plan.items = lambda: prefetch(self._sent(rows, parts)) if isinstance(rows, RowImages) else iter(parts)
        loader = self._loader = self._open(parts) if self._loader is None else self._loader
        batches: Any = self._told(lambda: begin_pass(loader))
        if self._end_workers is None:
            # The garbage collector may destroy the queues before the workers get the signal to stop; stopping them then
            # takes 5 s at an arbitrary moment. A finalizer keeps the queues alive until the workers have ended.
            self._end_workers = weakref.finalize(self, end_workers, batches)
        for _ in parts:
            if self._passes != this_pass:
                raise RuntimeError("a new pass over streamed images has begun; this one cannot go on")
            yield self._accept(self._next(batches))

    def _sent(self, rows: RowImages, parts: Sequence[Indices]) -> Iterator[Sent]:
        names = self._images.names
        for part, encoded in zip(parts, rows.batches(parts), strict=True):
            yield [names[int(index)] for index in part], encoded

    def close(self) -> None:
        """Ends the workers; a later pass starts new ones."""
        if self._end_workers is not None:
            self._end_workers()
        self._loader = self._end_workers = None

    def _open(self, parts: Sequence[Indices]) -> DataLoader[Any]:
        workers = min(self._workers, len(parts))
        batch_bytes = max(map(len, parts)) * self._images.size**2 * 3
        return DataLoader(
            _Reader(self._images, as_array=not _fits_shared_memory(workers * (PREFETCH + 1) * batch_bytes)),
            sampler=self._plan,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=self._device.type == "cuda",
            prefetch_factor=PREFETCH,
            persistent_workers=True,
            timeout=MOST_SILENCE,
            worker_init_fn=leave_signals_to_parent,
            multiprocessing_context=worker_context(__name__),
            # Otherwise each pass would draw its (unused) base seed from the global generator and so change the run.
            generator=torch.Generator(),
        )

    def _next(self, batches: Iterator[Any]) -> Any:
        return self._told(lambda: next_batch(batches))

    def _told(self, work: Callable[[], Any]) -> Any:
        """Returns the workers' result; closes them if they fail."""
        try:
            return work()
        except Exception:
            self.close()
            raise

    def _accept(self, batch: Any) -> Tensor:
        if isinstance(batch, _Unreadable):
            self.close()
            raise DataError(batch.message)
        return torch.as_tensor(batch).to(self._device, non_blocking=True)


def read_batch(images: Images, indices: Indices) -> NDArray[np.uint8]:
    """Decodes the images at `indices`.

    Returns:
        uint8 [b, size, size, 3].

    Raises:
        DataError: an image cannot be read; the message names it and the reason.
    """
    if images.pixels is None and isinstance(images.samples.images, ObjectImages):
        mine = images.samples.take(indices)
        images = replace(images, samples=replace(mine, images=images.samples.images.take(indices).ahead()))
        indices = np.arange(len(indices))
    batch = np.empty((len(indices), images.size, images.size, 3), dtype=np.uint8)
    for row, index in enumerate(indices):
        try:
            batch[row] = images.read(int(index))
        except (ImageError, OSError) as error:
            name, reason = images.names[int(index)], str(error)
            raise DataError(reason if name in reason else f"{name}: {reason}") from error
    return batch


def default_workers() -> int:
    """Returns the default number of decoding processes: all usable cores but one, at least 1."""
    return max(1, usable_cores() - 1)


def _fits_shared_memory(need: int) -> bool:
    """Returns whether tensors fit in shared memory. Containers often have 64 MB; beyond it a worker dies of SIGBUS.

    Otherwise, arrays go through a pipe at about 1 GB/s, which is still far faster than decoding.
    """
    try:
        status = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return True  # not Linux: shared memory has no file system of its own
    return 2 * need < status.f_bavail * status.f_frsize  # 2: training and validation have workers at the same time


def _as_it_is(batch: Any) -> Any:
    return batch
