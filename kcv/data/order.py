"""The order of an epoch: divides the images into batches, and each batch into slices for several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]
"""Positions in a split, int64 [n]."""

ORDER, STEP = 0, 1
"""Separate the random streams of an epoch's order and of its steps."""


@dataclass(frozen=True)
class ProcessShard:
    """This process's shard of the work.

    Attributes:
        rank: the rank of the process, from 0.
        size: the number of processes (world size).
    """

    rank: int = 0
    size: int = 1

    def bounds(self, count: int) -> tuple[int, int]:
        """Returns the begin and end of this process's shard of `count` items; shards are nearly equal and in order."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size


@dataclass(frozen=True)
class BatchSlice:
    """This process's slice of one batch.

    Attributes:
        indices: the positions of its images in the split.
        begin: the number of images of the batch in the processes before this one.
        total: the number of images in the whole batch.
    """

    indices: Indices
    begin: int
    total: int


def shuffled(count: int, steps: int, seed: int, epoch: int, share: ProcessShard) -> list[BatchSlice]:
    """Returns an epoch in random order: one permutation, divided into `steps` nearly equal batches.

    The batches do not depend on the number of processes.

    Args:
        count: the number of images in the split.
        steps: the number of batches in the epoch.
        seed: 0 or more.
        epoch: counted from 0.
        share: the process's shard.
    """
    permutation = np.random.default_rng((seed, epoch, ORDER)).permutation(count)
    return parts_of(np.array_split(permutation, steps), share)


def window_shuffle(
    groups: Indices, steps: int, seed: int, epoch: int, share: ProcessShard, window: int
) -> list[BatchSlice]:
    """Returns an epoch in an order in which files can be read sequentially.

    Row groups are in random order, and each process has a contiguous range of them. Within the range, no image moves by
    much more than a window, so a reader that holds that many images reads each row group only once. The result depends
    on the number of processes.

    Args:
        groups: the row group of each image of the split, ascending; int64 [n].
        steps: the number of batches in the epoch.
        seed: 0 or more.
        epoch: counted from 0.
        share: the process's shard.
        window: in images, 1 or more; 1 keeps the order within a group.
    """
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(starts, append=len(groups))
    drawn = np.random.default_rng((seed, epoch, ORDER)).permutation(len(starts))
    # Concatenated positions of the drawn groups, without a loop over them.
    offsets = np.repeat(starts[drawn] - np.cumsum(lengths[drawn]) + lengths[drawn], lengths[drawn])
    arrival = offsets + np.arange(len(groups))
    begin, end = share.bounds(len(groups))
    chance = np.random.default_rng((seed, epoch, ORDER, share.rank))
    own = arrival[begin:end]
    del offsets, arrival
    own = own[np.argsort(np.arange(end - begin) + chance.uniform(0, window, end - begin))]
    parts = np.array_split(own, steps)
    stretches = [ProcessShard(rank, share.size).bounds(len(groups)) for rank in range(share.size)]
    # Like array_split: the first parts have one more if the division has a remainder.
    sizes = [[(last - first) // steps + (step < (last - first) % steps) for step in range(steps)]
             for first, last in stretches]  # fmt: skip
    return [
        BatchSlice(part, sum(size[step] for size in sizes[: share.rank]), sum(size[step] for size in sizes))
        for step, part in enumerate(parts)
    ]


def parts_of(batches: Sequence[Indices], share: ProcessShard) -> list[BatchSlice]:
    """Returns this process's slice of each batch."""
    parts = []
    for batch in batches:
        begin, end = share.bounds(len(batch))
        parts.append(BatchSlice(batch[begin:end], begin, len(batch)))
    return parts
