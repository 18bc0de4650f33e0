"""A cost model of a training step of several processes: compute, all-reduce and input.

Gradients are averaged by a ring all-reduce, in the buckets of DistributedDataParallel, during the backward pass (Li et
al. 2020, "PyTorch Distributed", VLDB 13, section 3.2); a ring of n moves 2 (n - 1) / n of the bytes over every link,
in 2 (n - 1) messages (Patarasuk & Yuan 2009, J. Parallel Distrib. Comput. 69). docs/scaling.md compares it with
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BACKWARD = 2 / 3
"""Fraction of a step's computation in the backward pass, which has two products for each one of the forward pass."""

_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20  # bytes; DistributedDataParallel's defaults


@dataclass(frozen=True)
class Link:
    """The connection between neighbours in the ring.

    Attributes:
        latency: seconds per message without content.
        bandwidth: bytes/s.
        apart: whether transfers leave the processes' cores free, so that computation continues meanwhile. Over the
            loopback of a machine whose cores are all busy they do not.
        tree: whether the library also has tree algorithms (NCCL) and uses the faster of the two: far fewer sequential
            messages at the same bandwidth (Sanders, Speck & Traff 2009, Parallel Computing 35).
    """

    latency: float
    bandwidth: float
    apart: bool = True
    tree: bool = False


@dataclass(frozen=True)
class Work:
    """The work of one process per step.

    Attributes:
        compute: seconds for its part of the batch when it runs alone.
        gradient_bytes: bytes of the gradients of all trained parameters.
        statistics_bytes: bytes of the moving statistics that are averaged during the backward pass.
        images: number of images in its part.
    """

    compute: float
    gradient_bytes: int
    statistics_bytes: int
    images: int


@dataclass(frozen=True)
class Step:
    """The model's prediction for one step.

    Attributes:
        seconds: duration of the whole step.
        all_reduce: seconds of averaging, overlapped or not.
        exposed: seconds of averaging that are not overlapped.
    """

    seconds: float
    all_reduce: float
    exposed: float

    @property
    def share(self) -> float:
        """The fraction of the step (0-1) spent waiting for others."""
        return self.exposed / self.seconds


def all_reduce_seconds(size: float, processes: int, link: Link) -> float:
    """Returns the duration of summing `size` bytes over all processes."""
    if processes == 1:
        return 0.0
    ring = 2 * (processes - 1) * (link.latency + size / processes / link.bandwidth)
    tree = 2 * math.ceil(math.log2(processes)) * link.latency + 2 * size / link.bandwidth
    return min(ring, tree) if link.tree else ring


def step_seconds(work: Work, processes: int, link: Link, *, input_rate: float | None = None) -> Step:
    """Returns the predicted duration of a step.

    Args:
        work: the work of each process.
        processes: number of processes.
        link: the link between neighbours.
        input_rate: images/s available to each process; None: it never waits for images.
    """
    sizes = buckets(work.gradient_bytes)
    times = [all_reduce_seconds(size, processes, link) for size in sizes]
    # Before each step the hosts agree on one number; statistics are sent along with the first buckets.
    agreement = all_reduce_seconds(8, processes, link)
    statistics = all_reduce_seconds(work.statistics_bytes, processes, link) if work.statistics_bytes else 0.0
    total = sum(times) + statistics
    # The last bucket is complete only when the backward pass has ended.
    room = BACKWARD * work.compute if link.apart else 0.0
    exposed = total - min(total - times[-1], room) + agreement if processes > 1 else 0.0
    compute = work.compute if input_rate is None else max(work.compute, work.images / input_rate)
    return Step(compute + exposed, total + agreement, exposed)


def buckets(size: int) -> list[int]:
    """Returns the sizes in bytes of the buckets in which DistributedDataParallel sends `size` bytes of gradients."""
    sizes = [min(size, _FIRST_BUCKET)]
    while (rest := size - sum(sizes)) > 0:
        sizes.append(min(rest, _BUCKET))
    return sizes


def fitted_link(sizes: Sequence[int], seconds: Sequence[float], processes: int, *, apart: bool) -> Link:
    """Returns the link that fits measured all-reduces best, with relative errors.

    Args:
        sizes: bytes per all-reduce, at least two different values.
        seconds: duration of each.
        processes: number of processes that took part.
        apart: see `Link`.
    """
    messages = 2 * (processes - 1)
    terms = np.array([[messages, messages * size / processes] for size in sizes])
    weights = 1 / np.asarray(seconds)
    (latency, per_byte), *_ = np.linalg.lstsq(terms * weights[:, None], np.ones(len(seconds)), rcond=None)
    return Link(max(float(latency), 1e-9), 1 / max(float(per_byte), 1e-15), apart)
