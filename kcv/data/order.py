"""Which images come when: an epoch's order, cut into batches, and each batch into the parts of several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]
"""Positions in a split, int64 [n]."""

ORDER, STEP = 0, 1
"""Keep the random streams of an epoch's order and of its steps apart."""


@dataclass(frozen=True)
class ProcessShard:
    """The part of a common work that is this process's.

    Attributes:
        rank: the process's number, from 0.
        size: of how many.
    """

    rank: int = 0
    size: int = 1

    def bounds(self, count: int) -> tuple[int, int]:
        """Returns where this process's part of `count` things begins and ends; parts are nearly equal, in order."""
        return count * self.rank // self.size, count * (self.rank + 1) // self.size


@dataclass(frozen=True)
class BatchSlice:
    """This process's part of one batch.

    Attributes:
        indices: its images.
        begin: how many images of the batch come before, in other processes.
        total: images of the whole batch.
    """

    indices: Indices
    begin: int
    total: int


def shuffled(count: int, steps: int, seed: int, epoch: int, share: ProcessShard) -> list[BatchSlice]:
    """Returns an epoch in random order: one permutation, cut into `steps` nearly equal batches.

    The batches are the same whatever the number of processes.

    Args:
        count: images of the split.
        steps: batches of the epoch.
        seed: 0 or more.
        epoch: from 0.
        share: the process's.
    """
    permutation = np.random.default_rng((seed, epoch, ORDER)).permutation(count)
    return _parts(np.array_split(permutation, steps), share)


def window_shuffle(
    groups: Indices, steps: int, seed: int, epoch: int, share: ProcessShard, window: int
) -> list[BatchSlice]:
    """Returns an epoch in an order in which files can be read from beginning to end.

    Row groups come in random order, each process has its stretch of them, and within it no image moves by much more
    than a window: a reader that holds that many gives them all, reading once. The result depends on the number of
    processes.

    Args:
        groups: the row group of each image of the split, ascending; int64 [n].
        steps: batches of the epoch.
        seed: 0 or more.
        epoch: from 0.
        share: the process's.
        window: images, 1 or more; 1 leaves them in the order of their group.
    """
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    lengths = np.diff(starts, append=len(groups))
    drawn = np.random.default_rng((seed, epoch, ORDER)).permutation(len(starts))
    # Positions of the drawn groups one after the other, without a loop over them.
    offsets = np.repeat(starts[drawn] - np.cumsum(lengths[drawn]) + lengths[drawn], lengths[drawn])
    arrival = offsets + np.arange(len(groups))
    begin, end = share.bounds(len(groups))
    chance = np.random.default_rng((seed, epoch, ORDER, share.rank))
    own = arrival[begin:end]
    del offsets, arrival
    own = own[np.argsort(np.arange(end - begin) + chance.uniform(0, window, end - begin))]
    parts = np.array_split(own, steps)
    stretches = [ProcessShard(rank, share.size).bounds(len(groups)) for rank in range(share.size)]
    # As array_split cuts: the first ones have one more where it does not come out even.
    sizes = [[(last - first) // steps + (step < (last - first) % steps) for step in range(steps)]
             for first, last in stretches]  # fmt: skip
    return [
        BatchSlice(part, sum(size[step] for size in sizes[: share.rank]), sum(size[step] for size in sizes))
        for step, part in enumerate(parts)
    ]


def _parts(batches: Sequence[Indices], share: ProcessShard) -> list[BatchSlice]:
    parts = []
    for batch in batches:
        begin, end = share.bounds(len(batch))
        parts.append(BatchSlice(batch[begin:end], begin, len(batch)))
    return parts
