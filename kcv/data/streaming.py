"""Images that do not fit in memory: worker processes decode and resize them, just ahead of their use.

Workers do nothing random and know no epoch: the parent hands them the positions of each batch, so what they send is the
same bit for bit as from memory, whatever their number.

They start from a fork server, not by fork. By now the parent has OpenMP threads, perhaps a CUDA context and a tracking
thread, and a forked child inherits locks that no thread of its own will ever release. The price is paid once, since
workers live as long as the object here: 2 s for the server's import of torch, and the main script must be importable
(`if __name__ == "__main__":`).
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
from kcv.data.order import Indices
from kcv.data.parquet.row_images import RowImages
from kcv.data.prefetch import prefetch
from kcv.data.workers import MOST_SILENCE, begin_pass, end_workers, leave_signals_to_parent, next_batch, worker_context
from kcv.errors import DataError, ImageError

PREFETCH = 2
"""Batches that each worker may be ahead."""


@dataclass(frozen=True)
class _Unreadable:
    """What a worker sends instead of a batch; an exception would arrive with the worker's traceback as its text."""

    message: str


Sent: TypeAlias = Indices | tuple[Sequence[str], Sequence[bytes]]
"""What a worker gets for a batch: positions in the split; or, of rows in Parquet files, which one process alone reads,
names and encoded images."""


class _Reader(TorchDataset[Any]):
    """What runs in a worker: positions or encoded images in, one batch of images out."""

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
    """The batches of the pass at hand, set by the parent before each pass."""

    count: int = 0
    items: Callable[[], Iterator[Sent]] = field(default=lambda: iter(()))

    def __iter__(self) -> Iterator[Sent]:
        return self.items()

    def __len__(self) -> int:
        return self.count


class StreamedPixels:
    """Batches of one split, decoded as they are needed.

    Args:
        images: a split whose `pixels` are None.
        device: where the batches are wanted.
        workers: processes that decode; 0 decodes in this one.
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
            # Left to the garbage collector, the queues may die before the workers hear that it is over, and their end
            # takes 5 s at an odd moment. A finalizer keeps the queues alive until then.
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
            # Else each pass draws its (unused) base seed from the global generator and so changes the run.
            generator=torch.Generator(),
        )

    def _next(self, batches: Iterator[Any]) -> Any:
        return self._told(lambda: next_batch(batches))

    def _told(self, work: Callable[[], Any]) -> Any:
        """Returns what the workers give; where they fail, they are of no more use."""
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
    batch = np.empty((len(indices), images.size, images.size, 3), dtype=np.uint8)
    for row, index in enumerate(indices):
        try:
            batch[row] = images.read(int(index))
        except (ImageError, OSError) as error:
            name, reason = images.names[int(index)], str(error)
            raise DataError(reason if name in reason else f"{name}: {reason}") from error
    return batch


def default_workers() -> int:
    """Returns the number of decoding processes of this one: all usable cores but one, at least 1."""
    return max(1, usable_cores() - 1)


def _fits_shared_memory(need: int) -> bool:
    """Whether tensors can pass through shared memory. A container often has 64 MB: beyond it a worker dies of SIGBUS.

    Arrays go through a pipe instead, at about 1 GB/s, which is still far faster than decoding.
    """
    try:
        status = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return True  # not Linux: shared memory is no file system of its own
    return 2 * need < status.f_bavail * status.f_frsize  # 2: training and validation have workers at the same time


def _as_it_is(batch: Any) -> Any:
    return batch
