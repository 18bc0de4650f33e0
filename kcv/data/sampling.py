"""Sampling by class: an epoch in which images of rare classes are drawn more often, and those of common ones less."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kcv.data.dataset import Labels
from kcv.data.order import ORDER, BatchSlice, Indices, ProcessShard, parts_of

_CLASS = 2
"""Separates the random streams of the classes from the others of a seed, see `kcv.data.order`."""


def shares(counts: NDArray[np.int64], sampling: str) -> NDArray[np.float64]:
    """Returns the fraction of an epoch's images that each class has, float64 [classes]; they sum to 1.

    Args:
        counts: images of each class, int64 [classes]; classes without images stay without.
        sampling: `balanced` (equal fractions), `sqrt` (proportional to the square roots of the counts), or `none`.

    The square root is the middle between both (Mikolov et al. 2013, arXiv:1310.4546; Mahajan et al. 2018,
    arXiv:1805.00932, section 2.2): rare classes are repeated less often than with equal fractions.
    """
    exponent = {"none": 1.0, "sqrt": 0.5, "balanced": 0.0}[sampling]
    powers = np.where(counts > 0, np.maximum(counts, 1).astype(np.float64) ** exponent, 0.0)
    fractions: NDArray[np.float64] = powers / powers.sum()
    return fractions


def quotas(counts: NDArray[np.int64], sampling: str) -> NDArray[np.int64]:
    """Returns how many images of each class an epoch draws, int64 [classes]; in all as many as the split has.

    Fractions are rounded by largest remainders.
    """
    total = int(counts.sum())
    exact = shares(counts, sampling) * total
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole


def sampled(labels: Labels, sampling: str, steps: int, seed: int, epoch: int, share: ProcessShard) -> list[BatchSlice]:
    """Returns an epoch of as many images as the split has, drawn by class, divided into `steps` nearly equal batches.

    Each class goes through permutations of its images, one after the other and from epoch to epoch, so that none is
    drawn again before all others of its class were. The result is a function of the arguments alone; the batches do not
    depend on the number of processes.

    Args:
        labels: the classes of the split's images, int64 [n].
        sampling: `balanced` or `sqrt`, see `shares`.
        steps: the number of batches in the epoch.
        seed: 0 or more.
        epoch: counted from 0.
        share: the process's shard.
    """
    counts = np.bincount(labels).astype(np.int64)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    drawn = [
        own[_cycle(len(own), epoch * int(quota), int(quota), (seed, ORDER, _CLASS, position))]
        for position, (own, quota) in enumerate(zip(members, quotas(counts, sampling), strict=True))
    ]
    whole = np.concatenate(drawn)
    order = np.random.default_rng((seed, epoch, ORDER)).permutation(len(whole))
    return parts_of(np.array_split(whole[order], steps), share)


def _cycle(count: int, start: int, length: int, key: tuple[int, ...]) -> Indices:
    """Returns `length` entries from `start` on of an endless row of permutations of `count` positions, int64."""
    if length == 0:
        return np.zeros(0, np.int64)
    first, last = start // count, (start + length - 1) // count
    row = np.concatenate([np.random.default_rng((*key, cycle)).permutation(count) for cycle in range(first, last + 1)])
    begin = start - first * count
    return row[begin : begin + length].astype(np.int64)
